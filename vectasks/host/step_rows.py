"""Step the hosts of one worker, and write at once what comes of it into rows of the step buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from numpy import ndarray

from vectasks.errors import LayoutError
from vectasks.host.task_host import HostGroup
from vectasks.protocol import Failure
from vectasks.spaces import own
from vectasks.task import RLStepResult
from vectasks.transport.step_buffer import DONE, EMPTY_INFO, Extra, SlabWriter

_NO_OTHERS = Extra(0)[2:]  # nothing but an info


def run_steps(
    group: HostGroup,
    timed: bool,
    writer: SlabWriter,
    ids: Sequence[int],
    actions: Iterable[Any],
    keep: Callable[[Extra], object],
    owned: bool = False,
) -> None:
    """Step hosts, one after another, and write at once what came of it.

    Args:
        group: the hosts.
        timed: record how long each takes.
        writer: of the row.
        ids: whose.
        actions: one for each.
        keep: is given what has no place in the slab, before the next step; where Ctrl-C or an exit
            passes through, also that the steps which were not made failed.
        owned: copy that before, because tasks of this process may write into it.
    """
    step, hosts = (group.timed_step, {}) if timed else (group.step, group.hosts)
    places, num_done = writer.places, 0
    views, dtype, shape = writer.usual_views, writer.usual_dtype, writer.usual_shape
    rewards, flags = writer.rewards, writer.flags
    try:
        for i, action in zip(ids, actions, strict=True):
            host = hosts.get(i)
            try:
                if host is None or not host.is_plain:
                    host, outcome = None, step(i, action, places[i])
                else:  # a frame less than asking the host, and usual results are looked at once
                    outcome = host.task.step(action)
                # An adapter's environment gives plain tuples, which are made sooner.
                if type(outcome) is RLStepResult or (type(outcome) is tuple and len(outcome) == 4):
                    observation, reward, done, info = outcome
                    if (
                        done is False
                        and type(observation) is ndarray
                        and observation.dtype is dtype
                        and observation.shape == shape
                        and type(reward) is float
                        and type(info) is dict
                        and not info
                    ):  # nothing else, as in most steps
                        views[i][...] = observation
                        rewards[i] = reward
                        flags[i] = EMPTY_INFO
                        num_done += 1
                        continue
                if host is not None:
                    outcome = host.outcome_of(outcome, places[i])
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # user code
                outcome = Failure.of(error)
            extra: Extra | None
            try:
                if isinstance(outcome, Failure):
                    extra = writer.fail(i, outcome)
                else:
                    extra = writer.write(i, outcome)
            except LayoutError as error:
                extra = writer.fail(i, Failure.of(error))
            if extra is not None:
                # An episode's last info is owned already.
                if owned and (not flags[i] & DONE or extra[2:] != _NO_OTHERS):
                    extra = own(extra, with_objects=True)
                keep(extra)
            num_done += 1
    except BaseException as error:
        for cut in ids[num_done:]:
            keep(writer.fail(cut, Failure.of(error)))
        raise
    finally:
        if timed:
            group.end_steps()
