"""Recordings: all that is needed to replay an episode, in memory and in a file.

A file is a zip of two members. ``about.json`` says in plain text what is in it; reading that
executes nothing. ``recordings.pickle`` holds the recordings as cloudpickle writes them, functions
and classes of ``__main__`` included: loading it executes code, so load only files that you trust.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vectasks._util import pickling
from vectasks._util.files import whole_or_nothing
from vectasks._util.gym_registry import adopt_registrations, registrations
from vectasks._version import __version__
from vectasks.errors import RecordingError
from vectasks.host.task_host import HostPlan
from vectasks.protocol import Command

__all__ = ["Recording", "Recordings", "load", "read_about"]

#: Commands with which an episode begins.
STARTS: frozenset[Command] = frozenset({Command.NEXT_TASK, Command.RESET, Command.PREPARE})

FORMAT_VERSION = 2  # 1 named modules that are elsewhere now

_FORMAT = "vectasks-recording"
_ABOUT, _PAYLOAD = "about.json", "recordings.pickle"


class Call(NamedTuple):
    """One command that a sampler was given, and what of the answer was kept.

    Attributes:
        command: what was asked.
        data: the action of a step, the keywords of a ``next_task``, ...
        reward, done: of a step; None where no answer came.
        failed: whether the command raised.
        observation: of a step; None unless observations were asked for.
    """

    command: Command
    data: Any = None
    reward: Any = None
    done: bool | None = None
    failed: bool = False
    observation: Any = None


class Passed(NamedTuple):
    """Commands before the first episode that is replayed: ``times`` times the same one."""

    command: Command
    data: Any = None
    times: int = 1


class RecordedFailure(NamedTuple):
    """The failure that ended a recorded episode."""

    command: str
    type_name: str
    message: str
    traceback_text: str = ""
    died: bool = False  # the worker did: nothing was raised

    def describe(self) -> str:
        """One line."""
        if self.died:
            return f"in {self.command}: {self.message}"
        return f"{self.type_name} in {self.command}: {self.message}"


@dataclass(frozen=True)
class Recording:
    """One sampler's arguments and calls: enough to replay its last episode.

    Attributes:
        sampler_id: whose.
        plan: what the sampler was made from, with its seed.
        passed: what happened before the first episode in ``calls``, which is not replayed in full:
            its tasks are sampled and skipped.
        calls: what the sampler was asked since, in order.
        failure: how the last call ended; None where it gave an answer.
        gap: what is missing because the memory for recordings is bounded, or None.
    """

    sampler_id: int
    plan: HostPlan
    passed: Sequence[Passed]
    calls: Sequence[Call]
    failure: RecordedFailure | None = None
    gap: str | None = None

    def begins_episode(self, position: int) -> bool:
        """Tell whether a new episode begins with this call, or just before it."""
        if position == 0 or self.calls[position].command in STARTS:
            return True
        before = self.calls[position - 1]
        return bool(before.done) and self.plan.auto_resample_when_done

    @functools.cached_property
    def episode_start(self) -> int:
        """Where in ``calls`` the last episode begins."""
        positions = range(len(self.calls) - 1, 0, -1)
        return next((k for k in positions if self.begins_episode(k)), 0)

    @property
    def num_steps(self) -> int:
        """Steps of the last episode; one that failed counts."""
        return sum(call.command is Command.STEP for call in self.calls[self.episode_start :])

    @property
    def actions(self) -> list[Any]:
        """The actions of the last episode, as its task received them."""
        last = self.calls[self.episode_start :]
        return [call.data for call in last if call.command is Command.STEP]

    def describe(self) -> str:
        """One line: whose it is, how long, and how it ended."""
        before = sum(c.command is Command.STEP for c in self.calls) - self.num_steps
        text = f"sampler {self.sampler_id}: {_counted(self.num_steps, 'step')}"
        if before:
            text += f" after {_counted(before, 'step')} of earlier episodes"
        return text if self.failure is None else f"{text}, then {self.failure.describe()}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a file that ``vectasks replay`` takes.

        Raises:
            RecordingError: the sampler's function or arguments cannot be pickled.
            OSError: the file cannot be written.
        """
        Recordings({self.sampler_id: self}).save(path)


class Recordings(dict[int, Recording]):
    """Recordings by sampler id."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of them into one file that ``vectasks replay`` takes.

        Raises:
            RecordingError: a sampler's function or arguments cannot be pickled.
            OSError: the file cannot be written.
        """
        target = Path(path)
        recordings = {
            i: replace(recording, plan=recording.plan._replace(mp_ctx=None))
            for i, recording in self.items()
        }
        try:
            payload = pickling.dumps({"recordings": recordings, "registrations": registrations()})
        except Exception as error:  # user code: whatever a sampler is made from
            raise RecordingError(
                f"{target}: what the sampler is made from cannot be pickled "
                f"({type(error).__name__}: {error}). Give make_sampler_fn and sampler_fn_args that "
                "can, a name instead of an open file for instance."
            ) from error
        about = {
            "format": _FORMAT,
            "version": FORMAT_VERSION,
            "vectasks": __version__,
            "python": _python(),
            "recordings": [recording.describe() for recording in self.values()],
        }
        with (
            whole_or_nothing(target) as partial_path,
            zipfile.ZipFile(partial_path, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            archive.writestr(_ABOUT, json.dumps(about, indent=2))
            archive.writestr(_PAYLOAD, payload)


def read_about(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a file's description of itself: ``recordings`` has a line for each. Executes nothing.

    Raises:
        RecordingError: the file is no recording, was cut short, or is of another version.
        OSError: it cannot be read.
    """
    with _opened(path) as archive:
        return _checked_about(path, archive)


def load(path: str | os.PathLike[str]) -> Recordings:
    """Read a file that ``save`` wrote. It executes code: load only files that you trust.

    Raises:
        RecordingError: the file is no recording, was cut short, is of another version of the format
            or of Python, or needs something that cannot be imported here.
        OSError: it cannot be read.
    """
    with _opened(path) as archive:
        about = _checked_about(path, archive)
        if about["python"] != _python():
            raise RecordingError(
                f"{path} was written with Python {about['python']}, this is Python {_python()}: "
                "code does not travel between them. Replay it with the Python that wrote it."
            )
        payload = archive.read(_PAYLOAD)
    try:
        content = pickle.loads(payload)
        adopt_registrations(content["registrations"])
    except Exception as error:  # user code: its modules run
        raise RecordingError(
            f"{path} cannot be loaded here ({type(error).__name__}: {error}). Load it where the "
            "modules of its task sampler can be imported, from the same directory for instance."
        ) from error
    recordings: Recordings = Recordings(content["recordings"])
    return recordings


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise RecordingError(
            f"{path} is no recording of vectasks, or it was cut short ({error}). Recordings are "
            "written by error.save() and recording.save()."
        ) from error


def _checked_about(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> Mapping[str, Any]:
    try:
        about = json.loads(archive.read(_ABOUT))
        is_ours = about["format"] == _FORMAT
    except (ValueError, TypeError, KeyError):
        is_ours = False
    if not is_ours:
        raise RecordingError(f"{path} is a zip, but no recording of vectasks.")
    if about.get("version") != FORMAT_VERSION:
        raise RecordingError(
            f"{path} has version {about.get('version')} of the format (vectasks "
            f"{about.get('vectasks')} wrote it), this vectasks {__version__} reads version "
            f"{FORMAT_VERSION}: replay it with the vectasks that wrote it."
        )
    return dict(about)


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
