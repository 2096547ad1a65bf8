"""An environment of any spaces, whose numbers survive being float32."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

SPACES = {
    "box": spaces.Box(-1, 1, (2, 3), np.float64),
    "scalar": spaces.Box(0, 255, (), np.uint8),
    "discrete": spaces.Discrete(5, start=-2),
    "multi-discrete": spaces.MultiDiscrete([3, 4]),
    "multi-binary": spaces.MultiBinary(3),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32))),
    "nested": spaces.Dict(
        {
            "place": spaces.Dict({"x": spaces.Discrete(4), "y": spaces.Discrete(5)}),
            "speed": spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (3,), np.float32))),
        }
    ),
    "text": spaces.Text(5),
    "text-and-box": spaces.Dict({"says": spaces.Text(4), "sees": spaces.Box(0, 1, (2,))}),
}


class SpaceEnv(gymnasium.Env[Any, Any]):
    """Random observations; every episode takes one step more, and the infos tell many things."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(
        self,
        space: spaces.Space[Any],
        render_mode: str | None = None,
        first_length: int = 2,
        action_space: spaces.Space[Any] | None = None,
    ) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(3) if action_space is None else action_space
        self.render_mode = render_mode
        self.length = first_length
        self.gravity = 9.81
        self.t = 0
        self.last_action: Any = None
        self.last_options: Any = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        self.length += 1
        self.last_options = options
        return self.observation_space.sample(), {"length": self.length}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.last_action = action
        is_over = self.t >= self.length
        info: dict[str, Any] = {}
        if self.t % 2:
            info = {"t": self.t, "half": self.t / 2, "deep": {"array": np.full(2, self.t)}}
        if self.t == 3:
            info["name"] = f"step {self.t}"
        reward = 0.5 * self.t
        by_time = self.length % 2 == 0
        both = self.length == 5
        return (
            self.observation_space.sample(),
            reward,
            is_over and not by_time,
            is_over and (by_time or both),
            info,
        )

    def render(self) -> Any:
        return None if self.render_mode is None else np.full((4, 6, 3), self.t, np.uint8)

    def scaled(self, factor: float, *, offset: float = 0.0) -> float:
        return self.gravity * factor + offset

    def process_id(self) -> int:
        return os.getpid()

    def is_daemonic(self) -> bool:
        return multiprocessing.current_process().daemon

    def start_process(self) -> int | None:
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()
        process.join()
        return process.exitcode
