"""From what hosts answered to what users get: results as they are given, and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vectasks.causes import with_cause
from vectasks.errors import (
    LayoutError,
    RemoteError,
    RemoteTraceback,
    SetupError,
    TaskAttributeError,
    TaskError,
    WorkerDied,
)
from vectasks.messages import Command, Failure, StepOutcome, TaskStart
from vectasks.restarts import Death
from vectasks.task import RLStepResult

#: Commands that reach for something by its name, which may not be there.
REACHING = frozenset(
    {Command.CALL, Command.ATTR, Command.SET_ATTR, Command.CALL_SAMPLER, Command.SAMPLER_ATTR}
)


_AFTER_DEATH = (
    "Its samplers are FAILED; restart_at() begins it anew, and on_worker_death='restart' would do "
    "so by itself."
)
_AFTER_REFUSAL = "Its samplers are FAILED, and it was not begun anew: {}. restart_at() does it."
_AFTER_RESTART = (
    "It was begun anew; the next step of each of its samplers comes back truncated and says so."
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
