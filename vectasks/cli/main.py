"""The command line: ``vectasks demo``, ``vectasks record ENV_ID --out rollout.mp4``.

Whatever the user can get wrong (an unknown id, a missing extra, an output that cannot be written)
is one line on stderr and exit code 2, found before a worker is started where that is possible.
"""

from __future__ import annotations

import copy
import io
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from vectasks._util.extras import require
from vectasks._util.files import whole_or_nothing
from vectasks._version import __version__
from vectasks.cli import batch, check, evaluate, jobs, options, replay, report, top
from vectasks.cli.common import (
    EXIT_BAD_USE,
    EXIT_INTERRUPTED,
    CommandError,
    described,
    load_callable,
    one_line,
    quieten_native_libraries,
    see_current_directory,
)
from vectasks.cli.options import examples
from vectasks.cli.progress import progress_bar
from vectasks.errors import MissingExtra, VectasksError

if TYPE_CHECKING:
    from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks


#: What ``--policy`` names: a function of observations and action spaces that returns actions; all
#: three lists have one entry per sampler, in the same order.
Policy: TypeAlias = Callable[[list[Any], list[Any]], Sequence[Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (1: failed checks, 2: bad use, 130: Ctrl-C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files are not always text
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        # Not click's own main: that would turn Ctrl-C and broken pipes into ends of its own.
        with commands.make_context("vectasks", arguments) as context:
            exit_code: int = commands.invoke(context)
            return exit_code
    except click.exceptions.Exit as end:  # after --help and --version
        return end.exit_code
    except click.UsageError as error:
        command = "vectasks" if error.ctx is None else error.ctx.command_path
        print(f"vectasks: {_usage(error)} (see {command} --help)", file=sys.stderr)
        return EXIT_BAD_USE
    except (CommandError, VectasksError, OSError, ImportError) as error:
        print(f"vectasks: {one_line(error)}", file=sys.stderr)
        return EXIT_BAD_USE
    except KeyboardInterrupt:
        print("vectasks: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _usage(error: click.UsageError) -> str:
    """Say in one line what is wrong with the arguments."""
    text = error.format_message()
    if type(error) is click.BadParameter and (parameter := error.param) is not None:
        is_option = isinstance(parameter, click.Option)
        name = parameter.opts[-1] if is_option else parameter.human_readable_name
        text = f"argument {name}: {error.message}"
    return " ".join(text.split()).rstrip(".")


@click.group(
    epilog=examples("vectasks record CartPole-v1 --out rollout.mp4", "vectasks record --help"),
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    no_args_is_help=False,
)
@click.version_option(__version__, prog_name="vectasks", message="%(prog)s %(version)s")
def commands() -> None:
    """Sample tasks in parallel."""


# -- demo -------------------------------------------------------------------------------------

_DEMO_EPISODES = 16


@commands.command(
    "demo",
    epilog=examples("vectasks demo --out demo.mp4"),
    short_help="Train an agent, evaluate it and film it.",
)
@options.out(help="The video: .mp4 or .gif.", default="demo.mp4")
@options.whole_number("--steps", 1, "At most.", default=200_000)
@options.seed(1)
def _demo(out: Path, steps: int, seed: int) -> int:
    """Train CartPole by PPO, then film exactly sixteen episodes of it."""
    quieten_native_libraries()
    require("torch", "torch", "demo")
    require("av", "video", "demo")
    _check_output(out)
    from vectasks.cli import demo

    agent = demo.Agent(seed)
    with progress_bar(f"{demo.ENV_ID}: training", steps, "steps") as bar:
        for state in demo.train(agent, steps, seed):
            if state.mean_return is not None:
                bar.show(state.steps, f"{demo.ENV_ID}: return {state.mean_return:.0f}")
    mean_return = "no episode ended" if state.mean_return is None else f"{state.mean_return:.1f}"
    print(
        f"{demo.ENV_ID}: {'solved' if state.is_solved else 'stopped'} after {state.steps} steps in "
        f"{state.elapsed_s:.0f} s ({state.steps / state.elapsed_s:.0f} steps/s), "
        f"mean return of the last episodes: {mean_return}"
    )
    with (
        whole_or_nothing(out) as partial_path,
        progress_bar(f"{demo.ENV_ID}: filming", _DEMO_EPISODES, "episodes") as bar,
    ):
        returns = demo.evaluate(agent, _DEMO_EPISODES, partial_path, seed, bar.advance)
    print(
        f"{out}: {len(returns)} episodes, return {min(returns):.0f} to {max(returns):.0f}, "
        f"mean {sum(returns) / len(returns):.1f}"
    )
    return 0


# -- record -----------------------------------------------------------------------------------


_NOTE = """
\b
A policy is a function of two lists that returns a third, each with one entry per sampler:
    def policy(observations, action_spaces):
        return [space.sample() for space in action_spaces]
It is found in MODULE as seen from the current directory.
"""


@commands.command(
    "record",
    epilog=examples(
        "vectasks record CartPole-v1 --out rollout.mp4",
        "vectasks record CartPole-v1 --policy my_policy:act --captions --out rollout.gif",
        note=_NOTE,
    ),
    short_help="Film a Gymnasium environment in many samplers at once.",
)
@click.argument("env_id", metavar="ENV_ID")
@options.out(help="The video: .mp4 or .gif.")
@options.whole_number("--samplers", 1, "Tiles.", default=9)
@options.whole_number("--steps", 1, "Of each one.", default=500)
@options.policy(required=False)
@options.seed(None, "The same seed gives the same video.")
@options.processes()
@options.whole_number("--fps", 1, "Frames per second.", default=30)
@click.option("--captions", is_flag=True, help="Episode, return and step on the tiles.")
def _record(
    env_id: str,
    out: Path,
    samplers: int,
    steps: int,
    policy: str | None,
    seed: int | None,
    processes: int | None,
    fps: int,
    captions: bool,
) -> int:
    """Film a Gymnasium environment in many samplers at once, as tiles of a video.

    ENV_ID is "CartPole-v1", "module:Id-v0", ...
    """
    quieten_native_libraries()
    see_current_directory()
    require("av", "video", "record")
    _check_output(out)
    _check_environment(env_id)
    if seed is None:
        seed = secrets.randbelow(2**31)
    act: Policy | None = None
    if policy is not None:
        act = load_callable(policy, "MODULE:FUNCTION", "--policy")

    from vectasks.rendering.video import VideoRecorder

    with (
        whole_or_nothing(out) as partial_path,
        _start_samplers(env_id, samplers, processes, seed) as tasks,
        VideoRecorder(
            tasks, partial_path, fps=fps, captions=captions, on_error="raise"
        ) as recorder,
        progress_bar(env_id, steps * samplers, "steps") as bar,
        _stop_on_interrupt() as is_interrupted,
    ):
        rollout = _Rollout(tasks, recorder, act or _random_policy(tasks.action_spaces, seed))
        for _ in range(steps):
            rollout.step()
            bar.advance(samplers)
            if is_interrupted():
                break
        summary = rollout.summary()
    print(f"{out}: {summary} (seed {seed})")
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
            raise CommandError(f"the policy raised {described(error)}") from error
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


def _random_policy(action_spaces: Sequence[Any], seed: int) -> Policy:
    """Act at random; a sampler's actions depend on the seed and the sampler's id alone."""
    # Copies, because in this process a space may be the environment's own.
    spaces = [copy.deepcopy(space) for space in action_spaces]
    for sampler_id, space in enumerate(spaces):
        space.seed(seed + sampler_id)
    return lambda observations, action_spaces: [space.sample() for space in spaces]


def _start_samplers(
    env_id: str, num_samplers: int, num_processes: int | None, seed: int
) -> VectorSampledTasks | SingleProcessVectorSampledTasks:
    from vectasks import SingleProcessVectorSampledTasks, VectorSampledTasks
    from vectasks.envs import GymnasiumTaskSampler

    sampler_fn_args = [{"env": env_id}] * num_samplers
    if num_processes == 0:
        return SingleProcessVectorSampledTasks(GymnasiumTaskSampler, sampler_fn_args, seed=seed)
    return VectorSampledTasks(
        GymnasiumTaskSampler,
        sampler_fn_args,
        seed=seed,
        max_processes=min(num_processes or os.cpu_count() or 1, num_samplers),
    )


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
    from vectasks.rendering.encoders import encoder_class_for
    from vectasks.rendering.film import require_writable

    encoder_class_for(path)
    try:
        require_writable(path)
    except OSError as error:
        raise CommandError(f"--out {path}: {error.strerror}") from error


def _check_environment(env_id: str) -> None:
    """Find out whether ``env_id`` can be made and looked at, without making it."""
    from vectasks.envs.gymnasium import can_give_images, find_spec

    try:
        is_visible = can_give_images(find_spec(env_id))
    except MissingExtra:
        raise
    except Exception as error:  # what it imports is the user's code
        raise CommandError(f"{env_id}: {one_line(error)}") from error
    if not is_visible:
        raise CommandError(f'{env_id}: it gives no images (it has no render_mode "rgb_array")')


for _module in (batch, check, evaluate, jobs, replay, report, top):
    commands.add_command(_module.command)
