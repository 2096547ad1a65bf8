"""The command line: ``vectasks demo``, ``vectasks record ENV_ID --out rollout.mp4``.

Whatever the user can get wrong (an unknown id, a missing extra, an output that cannot be written)
is one line on stderr and exit code 2, found before a worker is started where that is possible.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import secrets
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from vectasks._util.extras import require
from vectasks._util.files import whole_or_nothing
from vectasks.cli import batch, check, evaluate, jobs, replay, report, top
from vectasks.cli.common import (
    EXIT_BAD_USE,
    EXIT_INTERRUPTED,
    CommandError,
    at_least,
    load_callable,
    quieten_native_libraries,
    see_current_directory,
)
from vectasks.errors import MissingExtra, VectasksError

if TYPE_CHECKING:
    from rich.progress import Progress

    from vectasks.envs import GymnasiumTaskSampler
    from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks

_EPILOG = """\
A policy is a function of two lists that returns a third, each with one entry a sampler:
    def policy(observations, action_spaces): return [space.sample() for space in action_spaces]
It is found in MODULE as seen from the current directory.
"""


class Policy(Protocol):
    """What ``--policy`` names."""

    def __call__(self, observations: list[Any], action_spaces: list[Any], /) -> Sequence[Any]:
        """One action a sampler; all three lists have one entry a sampler, in the same order."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (1: failed checks, 2: bad use, 130: Ctrl-C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files are not always text
            stream.reconfigure(errors="backslashreplace")
    try:
        args = _parser().parse_args(argv)
        exit_code: int = args.run(args)
        return exit_code
    except (CommandError, VectasksError, OSError, ImportError) as error:
        print(f"vectasks: {_one_line(error)}", file=sys.stderr)
        return EXIT_BAD_USE
    except KeyboardInterrupt:
        print("vectasks: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


# -- arguments --------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    from vectasks import __version__

    parser = _Parser(prog="vectasks", description="Sample tasks in parallel.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"vectasks {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="train an agent, evaluate it and film it",
        description="Train CartPole by PPO, then film exactly sixteen episodes of it.",
        allow_abbrev=False,
    )
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "--out", type=Path, default=Path("demo.mp4"), help="the video: .mp4 or .gif (demo.mp4)"
    )
    demo.add_argument(
        "--steps", type=at_least(1), default=200_000, metavar="N", help="at most (default: 200000)"
    )
    demo.add_argument("--seed", type=at_least(0), default=1, metavar="N", help="(default: 1)")
    record = commands.add_parser(
        "record",
        help="film a Gymnasium environment in many samplers at once",
        description="Film a Gymnasium environment in many samplers at once, as tiles of a video.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    record.set_defaults(run=_record)
    record.add_argument("env_id", metavar="ENV_ID", help='"CartPole-v1", "module:Id-v0", ...')
    record.add_argument("--out", required=True, type=Path, help="the video: .mp4 or .gif")
    record.add_argument(
        "--samplers", type=at_least(1), default=9, metavar="N", help="tiles (default: 9)"
    )
    record.add_argument(
        "--steps", type=at_least(1), default=500, metavar="N", help="of each one (default: 500)"
    )
    record.add_argument("--policy", metavar="MODULE:FUNCTION", help="(default: random actions)")
    record.add_argument(
        "--seed", type=at_least(0), metavar="N", help="the same seed gives the same video"
    )
    record.add_argument(
        "--processes",
        type=at_least(0),
        metavar="N",
        help="0: no process but this one (default: one a core)",
    )
    record.add_argument(
        "--fps", type=at_least(1), default=30, metavar="N", help="frames a second (default: 30)"
    )
    record.add_argument("--captions", action="store_true", help="episode, return and step on tiles")
    record.set_defaults(run=_record)
    for command in (batch, check, evaluate, jobs, replay, report, top):
        command.register(commands)
    return parser


# -- demo -------------------------------------------------------------------------------------

_DEMO_EPISODES = 16


def _demo(args: argparse.Namespace) -> int:
    quieten_native_libraries()
    require("torch", "torch", "demo")
    require("av", "video", "demo")
    _check_output(args.out)
    from vectasks.cli import demo

    agent = demo.Agent(args.seed)
    with _progress() as progress:
        bar = progress.add_task(f"{demo.ENV_ID}: training", total=args.steps)
        for state in demo.train(agent, args.steps, args.seed):
            if state.mean_return is not None:
                text = f"{demo.ENV_ID}: return {state.mean_return:.0f}"
                progress.update(bar, completed=state.steps, description=text)
    mean_return = "no episode ended" if state.mean_return is None else f"{state.mean_return:.1f}"
    print(
        f"{demo.ENV_ID}: {'solved' if state.is_solved else 'stopped'} after {state.steps} steps in "
        f"{state.elapsed_s:.0f} s ({state.steps / state.elapsed_s:.0f} steps/s), "
        f"mean return of the last episodes: {mean_return}"
    )
    with whole_or_nothing(args.out) as partial_path, _progress() as progress:
        bar = progress.add_task(f"{demo.ENV_ID}: filming", total=_DEMO_EPISODES)
        returns = demo.evaluate(
            agent, _DEMO_EPISODES, partial_path, args.seed, lambda: progress.advance(bar)
        )
    print(
        f"{args.out}: {len(returns)} episodes, return {min(returns):.0f} to {max(returns):.0f}, "
        f"mean {sum(returns) / len(returns):.1f}"
    )
    return 0


# -- record -----------------------------------------------------------------------------------


def _record(args: argparse.Namespace) -> int:
    quieten_native_libraries()
    see_current_directory()
    require("av", "video", "record")
    _check_output(args.out)
    _check_environment(args.env_id)
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    policy: Policy | None = None
    if args.policy is not None:
        policy = load_callable(args.policy, "MODULE:FUNCTION", "--policy")

    from vectasks.rendering.video import VideoRecorder

    with (
        whole_or_nothing(args.out) as partial_path,
        _start_samplers(args.env_id, args.samplers, args.processes, seed) as tasks,
        VideoRecorder(
            tasks, partial_path, fps=args.fps, captions=args.captions, on_error="raise"
        ) as recorder,
        _progress() as progress,
        _stop_on_interrupt() as is_interrupted,
    ):
        rollout = _Rollout(tasks, recorder, policy or _RandomPolicy(tasks.action_spaces, seed))
        bar = progress.add_task(args.env_id, total=args.steps * args.samplers)
        for _ in range(args.steps):
            rollout.step()
            progress.advance(bar, args.samplers)
            if is_interrupted():
                break
        summary = rollout.summary()
    print(f"{args.out}: {summary} (seed {seed})")
    return EXIT_INTERRUPTED if is_interrupted() else 0


class _Rollout:
    """Steps all samplers under a policy, and adds up what a user wants to know at the end."""

    def __init__(self, tasks: Any, recorder: Any, policy: Policy) -> None:
        self._recorder = recorder
        self._policy = policy
        self._action_spaces = tasks.action_spaces
        self._observations = tasks.get_observations()
        self._returns: list[float] = []
        self._num_steps = 0
        self._started_s = time.perf_counter()

    def step(self) -> None:
        from vectasks import COMPLETE_TASK_METRICS_KEY

        try:
            actions = self._policy(self._observations, self._action_spaces)
        except Exception as error:  # user code
            raise CommandError(f"the policy raised {_described(error)}") from error
        results = self._recorder.step(actions)
        self._observations = [result.observation for result in results]
        self._returns += [
            result.info[COMPLETE_TASK_METRICS_KEY]["reward"] for result in results if result.done
        ]
        self._num_steps += len(results)

    def summary(self) -> str:
        steps_per_s = self._num_steps / (time.perf_counter() - self._started_s)
        episodes = "no episode ended"
        if self._returns:
            mean_return = sum(self._returns) / len(self._returns)
            episodes = f"{len(self._returns)} episodes, mean return {mean_return:.2f}"
        return f"{episodes}, {self._num_steps} steps, {steps_per_s:.0f} steps/s"


class _RandomPolicy:
    """Random actions; those of a sampler depend on the seed and the sampler's id alone."""

    def __init__(self, action_spaces: Sequence[Any], seed: int) -> None:
        # Copies, because in this process a space may be the environment's own.
        self._spaces = [copy.deepcopy(space) for space in action_spaces]
        for sampler_id, space in enumerate(self._spaces):
            space.seed(seed + sampler_id)

    def __call__(self, observations: list[Any], action_spaces: list[Any], /) -> list[Any]:
        return [space.sample() for space in self._spaces]


def _start_samplers(
    env_id: str, num_samplers: int, num_processes: int | None, seed: int
) -> VectorSampledTasks | SingleProcessVectorSampledTasks:
    from vectasks import SingleProcessVectorSampledTasks, VectorSampledTasks

    sampler_fn_args = [{"env_id": env_id} for _ in range(num_samplers)]
    if num_processes == 0:
        return SingleProcessVectorSampledTasks(_make_sampler, sampler_fn_args, seed=seed)
    return VectorSampledTasks(
        _make_sampler,
        sampler_fn_args,
        seed=seed,
        max_processes=min(num_processes or os.cpu_count() or 1, num_samplers),
    )


def _make_sampler(env_id: str) -> GymnasiumTaskSampler:
    from vectasks.envs import GymnasiumTaskSampler

    return GymnasiumTaskSampler(env_id)


@contextmanager
def _progress() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )

    class StepsPerSecond(ProgressColumn):
        def render(self, task: Task) -> str:
            return f"{task.finished_speed or task.speed or 0:.0f} steps/s"

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        StepsPerSecond(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield progress


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C lets the step that is out come in, so that the video ends whole."""
    interrupted = False

    def on_interrupt(signum: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one does not wait

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


# -- checks -----------------------------------------------------------------------------------


def _check_output(path: Path) -> None:
    """Find out whether a video can be written to ``path``; nothing is left there."""
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise CommandError(f"--out {path}: the name must end in .mp4 or .gif")
    if path.is_dir():
        raise CommandError(f"--out {path}: it is a directory")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise CommandError(f"--out {path}: cannot be written ({error.strerror})") from error


def _check_environment(env_id: str) -> None:
    """Find out whether ``env_id`` can be made and looked at, without making it."""
    from vectasks.envs.gymnasium import can_give_images, find_spec

    try:
        is_visible = can_give_images(find_spec(env_id))
    except MissingExtra:
        raise
    except Exception as error:  # what it imports is the user's code
        raise CommandError(f"{env_id}: {_one_line(error)}") from error
    if not is_visible:
        raise CommandError(f'{env_id}: it gives no images (it has no render_mode "rgb_array")')


# -- surroundings -----------------------------------------------------------------------------


def _described(error: BaseException) -> str:
    *_, frame = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
