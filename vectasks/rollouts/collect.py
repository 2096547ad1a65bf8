"""Collect on-policy rollouts: observe, act, and let the workers write the results."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from vectasks._util.checks import is_whole_number, real_number
from vectasks.errors import InvalidArgument
from vectasks.rollouts.buffer import RolloutBuffer
from vectasks.rollouts.devices import without_gradients
from vectasks.rollouts.policy import Policy, asking
from vectasks.vector.port import port_of

if TYPE_CHECKING:
    from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks


class EpisodeEnd(NamedTuple):
    """An episode that ended while a rollout was collected.

    Attributes:
        step: the row of its last step in the buffer.
        sampler: the sampler's id.
        info: as ``step`` gives it, with the metrics and the final observation.
    """

    step: int
    sampler: int
    info: dict[str, Any]


def collect(
    tasks: VectorSampledTasks | SingleProcessVectorSampledTasks,
    policy: Policy,
    buffer: RolloutBuffer,
    *,
    num_splits: int = 1,
    ready_first: bool = False,
    min_batch: int | None = None,
    max_wait_s: float | None = None,
) -> list[EpisodeEnd]:
    """Step all samplers ``buffer.horizon`` times, and fill the buffer with the results.

    The next rollout goes on where this one ended. If anything else stepped or changed the tasks in
    between, it goes on from what they show now, and every sampler counts as starting an episode.

    With ``num_splits`` groups the workers step the others while the policy looks at one. What is
    in the buffer at last is the same, if the policy treats each sampler by itself. Each worker has
    samplers of every group, so what the policy sees of one are every ``num_splits``-th column:
    views [n_group, ...] with gaps between their rows. Code that needs contiguous memory copies
    them; none is copied here but by mirrors on a device.

    With ``ready_first`` nobody waits for the slowest: every sampler fills its own column at its own
    pace, and the policy is asked for whichever samplers are ready. What is in a column is what that
    sampler alone would have given. A sampler whose column is full waits for the others, so that
    all of a rollout is of one policy.

    Args:
        tasks: the vector. While its policy is asked, steps are out with more than one group.
        policy: is asked for the actions of all samplers at once, or of one group.
        buffer: is filled.
        num_splits: so many groups take turns.
        ready_first: ask the policy for whichever samplers are ready.
        min_batch: ask it only once so many are ready, or all that still have steps to take (None:
            half of those that are out).
        max_wait_s: but wait no longer than so many seconds for them (None: as long as it takes).

    Returns:
        the episodes that ended: by step, those of one step by sampler.

    Raises:
        InvalidArgument: the buffer was made for another vector, ``num_splits`` or ``min_batch`` is
            not from 1 to the number of samplers, or the policy gave something of another shape than
            before.
        SamplerUnavailable: a sampler is paused, exhausted or failed.
        WaitTimeout: samplers are late; ``wait_step`` collects all steps that are out.
        TaskError, LayoutError, WorkerDied: a step failed. After these, and after whatever the
            policy raises, no step is out: those of other groups were waited for and dropped. (One
            that takes longer than ``read_timeout`` stays out, for ``wait_step``; the log says so.)
    """
    count = buffer.num_samplers
    if not is_whole_number(num_splits) or not 1 <= num_splits <= count:
        raise InvalidArgument(
            f"collect: num_splits must be an integer from 1 to {count}, the number of samplers, "
            f"got {num_splits!r}. Nothing was sent."
        )
    num_splits = int(num_splits)
    if ready_first and num_splits > 1:
        raise InvalidArgument(
            "collect: ready_first and num_splits cannot go together: with ready_first workers step "
            "while the policy is asked in any case. Nothing was sent."
        )
    if not ready_first and (min_batch is not None or max_wait_s is not None):
        raise InvalidArgument(
            "collect: min_batch and max_wait_s say when the policy is asked for whichever samplers "
            "are ready; give ready_first=True with them. Nothing was sent."
        )
    if min_batch is not None and (not is_whole_number(min_batch) or not 1 <= min_batch <= count):
        raise InvalidArgument(
            f"collect: min_batch must be an integer from 1 to {count}, the number of samplers, "
            f"got {min_batch!r}. Nothing was sent."
        )
    if max_wait_s is not None:
        max_wait_s = real_number("collect: max_wait_s", max_wait_s)
    with without_gradients(buffer.device):
        buffer._begin(tasks)
        if ready_first:
            ends = _ready_first(tasks, policy, buffer, min_batch, max_wait_s)
        else:
            step_all = _in_lockstep if num_splits == 1 else _in_turns
            ends = step_all(tasks, policy, buffer, num_splits)
        buffer._end(tasks, policy)
    return ends


def _in_lockstep(tasks: Any, policy: Policy, buffer: RolloutBuffer, _: int) -> list[EpisodeEnd]:
    ends: list[EpisodeEnd] = []
    port, ask = port_of(tasks), asking(policy)
    every_id = range(buffer.num_samplers)
    for t in range(buffer.horizon):
        action = buffer._keep(t, ask(buffer._inputs(t), every_id))
        infos = port.step_into(action, buffer._rows, t + 1)
        ends += [EpisodeEnd(t, i, infos[i]) for i in buffer._finish_step(t, infos)]
    return ends


def _in_turns(
    tasks: Any, policy: Policy, buffer: RolloutBuffer, num_splits: int
) -> list[EpisodeEnd]:
    """Step the groups in turns: one group's step runs while the policy acts for the others."""
    # A worker's samplers are neighbours: dealt out in turn, each group has some of every worker.
    all_columns = [slice(first, None, num_splits) for first in range(num_splits)]
    groups = [(list(range(buffer.num_samplers)[columns]), columns) for columns in all_columns]
    rollout_rows, port, ask = buffer._rows, port_of(tasks), asking(policy)
    ends: list[EpisodeEnd] = []

    def finish(t: int, ids: list[int], columns: slice) -> None:
        infos = port.recv_into(ids, rollout_rows, t + 1)
        ends.extend(EpisodeEnd(t, i, infos[i]) for i in buffer._finish_step(t, infos, columns))

    try:
        for t in range(buffer.horizon):
            for ids, columns in groups:
                if t > 0:
                    finish(t - 1, ids, columns)
                action = buffer._keep(t, ask(buffer._inputs(t, columns), ids), columns)
                port.send_into(ids, action, rollout_rows, t + 1)
        for group in groups:
            finish(buffer.horizon - 1, *group)
    except BaseException as error:
        port.drop_steps(error)
        raise
    return sorted(ends, key=lambda end: end[:2])


def _ready_first(
    tasks: Any,
    policy: Policy,
    buffer: RolloutBuffer,
    min_batch: int | None,
    max_wait_s: float | None,
) -> list[EpisodeEnd]:
    """Step whichever samplers are ready, each into its own row, until every column is full."""
    rollout_rows, port, ask = buffer._rows, port_of(tasks), asking(policy)
    steps = [0] * buffer.num_samplers  # that are in each column
    ready = list(range(buffer.num_samplers))
    out: set[int] = set()
    ends: list[EpisodeEnd] = []

    def send() -> None:
        """Ask the policy for those that are ready, and send its actions."""
        rows = [steps[i] for i in ready]
        action = buffer._keep(rows, ask(buffer._inputs(rows, ready), ready), ready)
        positions: dict[int, list[int]] = defaultdict(list)
        for position, row in enumerate(rows):
            positions[row].append(position)
        for row, chosen in positions.items():
            ids = [ready[k] for k in chosen]
            port.send_each_into(ids, action[chosen], rollout_rows, row + 1, is_first=not out)
            out.update(ids)
        ready.clear()

    def receive(count: int, wait_s: float | None) -> None:
        """Wait for so many of those that are out, no longer than it is said."""
        came: dict[int, list[int]] = defaultdict(list)
        for i in port.ready_first(count, wait_s):
            came[steps[i]].append(i)
        for t, ids in came.items():
            infos = port.recv_into(ids, rollout_rows, t + 1)
            ends.extend(EpisodeEnd(t, i, infos[i]) for i in buffer._finish_step(t, infos, ids))
            out.difference_update(ids)
            for i in ids:
                steps[i] += 1
                if steps[i] < buffer.horizon:
                    ready.append(i)

    try:
        while ready or out:
            if ready:
                send()
            least = (len(out) + 1) // 2 if min_batch is None else min(min_batch, len(out))
            receive(1, None)
            deadline_s = None if max_wait_s is None else time.monotonic() + max_wait_s
            while out and len(ready) < least:
                wait_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
                receive(min(least - len(ready), len(out)), wait_s)
                if wait_s == 0.0:
                    break
            ready.sort()
    except BaseException as error:
        port.drop_steps(error)
        raise
    return sorted(ends, key=lambda end: end[:2])
