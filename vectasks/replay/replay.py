"""Replay a recording: make its sampler again in this process, and ask it the same.

>>> from vectasks import SingleProcessVectorSampledTasks
>>> from vectasks.envs import GymnasiumTaskSampler
>>> tasks = SingleProcessVectorSampledTasks(GymnasiumTaskSampler, [{"env": "CartPole-v1"}], seed=0)
>>> _ = tasks.step([0]), tasks.step([1])
>>> with Replay(tasks.recording_at(0)) as replay:
...     replay.run()
...     replay.task.num_steps_taken()
Outcome(num_steps=2, divergence=None, error=None)
2
>>> tasks.close()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from vectasks.host.task_host import FINAL_FRAME, TaskHost
from vectasks.protocol import Command
from vectasks.replay.recording import Call, Recording

__all__ = ["Divergence", "Outcome", "Replay"]

logger: logging.Logger = logging.getLogger("vectasks")


class Divergence(NamedTuple):
    """Where a replay first differs from its recording: the task is not deterministic.

    Attributes:
        episode: counted within the recording, from 0.
        step: of that episode, from 1; 0: before its first step.
        leaf: ``"reward"``, ``"done"``, ``"observation"`` with its path, or ``"error"``.
        recorded, replayed: the two values.
    """

    episode: int
    step: int
    leaf: str
    recorded: Any
    replayed: Any

    def describe(self) -> str:
        """One line."""
        return (
            f"step {self.step} of episode {self.episode}: {self.leaf} was {_short(self.recorded)} "
            f"and is {_short(self.replayed)}"
        )


class Outcome(NamedTuple):
    """The outcome of a replay.

    Attributes:
        num_steps: steps of the last episode that were taken; one that raised counts.
        divergence: where it first differed, if it did.
        error: what the last command raised, here, with its traceback.
    """

    num_steps: int
    divergence: Divergence | None
    error: BaseException | None


class Replay:
    """One sampler, made from a recording. Leaving its ``with`` block closes task and sampler.

    Args:
        recording: what to replay.

    Attributes:
        host: what owns the sampler; None until :meth:`run` has made it.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.host: TaskHost | None = None
        self._divergence: Divergence | None = None
        self._episode = 0
        self._step = 0

    @property
    def task(self) -> Any:
        """The current task; None before there is one."""
        return None if self.host is None else self.host.task

    @property
    def sampler(self) -> Any:
        """The task sampler; None before it is made."""
        return None if self.host is None else self.host.sampler

    def run(
        self,
        *,
        on_frame: Callable[[Any], None] | None = None,
        last_step: Callable[[Any, Any], Any] | None = None,
    ) -> Outcome:
        """Ask the sampler what it was asked, to the last command or to where it cannot go on.

        Args:
            on_frame: is given the images of the last episode: uint8 [height_px, width_px, 3] of its
                start and of each step.
            last_step: takes the last step in place of the host, a debugger say:
                ``last_step(task, action)``.

        Returns:
            how it went; what the user's code raised is in it, not raised.
        """
        calls, last = self.recording.calls, len(self.recording.calls) - 1
        try:
            self.host = host = self._make("none" if on_frame is None else "final")
        except Exception as error:  # user code
            return self._outcome(error, was_expected=not calls)
        for position, call in enumerate(calls):
            is_step = call.command is Command.STEP
            if position > 0 and self.recording.begins_episode(position):
                self._episode, self._step = self._episode + 1, 0
            frames = on_frame if position >= self.recording.episode_start else None
            if frames is not None and is_step and self._step == 0:
                frames(host.render())
            self._step += is_step
            try:
                if is_step and position == last and last_step is not None:
                    last_step(host.task, call.data)
                    continue
                answer = TaskHost.METHODS[call.command](host, call.data)
            except Exception as error:  # user code
                was_expected = call.failed or (position == last and self.recording.failure)
                if position == last or not was_expected:
                    return self._outcome(error, was_expected=bool(was_expected))
                continue  # as then; a later command revived the sampler
            if frames is not None and is_step:
                frames(answer.info[FINAL_FRAME] if answer.done else host.render())
            self._compare(call, answer, is_last=position == last)
            if self._divergence is not None and self._divergence.leaf in ("done", "error"):
                break  # its episodes are others from here on
        return self._outcome(None, was_expected=True)

    def _make(self, keep_frames: str) -> TaskHost:
        host = TaskHost(self.recording.plan._replace(keep_frames=keep_frames))
        for command, data, times in self.recording.passed:
            for k in range(times):
                try:
                    if command is Command.NEXT_TASK and k < times - 1:
                        host.pass_over(data)
                    else:
                        TaskHost.METHODS[command](host, data)
                except Exception as error:  # user code, which may have raised then, too
                    logger.info("%s before the replay raised %r", command.label, error)
        return host

    def _outcome(self, error: Exception | None, was_expected: bool) -> Outcome:
        if error is not None and not was_expected:
            self._diverge("error", None, error)
        return Outcome(self._step, self._divergence, error)

    def _compare(self, call: Call, answer: Any, is_last: bool) -> None:
        """Write down the first difference between what a step gave then and gives now."""
        if call.failed and not is_last:
            self._diverge("error", "raised", "none")
        if call.done is None or self._divergence is not None:
            return
        observation, reward, done = answer[:3]
        # The end first: nothing else tells as much. Rewards are kept in float32.
        if bool(done) != call.done:
            self._diverge("done", call.done, bool(done))
        elif not _same(np.float32(call.reward), np.float32(reward)):
            self._diverge("reward", call.reward, reward)
        elif call.observation is not None and not (done and self.recording.plan.asks_for_next):
            # (Where the vector went on to the next task, that one's first observation was seen.)
            for leaf, then, now in _differing_leaves("observation", call.observation, observation):
                self._diverge(leaf, then, now)

    def _diverge(self, leaf: str, recorded: Any, replayed: Any) -> None:
        if self._divergence is None:
            self._divergence = Divergence(self._episode, self._step, leaf, recorded, replayed)

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.host is not None:
            for failure in self.host.close():
                logger.warning("closing after the replay: %s", failure.traceback_text)


def _differing_leaves(path: str, then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """The leaves that differ: their path, and both values."""
    if isinstance(then, Mapping) and isinstance(now, Mapping) and then.keys() == now.keys():
        for name in then:
            yield from _differing_leaves(f"{path}[{name!r}]", then[name], now[name])
    elif (
        isinstance(then, (tuple, list)) and isinstance(now, (tuple, list)) and len(then) == len(now)
    ):
        for k, (one, other) in enumerate(zip(then, now, strict=True)):
            yield from _differing_leaves(f"{path}[{k}]", one, other)
    elif not _same(then, now):
        yield path, then, now


def _same(then: Any, now: Any) -> bool:
    """Tell whether two leaves are equal, NaN to NaN; a batch's dtype may differ from the task's."""
    try:
        one, other = np.asarray(then), np.asarray(now)
        if one.shape != other.shape:
            return False
        if one.dtype.kind in "fc":
            return bool(np.array_equal(one, other.astype(one.dtype), equal_nan=True))
        return bool(np.array_equal(one, other))
    except (TypeError, ValueError):  # objects that numpy cannot take
        return bool(then == now)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
