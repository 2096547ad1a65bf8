"""Collect on-policy rollouts: observe, act, and let the workers write the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vectasks._util.checks import is_whole_number
from vectasks.errors import InvalidArgument
from vectasks.rollouts.buffer import RolloutBuffer
from vectasks.rollouts.devices import without_gradients
from vectasks.rollouts.policy import Policy
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
) -> list[EpisodeEnd]:
    """Step all samplers ``buffer.horizon`` times, and fill the buffer with the results.

    The next rollout goes on where this one ended. If anything else stepped or changed the tasks in
    between, it goes on from what they show now, and every sampler counts as starting an episode.

    With ``num_splits`` groups the workers step the others while the policy looks at one. What is
    in the buffer at last is the same, if the policy treats each sampler by itself. Each worker has
    samplers of every group, so what the policy sees of one are every ``num_splits``-th column:
    views [n_group, ...] with gaps between their rows. Code that needs contiguous memory copies
    them; none is copied here but by mirrors on a device.

    Args:
        tasks: the vector. While its policy is asked, steps are out with more than one group.
        policy: is asked for the actions of all samplers at once, or of one group.
        buffer: is filled.
        num_splits: so many groups take turns.

    Returns:
        the episodes that ended: by step, those of one step by sampler.

    Raises:
        InvalidArgument: the buffer was made for another vector, ``num_splits`` is not from 1 to the
            number of samplers, or the policy gave something of another shape than before.
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
    with without_gradients(buffer.device):
        buffer._begin(tasks)
        step_all = _in_lockstep if num_splits == 1 else _in_turns
        ends = step_all(tasks, policy, buffer, num_splits)
        buffer._end(tasks, policy)
    return ends


def _in_lockstep(tasks: Any, policy: Policy, buffer: RolloutBuffer, _: int) -> list[EpisodeEnd]:
    ends: list[EpisodeEnd] = []
    port = port_of(tasks)
    for t in range(buffer.horizon):
        action = buffer._keep(t, policy(*buffer._inputs(t)))
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
    rollout_rows, port = buffer._rows, port_of(tasks)
    ends: list[EpisodeEnd] = []

    def finish(t: int, ids: list[int], columns: slice) -> None:
        infos = port.recv_into(ids, rollout_rows, t + 1)
        ends.extend(EpisodeEnd(t, i, infos[i]) for i in buffer._finish_step(t, infos, columns))

    try:
        for t in range(buffer.horizon):
            for ids, columns in groups:
                if t > 0:
                    finish(t - 1, ids, columns)
                action = buffer._keep(t, policy(*buffer._inputs(t, columns)), columns)
                port.send_into(ids, action, rollout_rows, t + 1)
        for group in groups:
            finish(buffer.horizon - 1, *group)
    except BaseException as error:
        port.drop_steps(error)
        raise
    return sorted(ends, key=lambda end: end[:2])
