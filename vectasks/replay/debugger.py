"""``vectasks replay failure.vt``: have a recorded episode again, and look into it."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import pdb
import sys
import traceback
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from vectasks._util.extras import require
from vectasks.errors import InvalidArgument
from vectasks.protocol import Command
from vectasks.rendering.encoders import encoder_class_for
from vectasks.rendering.film import Film, Shot
from vectasks.rendering.tiles import as_rgb
from vectasks.replay.recording import Recording, load, read_about
from vectasks.replay.replay import Outcome, Replay

EXIT_OTHERWISE = 1


def describe(file: Path) -> int:
    """Print what is in a file, without executing anything of it; the exit code."""
    about = read_about(file)
    print(f"{file}: written by vectasks {about['vectasks']}, Python {about['python']}")
    for line in about["recordings"]:
        print(f"  {line}")
    return 0


def run(file: Path, *, sampler: int | None, use_pdb: bool, video: Path | None) -> int:
    """Replay what is in a file; the exit code.

    Args:
        file: the recordings.
        sampler: the id of the only one to replay; None replays all in turn.
        use_pdb: stop in the debugger.
        video: where to film the last episode.
    """
    here = str(Path.cwd())
    if here not in sys.path:  # the modules of the user's task sampler
        sys.path.insert(0, here)
    recordings = load(file)
    if sampler is not None and sampler not in recordings:
        raise InvalidArgument(
            f"--sampler {sampler}: {file} holds samplers {', '.join(map(str, recordings))}."
        )
    chosen = list(recordings.values()) if sampler is None else [recordings[sampler]]
    if video is not None and len(chosen) > 1:
        raise InvalidArgument(
            f"--video: {file} holds {len(chosen)} samplers; choose one by --sampler."
        )
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a stderr that is no file
            faulthandler.enable()  # a task that takes the process down says where
    if len(chosen) > 1:
        print(f"{file}: {len(chosen)} samplers failed in the same call; each in turn")
    codes = []
    for recording in chosen:
        print(f"{file}: {recording.describe()}", flush=True)
        if recording.gap is not None:
            print(f"not recorded: {recording.gap}; the replay may differ for it")
        try:
            codes.append(_replay(recording, use_pdb, video))
        except _Quit:
            return 0
    return max(codes)


class _Quit(Exception):
    """The user left the debugger."""


class _Debugger(pdb.Pdb):
    """Steps into a task, not into what stands before it; and tells when it was left by ``q``."""

    def __init__(self) -> None:
        # Ctrl-C ends what it hangs in: left to pdb, it waits for the next line, which never comes.
        super().__init__(skip=["vectasks.task"], nosigint=True)
        self.was_left = False

    def set_quit(self) -> None:
        """Leave."""
        self.was_left = True
        super().set_quit()

    def step_into(self, task: Any, action: Any) -> None:
        """Take a step, stopping at its first line."""
        self.runcall(task.step, action)


def _replay(recording: Recording, use_pdb: bool, video: Path | None) -> int:
    # Nothing was raised in a task whose worker died: there is no frame to look at afterwards.
    raises = recording.failure is not None and not (recording.failure.died or _misfits(recording))
    debugger = _Debugger() if use_pdb and not raises else None
    with Replay(recording) as replay, _film(video) as film:
        try:
            outcome = replay.run(
                on_frame=None if film is None else functools.partial(_shoot, film),
                last_step=None if debugger is None else debugger.step_into,
            )
        except KeyboardInterrupt as interrupt:
            if not use_pdb:
                raise
            print("interrupted; where it was:")
            _post_mortem(interrupt)
            return EXIT_OTHERWISE
        if debugger is not None and debugger.was_left:
            raise _Quit
        if outcome.error is not None:
            traceback.print_exception(_from_host_on(outcome.error), file=sys.stdout)
        agrees = debugger is not None and outcome.error is None
        if not agrees:
            verdict, agrees = _judged(recording, outcome)
            steps = "1 step" if outcome.num_steps == 1 else f"{outcome.num_steps} steps"
            print(f"replayed {steps}: {verdict}", flush=True)
        if use_pdb and outcome.error is not None:
            _post_mortem(outcome.error)
    if film is not None and film.is_finished:
        print(f"{video}: {film.num_frames} frames")
    return 0 if agrees else EXIT_OTHERWISE


def _judged(recording: Recording, outcome: Outcome) -> tuple[str, bool]:
    """Describe how a replay went, and tell whether it went as recorded."""
    failure = recording.failure
    if outcome.divergence is not None:
        failed = failure is not None and type(outcome.error).__qualname__ == failure.type_name
        return (
            f"it differs from the recording{', but failed all the same' if failed else ''}.\n"
            f"{outcome.divergence.describe()}\n{_why(recording)}",
            False,
        )
    if failure is None:
        return "as recorded", True
    if outcome.error is None and _misfits(recording):
        return f"as recorded; what it gave does not fit ({failure.message})", True
    if outcome.error is None:
        return f"it did not fail this time (then: {failure.describe()})", False
    if type(outcome.error).__qualname__ != failure.type_name:
        return f"it failed, but not as recorded (then: {failure.describe()})", False
    return "it failed as recorded", True


def _why(recording: Recording) -> str:
    if recording.gap is not None:
        return f"Not everything was recorded: {recording.gap} had to go."
    seeds = [recording.plan.seed, *(p for p in recording.passed if p.command is Command.SEED)]
    if seeds == [None]:
        return "The vector was made without a seed; make it with seed=..., and record it again."
    return "So the task depends on more than its arguments, its seed and its actions."


def _misfits(recording: Recording) -> bool:
    """Tell whether the task raised nothing, but gave what does not fit its space."""
    return recording.failure is not None and recording.failure.type_name == "LayoutError"


def _from_host_on(error: BaseException) -> BaseException:
    """The error without the frames of the replay itself."""
    tb = error.__traceback__
    return error.with_traceback(tb.tb_next if tb is not None and tb.tb_next is not None else tb)


def _post_mortem(error: BaseException) -> None:
    pdb.post_mortem(error.__traceback__)


def _shoot(film: Film, image: Any) -> None:
    film.write([Shot(as_rgb(image), None, is_live=True)])


@contextlib.contextmanager
def _film(path: Path | None) -> Iterator[Film | None]:
    """The video to write, which is finished at the end, whatever the replay ends with."""
    if path is None:
        yield None
        return
    encoder_class = encoder_class_for(path)
    require("av", "video", "--video")
    film = Film(path, encoder_class, Fraction(30))
    try:
        yield film
    finally:
        film.finish()
