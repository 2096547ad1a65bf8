"""From what hosts answered to what users get: results as they are given, counts, and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks.errors import (
    LayoutError,
    RemoteError,
    RemoteTraceback,
    SetupError,
    TaskAttributeError,
    TaskError,
    WorkerDied,
)
from vectasks.protocol import Command, Death, Failure, StepOutcome, TaskStart, with_cause
from vectasks.replay.episode_log import KEPT, EpisodeLog
from vectasks.task import RLStepResult
from vectasks.vector.states import SamplerStates

#: Commands that reach for something by its name, which may not be there.
REACHING = frozenset(
    {Command.CALL, Command.ATTR, Command.SET_ATTR, Command.CALL_SAMPLER, Command.SAMPLER_ATTR}
)


_AFTER_DEATH = (
    "Its samplers are FAILED; restart_at() restarts it, and on_worker_death='restart' would do "
    "so by itself."
)
_AFTER_REFUSAL = "Its samplers are FAILED, and it was not restarted: {}. restart_at() does it."
_AFTER_RESTART = (
    "It was restarted; the next step of each of its samplers comes back truncated and says so."
)


def as_given(value: Any) -> Any:
    """A value as the methods hand it out."""
    if isinstance(value, StepOutcome):
        return RLStepResult(*value[:4])
    return value.observation if isinstance(value, TaskStart) else value


def remote_error(
    sampler_id: int, command: Command | str, failure: Failure, also_failed: Sequence[int]
) -> RemoteError:
    """The error that a failure stands for; ``also_failed`` are mentioned."""
    if failure.in_setup:
        command = Command.SETUP
    label = command.label if isinstance(command, Command) else command
    kind: type[RemoteError] = TaskError
    if command is Command.SETUP:
        kind = SetupError
    elif command in REACHING and failure.is_attribute_error:
        kind = TaskAttributeError
    what = "could not be made" if kind is SetupError else f"failed in {label}"
    plural = "s" if len(also_failed) > 1 else ""
    named = ", ".join(map(str, also_failed))
    others = f" (so did sampler{plural} {named})" if also_failed else ""
    error = kind(
        f"sampler {sampler_id} {what}{others}: {failure.type_name}: {failure.message}",
        sampler_id=sampler_id,
        command=label,
        remote_traceback=failure.traceback_text,
    )
    return with_cause(error, failure)


def _what_follows(death: Death) -> str:
    if death.restarted:
        return _AFTER_RESTART
    return _AFTER_REFUSAL.format(death.refusal) if death.refusal else _AFTER_DEATH


def raise_failures(
    ids: Sequence[int], commands: Command | Mapping[int, Command], values: Mapping[int, Any]
) -> None:
    """Raise the error that the first failed sampler's value stands for, if there is one."""
    failed = [i for i in ids if isinstance(values[i], (Failure, Death))]
    if not failed:
        return

    def error_of(i: int, also_failed: Sequence[int]) -> LayoutError | RemoteError | WorkerDied:
        command = commands if isinstance(commands, Command) else commands[i]
        return _error_of(i, command, values[i], also_failed)

    error = error_of(failed[0], failed[1:])
    error.also_failed = {i: error_of(i, ()) for i in failed[1:]}
    error.results = {i: as_given(values[i]) for i in ids if i not in failed}
    raise error


def _error_of(
    sampler_id: int, command: Command, value: Failure | Death, also_failed: Sequence[int]
) -> LayoutError | RemoteError | WorkerDied:
    if isinstance(value, Death):
        return WorkerDied(
            f"{value.describe()}. {_what_follows(value)}",
            worker=value.worker,
            sampler_ids=value.sampler_ids,
            exitcode=value.exitcode,
        )
    if value.type_name == "LayoutError":
        error = LayoutError(f"sampler {sampler_id}: {value.message}")
        error.__cause__ = RemoteTraceback(value.traceback_text)
        return error
    return remote_error(sampler_id, command, value, also_failed)


@dataclass
class Counts:
    """Counts of what a vector's samplers did since the start: steps, and episodes that ended."""

    steps: int = 0
    episodes: int = 0


class Results:
    """Counts what came and writes it down; raises the errors that it stands for.

    Args:
        counts: are kept here.
        states: are told who waits for the others.
        log: gets what came.
        auto_resample: whether samplers go on by themselves when a task is done.
        tell: is given each error, for whoever watches.
    """

    def __init__(
        self,
        counts: Counts,
        states: SamplerStates,
        log: EpisodeLog,
        auto_resample: bool,
        tell: Callable[[BaseException], None],
    ) -> None:
        self._counts = counts
        self._states = states
        self._log = log
        self._auto_resample = auto_resample
        self._tell = tell

    def unwrap(
        self, ids: Sequence[int], commands: Command | Mapping[int, Command], values: dict[int, Any]
    ) -> dict[int, Any]:
        """Count the values by id; raise the error that one of them stands for."""
        failed = False
        for i in ids:
            value = values[i]
            if type(value) is RLStepResult:
                self._counts.steps += 1
            elif type(value) is StepOutcome:
                self._count_end(i, value)
            elif isinstance(value, (Failure, Death)):
                failed = True
        if commands is Command.STEP or type(commands) is dict:
            self._log.answers_came(ids, values)
        if failed:
            self.raise_failures(ids, commands, values)
        return values

    def _count_end(self, sampler_id: int, outcome: StepOutcome) -> None:
        """Count the end of an episode; without autoreset its sampler waits for the others."""
        info = outcome.info
        waited = sampler_id in self._states.waiting
        self._counts.steps += not waited
        self._counts.episodes += not waited
        if not self._auto_resample and not (isinstance(info, dict) and "worker_restarted" in info):
            self._states.waiting.add(sampler_id)

    def count_rows(
        self,
        ids: Sequence[int],
        reward: NDArray[np.float32],
        done: NDArray[np.bool_],
        infos: Sequence[Mapping[str, Any]],
        observe: Callable[[], Any],
    ) -> None:
        """Count and write down steps that came as arrays."""
        flags = done.tobytes()
        self._counts.steps += len(ids)
        self._counts.episodes += flags.count(1)
        self._log.batch_came(ids, reward, flags, infos, observe)

    def raise_failures(
        self, ids: Sequence[int], commands: Command | Mapping[int, Command], values: dict[int, Any]
    ) -> None:
        """Raise the error that the first failure stands for, with what can be replayed of each."""
        failures = {
            i: (commands if isinstance(commands, Command) else commands[i], values[i])
            for i in ids
            if isinstance(values[i], (Failure, Death))
        }
        self._log.failed(i for i, (command, _) in failures.items() if command in KEPT)
        try:
            raise_failures(ids, commands, values)
        except (LayoutError, RemoteError, WorkerDied) as error:
            error.recordings = self._log.recordings_of(failures)
            self._tell(error)
            raise
