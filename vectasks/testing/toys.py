"""Toy tasks: small, deterministic, and each with one trait for tests.

All of them are made by one sampler, :class:`ToySampler`, which is importable by spawned children::

    tasks = VectorSampledTasks(ToySampler, toy_args(CountingTask, 4, max_steps=3))

Options that the sampler does not know itself go to the task, as attributes of its ``options``.
"""

# ruff: noqa: D102  (what overrides do is told where they are declared)

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vectasks._util.checks import whole_number
from vectasks.task import RLStepResult, Task, TaskSampler

__all__ = [
    "CountingTask",
    "FailingTask",
    "GraphTask",
    "ImageTask",
    "InfoTask",
    "LargeTask",
    "MultiAgentTask",
    "NestedTask",
    "RandomWalk",
    "ReusingTask",
    "SlowTask",
    "StubbornToyError",
    "TextTask",
    "TorchTask",
    "ToyError",
    "ToySampler",
    "ToyTask",
    "ToyWorld",
    "toy_args",
]


@dataclass
class ToyWorld:
    """The ``env`` of every toy task.

    Attributes:
        sampler: number of the sampler, as its arguments give it.
        episode: number of the task, from 0 since the start or the last ``reset()``.
        rng: the sampler's random state.
        buffer: int32 [3], shared by all tasks of the sampler.
        notes: whatever a test wants to leave behind.
    """

    sampler: int
    episode: int
    rng: np.random.Generator
    buffer: NDArray[np.int32] = field(default_factory=lambda: np.zeros(3, np.int32))
    notes: dict[str, Any] = field(default_factory=dict)


class ToyTask(Task[ToyWorld]):
    """Base of the toys: observation int32 [3] of (sampler, episode, step), four actions.

    The reward is ``action + step / 8``, which floats hold exactly.

    Args:
        world: the sampler's world, at this task's episode.
        max_steps: length of the episode.
        options: what :class:`ToySampler` was given beyond its own parameters.
    """

    space: ClassVar[Any] = spaces.Box(0, 2**31 - 1, (3,), np.int32)
    actions: ClassVar[Any] = spaces.Discrete(4)

    def __init__(self, world: ToyWorld, max_steps: float, options: Mapping[str, Any]) -> None:
        super().__init__(
            env=world,
            task_info={"sampler": world.sampler, "episode": world.episode},
            max_steps=max_steps,
            observation_space=self.space,
        )
        self.options: SimpleNamespace = SimpleNamespace(**options)
        self.episode: int = world.episode
        self.step_number: int = 0  # tells of a step already while it is taken
        self.last_action: Any = None
        self.note = "unset"
        self._private = "private"
        self.begin()

    def begin(self) -> None:
        """Draw what this episode needs; called once, at its start."""

    @property
    def action_space(self) -> Any:
        return self.actions

    def _step(self, action: Any) -> RLStepResult:
        self.step_number += 1
        self.last_action = action
        self.move(action)
        return RLStepResult(self.get_observations(), self.reward(action), None, self.info())

    def move(self, action: Any) -> None:
        """Change the state."""

    def reward(self, action: Any) -> Any:
        """Return the reward of the current step."""
        return float(action) + self.step_number / 8

    def info(self) -> Any:
        """Return the info of the current step."""
        return {"sampler": self.env.sampler}

    def counts(self) -> tuple[int, int, int]:
        """Return (sampler, episode, step)."""
        return (self.env.sampler, self.episode, self.step_number)

    def get_observations(self) -> Any:
        return np.array(self.counts(), np.int32)

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> NDArray[np.uint8]:
        """Return uint8 [8, 12, 3]: one colour, which sampler, episode and step determine."""
        return np.tile(np.array(self.counts(), np.uint8) * 20, (8, 12, 1))

    # What call(), call_at() and attr() can be tried on.

    def add(self, left: Any, right: Any = 0) -> Any:
        """Return the sum of the two."""
        return left + right

    def echo(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the argument."""
        return args, kwargs

    def nap(self, duration_s: float) -> str:
        """Sleep, then answer."""
        time.sleep(duration_s)
        return "rested"

    def pid(self) -> int:
        """Return the id of the process that the task lives in."""
        return os.getpid()

    def received(self) -> tuple[str, str]:
        """Return type name and dtype (or "") of the last action, as the task received it."""
        return type(self.last_action).__name__, str(getattr(self.last_action, "dtype", ""))

    def _whisper(self) -> str:
        return f"psst from {self.env.sampler}"

    def close(self) -> None:
        _leave_mark(vars(self.options), f"task {self.env.sampler}")


class ToySampler(TaskSampler[ToyTask]):
    """Makes ``num_tasks`` toy tasks.

    Args:
        task_class: which toy.
        sampler: number that observations tell.
        max_steps: length of every episode.
        num_tasks: how many there are until None.
        seed: of the random state.
        mp_ctx: accepted, as AllenAct's samplers do; kept as an attribute.
        options: go to the tasks. ``fail_at="make"`` raises here; ``marks`` is a directory into
            which each closed task and sampler puts a file.
    """

    def __init__(
        self,
        task_class: type[ToyTask],
        sampler: int = 0,
        max_steps: float = 4,
        num_tasks: float = math.inf,
        seed: int | None = 0,
        mp_ctx: Any = None,
        **options: Any,
    ) -> None:
        if options.get("fail_at") == "make":
            raise ToyError(_on_purpose("make", sampler))
        self.task_class = task_class
        self.max_steps = max_steps
        self.num_tasks = num_tasks
        self.mp_ctx = mp_ctx
        self.options = options
        self.world: ToyWorld = ToyWorld(sampler, -1, np.random.default_rng(seed))
        self.keywords: dict[str, Any] = {}

    def next_task(self, **kwargs: Any) -> ToyTask | None:
        self.keywords = kwargs
        if self.options.get("fail_at") == "next_task" and self.world.episode >= 0:
            raise ToyError(_on_purpose("next_task", self.world.sampler))
        if self.length <= 0:
            self._last_sampled_task = None
            return None
        self.world.episode += 1
        task = self.task_class(self.world, self.max_steps, self.options)
        self._last_sampled_task = task
        return task

    @property
    def length(self) -> float:
        return self.num_tasks - (self.world.episode + 1)

    def reset(self) -> None:
        self.world.episode = -1

    def set_seed(self, seed: int) -> None:
        self.world.rng = np.random.default_rng(seed)

    def scale(self, factor: int, offset: int = 0) -> int:
        """Return ``factor`` times the sampler's number, plus ``offset``."""
        return factor * self.world.sampler + offset

    def close(self) -> None:
        _leave_mark(self.options, f"sampler {self.world.sampler}")


def toy_args(task_class: type[ToyTask], count: int, **options: Any) -> list[dict[str, Any]]:
    """Return the arguments for ``count`` samplers of one toy.

    An option given as a list has one value per sampler.

    >>> [a["max_steps"] for a in toy_args(CountingTask, 2, max_steps=[3, 5])]
    [3, 5]
    """
    return [
        {
            "task_class": task_class,
            "sampler": i,
            **{key: v[i] if isinstance(v, list) else v for key, v in options.items()},
        }
        for i in range(whole_number("count", count))
    ]


class ToyError(RuntimeError):
    """Raised on purpose."""


class StubbornToyError(Exception):
    """Raised on purpose; made from two arguments, which pickle does not know of."""

    def __init__(self, place: str, sampler: int) -> None:
        super().__init__(_on_purpose(place, sampler))
        self.place = place


class CountingTask(ToyTask):
    """Tells (sampler, episode, step), nothing else."""


class InfoTask(ToyTask):
    """Its info is the option ``step_info`` (None included), the same at each step."""

    def info(self) -> Any:
        return self.options.step_info


class RandomWalk(ToyTask):
    """A seeded walk in the plane that ends at a distance; actions and observations are Boxes."""

    space: ClassVar[Any] = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    actions: ClassVar[Any] = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def begin(self) -> None:
        self.position: NDArray[np.float32] = self.env.rng.uniform(-1.0, 1.0, 2).astype(np.float32)

    def move(self, action: Any) -> None:
        noise = self.env.rng.normal(scale=0.3, size=2).astype(np.float32)
        self.position = self.position + action + noise

    def reward(self, action: Any) -> float:
        return -float(np.linalg.norm(self.position))

    def reached_terminal_state(self) -> bool:
        return bool(np.linalg.norm(self.position) > getattr(self.options, "limit", 3.0))

    def get_observations(self) -> Any:
        return self.position.copy()


class NestedTask(ToyTask):
    """Observations and actions are nested Dicts and Tuples of every fixed-shape kind."""

    space: ClassVar[Any] = spaces.Dict(
        {
            "rgb": spaces.Box(0, 255, (6, 5, 3), np.uint8),
            "pose": spaces.Tuple((spaces.Box(-9.0, 9.0, (3,), np.float64), spaces.Discrete(5))),
            "flags": spaces.MultiBinary(4),
            "choice": spaces.MultiDiscrete([3, 7]),
        }
    )
    actions: ClassVar[Any] = spaces.Dict(
        {
            "move": spaces.Discrete(3),
            "aim": spaces.Tuple((spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(2))),
        }
    )

    def reward(self, action: Any) -> float:
        return float(action["move"]) + float(action["aim"][0].sum())

    def get_observations(self) -> Any:
        rng = np.random.default_rng(self.counts())
        return {
            "rgb": rng.integers(0, 256, (6, 5, 3), np.uint8),
            "pose": (rng.uniform(-9, 9, 3), rng.integers(5)),
            "flags": rng.integers(0, 2, 4, np.int8),
            "choice": rng.integers(0, [3, 7]),
        }


class ReusingTask(ToyTask):
    """Writes every observation, also the next task's, into one and the same array."""

    def get_observations(self) -> Any:
        self.env.buffer[:] = self.counts()
        return self.env.buffer

    def info(self) -> Any:
        return {"array": self.env.buffer}

    def metrics(self) -> dict[str, Any]:
        return {"array": self.env.buffer}


class LargeTask(ToyTask):
    """Observes an image, large enough to be handed out without a copy, beside its counts."""

    space: ClassVar[Any] = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (24, 32, 3), np.uint8),
            "counts": spaces.Box(0, 2**31 - 1, (3,), np.int32),
        }
    )

    def get_observations(self) -> Any:
        counts = np.array(self.counts(), np.int32)
        return {"counts": counts, "image": np.resize(counts.astype(np.uint8), (24, 32, 3))}


class TextTask(ToyTask):
    """Observes a Text beside a number."""

    space: ClassVar[Any] = spaces.Dict(
        {"words": spaces.Text(40), "number": spaces.Box(0, 99, (1,), np.int64)}
    )

    def get_observations(self) -> Any:
        sampler, episode, step = self.counts()
        return {"words": f"s{sampler}e{episode}t{'x' * step}", "number": np.array([step])}


class GraphTask(ToyTask):
    """Observes a Graph that grows by one node a step."""

    space: ClassVar[Any] = spaces.Graph(spaces.Box(-9.0, 9.0, (2,), np.float32), spaces.Discrete(3))

    def get_observations(self) -> Any:
        num_nodes = 2 + self.step_number
        return spaces.GraphInstance(
            nodes=np.full((num_nodes, 2), self.env.sampler, np.float32),
            edges=np.arange(num_nodes - 1) % 3,
            edge_links=np.stack([np.arange(num_nodes - 1), np.arange(1, num_nodes)], axis=1),
        )


class TorchTask(ToyTask):
    """Observes a torch tensor, int32 [3]."""

    def get_observations(self) -> Any:
        import torch

        return torch.tensor(self.counts(), dtype=torch.int32)


class MultiAgentTask(ToyTask):
    """Two agents: an action each, a reward each."""

    actions: ClassVar[Any] = spaces.Tuple((spaces.Discrete(3), spaces.Discrete(3)))

    def reward(self, action: Any) -> list[float]:
        return [float(a) + 0.5 for a in action]


class ImageTask(ToyTask):
    """Renders in the size of its options ``height_px``, ``width_px``, ``channels`` (0: no axis)."""

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> NDArray[np.uint8]:
        """Return uint8 [height_px, width_px(, channels)]: 40 times (sampler + 1), and opaque."""
        shape: tuple[int, ...] = (self.options.height_px, self.options.width_px)
        if self.options.channels:
            shape += (self.options.channels,)
        image = np.full(shape, 40 * (self.env.sampler + 1), np.uint8)
        if self.options.channels == 4:
            image[..., 3] = 255
        return image


class FailingTask(ToyTask):
    """Fails at the place, step and in the way that its options name.

    Options:
        fail_at: "step" (default), "get_observations", "render", "metrics" or "close".
        fail_sampler, fail_episode, fail_step: in this sampler (default 0) and episode (default 0),
            from this step (default 2) on.
        how: "raise" (default), "raise_stubborn" (an exception that pickle cannot rebuild), "exit"
            (the process ends with code 7), "kill" (SIGKILL) or "none" (the observation is None).
    """

    def _fail(self, place: str) -> None:
        options = self.options
        if (
            getattr(options, "fail_at", "step") != place
            or self.env.sampler != getattr(options, "fail_sampler", 0)
            or self.episode != getattr(options, "fail_episode", 0)
            or self.step_number < getattr(options, "fail_step", 2)
        ):
            return
        how = getattr(options, "how", "raise")
        if how == "raise":
            raise ToyError(_on_purpose(place, self.env.sampler))
        if how == "raise_stubborn":
            raise StubbornToyError(place, self.env.sampler)
        if how == "exit":
            os._exit(7)
        if how == "kill":
            os.kill(os.getpid(), 9)

    def move(self, action: Any) -> None:
        self._fail("step")

    def get_observations(self) -> Any:
        self._fail("get_observations")
        if getattr(self.options, "how", "") == "none" and self.step_number >= 2:
            return None
        return super().get_observations()

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> NDArray[np.uint8]:
        self._fail("render")
        return super().render(mode)

    def metrics(self) -> dict[str, Any]:
        self._fail("metrics")
        return super().metrics()

    def close(self) -> None:
        super().close()
        self._fail("close")


class SlowTask(ToyTask):
    """Sleeps ``delay_s`` seconds in step ``slow_step`` (1) of sampler ``slow_sampler`` (0)."""

    def move(self, action: Any) -> None:
        options = self.options
        if (
            self.env.sampler == getattr(options, "slow_sampler", 0)
            and self.episode == 0
            and self.step_number == getattr(options, "slow_step", 1)
        ):
            time.sleep(options.delay_s)


def _on_purpose(place: str, sampler: int) -> str:
    return f"toy failed on purpose in {place} of sampler {sampler}"


def _leave_mark(options: Mapping[str, Any], name: str) -> None:
    if options.get("marks") is not None:
        with (Path(options["marks"]) / name).open("a", encoding="utf-8") as file:
            file.write("closed\n")
