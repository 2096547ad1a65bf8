"""The messages between a vector and its hosts.

A :class:`Request` carries a sequence number, and its :class:`Reply` carries the same one: a reply
is handed to the call that asked for it or, where that call gave up, to nobody. These are
NamedTuples because a round trip of theirs through pickle costs a quarter of what slotted
dataclasses cost.
"""

from __future__ import annotations

import pickle
import signal
import traceback
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

from vectasks._util import pickling
from vectasks.errors import UNKNOWN_EXITCODE, RemoteError, RemoteTraceback

__all__ = ["Command", "SamplerState", "VectorState"]


class Command(IntEnum):
    """A command to a host; the strings of AllenAct name the same commands."""

    STEP = 0
    NEXT_TASK = 1
    OBSERVE = 2
    RENDER = 3
    CALL = 4
    ATTR = 5
    SET_ATTR = 6
    CALL_SAMPLER = 7
    SAMPLER_ATTR = 8
    OBSERVATION_SPACE = 9
    ACTION_SPACE = 10
    RESET = 11
    SEED = 12
    KEEP_FRAMES = 13
    SETUP = 14  # make the host itself: at start, and again at a restart
    PREPARE = 15  # go on to the next task, perhaps before its turn comes

    @property
    def label(self) -> str:
        """The command's name as users write it, ``"next_task"`` for instance."""
        return self.name.lower()


class SamplerState(IntEnum):
    """The state of a sampler."""

    READY = 0  # its task waits for a command
    BUSY = 1  # a request is out, perhaps one that its caller gave up waiting for
    PAUSED = 2  # left out of everything until resume_all()
    EXHAUSTED = 3  # its next_task() gave None; reset_all() restarts its tasks
    FAILED = 4  # its task raised, or its worker died; next_task_at() or restart_at() revives it


class VectorState(IntEnum):
    """The state of a vector; derived from its samplers' states, never stored."""

    IDLE = 0  # every unpaused sampler can take a command
    STEPPING = 1  # async_step() was called and wait_step() was not
    BROKEN = 2  # an unpaused sampler is FAILED
    CLOSED = 3  # close() was called; nothing brings it back


class Request(NamedTuple):
    """One command for one sampler."""

    seq: int
    sampler_id: int
    command: Command
    data: Any = None


class Reply(NamedTuple):
    """The answer to the request with the same ``seq``: a value, or a :class:`Failure`."""

    seq: int
    sampler_id: int
    value: Any


class SendAlone(NamedTuple):
    """Asks for a request again: it came with others, and together they could not be unpickled.

    Sent alone, it is carried out, or it is the one to blame and fails.
    """


class _InPlace:
    def __repr__(self) -> str:
        return "<written in place>"


#: The observation of an outcome whose task wrote it into the arrays that it was given.
IN_PLACE = _InPlace()


class StepOutcome(NamedTuple):
    """The result of a host's step that ended the episode, before a transport carries it.

    (While the episode goes on, a step's outcome is the task's own ``RLStepResult``.)
    ``observation`` is None where the sampler is ``exhausted``. ``reward`` is a float, or a list of
    floats where a task has several agents. ``done`` is True.
    """

    observation: Any
    reward: Any
    done: bool
    info: Any
    terminated: bool
    truncated: bool
    exhausted: bool


class Preparation(NamedTuple):
    """What a host does before its next task begins, and what it asks its sampler for it.

    Attributes:
        first: what its sampler is asked before: (command, data, times) each; tasks are left out.
        keywords: for the sampler's ``next_task``; None: there is no next task.
    """

    first: Sequence[tuple[Command, Any, int]] = ()
    keywords: Mapping[str, Any] | None = None


class TaskStart(NamedTuple):
    """The first observation of a sampler's new task; ``exhausted`` where there was no next task."""

    observation: Any
    exhausted: bool


class Failure(NamedTuple):
    """An exception, in a form that always travels.

    ``in_setup`` where a sampler could not be made again, whatever it was then asked for.
    """

    type_name: str
    message: str
    traceback_text: str
    exception_pickle: bytes | None
    is_attribute_error: bool = False
    in_setup: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe ``error``; the exception itself goes along only if it survives a round trip."""
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return cls(
            type_name=type(error).__qualname__,
            message=_safe_str(error),
            traceback_text=text,
            exception_pickle=_pickle_if_it_survives(error),
            is_attribute_error=isinstance(error, AttributeError),
        )

    def exception(self) -> BaseException | None:
        """The original exception, where it travelled and can be built here."""
        if self.exception_pickle is None:
            return None
        try:
            error = pickle.loads(self.exception_pickle)
        except KeyboardInterrupt:
            raise
        except BaseException:  # user code: a class that cannot be built here is told by its text
            return None
        return error if isinstance(error, BaseException) else None


def _safe_str(error: BaseException) -> str:
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # user code: __str__ may raise
        return "(its message could not be formatted)"


def _pickle_if_it_survives(error: BaseException) -> bytes | None:
    try:
        data = pickling.dumps(error)
        copy = pickle.loads(data)
        faithful = type(copy) is type(error) and _safe_str(copy) == _safe_str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # user code: two-argument constructors, locks, __reduce__ that explodes
        return None
    return data if faithful else None


def how_it_ended(exitcode: int | None) -> str:
    """Describe how a worker ended, in words that follow its name."""
    if exitcode is None:
        return "closed its connection, as by closing descriptors that are not its own"
    if exitcode == 0:
        return "exited with code 0, as by exit() or by closing descriptors that are not its own"
    if exitcode == UNKNOWN_EXITCODE:
        return (
            "ended, and how is not known: the program took its exit status (it ignores SIGCHLD, or "
            "waits for any child), or the fork server was killed"
        )
    if exitcode > 0:
        return f"exited with code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    return f"was killed by {name}"


class Death(NamedTuple):
    """Stands for a reply whose worker died before it answered.

    Attributes:
        restarted: whether it is restarted by itself.
        refusal: why it is not, where that was wished.
    """

    worker: int
    sampler_ids: tuple[int, ...]
    exitcode: int | None
    restarted: bool
    refusal: str = ""

    def describe(self) -> str:
        """One line: who died, how, and which samplers lived there."""
        mates = ", ".join(map(str, self.sampler_ids))
        return f"worker {self.worker} (samplers {mates}) {how_it_ended(self.exitcode)}"


Error = TypeVar("Error", bound=RemoteError)


def with_cause(error: Error, failure: Failure) -> Error:
    """``error``, caused by the original exception where that travelled, else by its traceback."""
    remote = RemoteTraceback(failure.traceback_text)
    original = failure.exception()
    if original is None:
        error.__cause__ = remote
    else:
        original.__cause__ = remote
        error.__cause__ = original
    return error
