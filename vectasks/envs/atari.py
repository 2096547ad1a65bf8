"""Atari games as tasks, straight on the emulator: it draws its screen where the vector wants it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vectasks.errors import InvalidArgument
from vectasks.extras import require
from vectasks.task import RLStepResult, Task, TaskSampler

__all__ = ["AtariTask", "AtariTaskSampler"]

_SEED_LIMIT = 2**31
_IMAGE_MODES = ("rgb", "rgb_array")
_OBS_TYPES = ("rgb", "grayscale")


class AtariTask(Task[Any]):
    """One episode of an Atari game that was just begun; an *in-place* task.

    Its steps return no observation: the emulator draws the screen straight into the array that
    ``write_observation`` is handed, so that nothing is copied on the way. The step that ends the
    episode has ``info["terminated"]`` and ``info["truncated"]`` (bools); other infos are empty.

    Args:
        ale: the emulator, an ``ale_py.ALEInterface``; the sampler keeps it.
        actions: the emulator's action for each number of the action space.
        frameskip: frames that an action is held for.
        observation_space: uint8 [height_px, width_px, 3], or without the 3: in shades of grey.
        action_space: as many numbers as there are ``actions``.
        task_info: see :class:`vectasks.Task`.
    """

    def __init__(
        self,
        ale: Any,
        actions: list[Any],
        frameskip: int,
        observation_space: spaces.Box,
        action_space: spaces.Discrete,
        task_info: dict[str, Any],
    ) -> None:
        super().__init__(ale, task_info=task_info, observation_space=observation_space)
        self._actions = actions
        self._frameskip = frameskip
        self._action_space = action_space
        in_color = len(observation_space.shape) == 3
        self._draw = ale.getScreenRGB if in_color else ale.getScreenGrayscale
        self._terminated = False
        self._truncated = False

    @property
    def action_space(self) -> spaces.Discrete:
        """The joystick's positions that the game knows (all, with ``full_action_space``)."""
        return self._action_space

    @property
    def lives(self) -> int:
        """Lives left."""
        return int(self.env.lives())

    def _step(self, action: Any) -> RLStepResult:
        ale, joystick = self.env, self._actions[action]
        reward = 0.0
        for _ in range(self._frameskip):
            reward += ale.act(joystick)
        self._terminated = ale.game_over(with_truncation=False)
        self._truncated = ale.game_truncated()
        if not self.is_done():
            return RLStepResult(None, reward, False, None)
        info = {"terminated": self._terminated, "truncated": self._truncated}
        return RLStepResult(None, reward, True, info)

    def write_observation(self, out: NDArray[np.uint8]) -> None:
        """Write the screen into ``out``, an array of the observation space's shape."""
        if out.dtype == np.uint8 and out.flags.c_contiguous:
            self._draw(out)
        else:  # the emulator refuses these
            np.copyto(out, self._draw())

    def get_observations(self) -> NDArray[np.uint8]:
        """The screen, as a new array."""
        screen: NDArray[np.uint8] = self._draw()
        return screen

    def is_done(self) -> bool:
        """Whether the episode was terminated or truncated."""
        return self._terminated or self._truncated

    def reached_max_steps(self) -> bool:
        """Whether the limit in frames ended the episode."""
        return self._truncated

    def reached_terminal_state(self) -> bool:
        """Whether the game is over."""
        return self._terminated

    def metrics(self) -> dict[str, Any]:
        """``reward`` (the episode's return) and ``ep_length`` (its steps)."""
        return {"reward": self._total_reward, "ep_length": self._num_steps_taken}

    def render(self, mode: str = "rgb", *args: Any, **kwargs: Any) -> NDArray[np.uint8]:
        """The screen in colour: uint8 [height_px, width_px, 3].

        Raises:
            ValueError: ``mode`` is neither ``"rgb"`` nor ``"rgb_array"``.
        """
        if mode not in _IMAGE_MODES:
            raise ValueError(f"render() got the mode {mode!r}; it takes one of {_IMAGE_MODES}.")
        screen: NDArray[np.uint8] = self.env.getScreenRGB()
        return screen


class AtariTaskSampler(TaskSampler[AtariTask]):
    """An endless stream of episodes of one Atari game, on the emulator (``ale_py``) itself.

    Every episode starts from a fresh seed, drawn from a generator that ``seed`` seeds, and can so
    be had again by itself. A task's ``task_info`` holds ``game``, ``seed`` and ``episode``
    (counted from 0). The defaults are those of Gymnasium's ``"ALE/...-v5"``.

    Args:
        game: as in Gymnasium's ids or as the emulator calls it: ``"SpaceInvaders"``,
            ``"space_invaders"``.
        obs_type: colours, uint8 [210, 160, 3] with most games, or shades of grey, [210, 160].
        frameskip: frames that an action is held for.
        repeat_action_probability: how likely the joystick sticks where it was, at each frame.
        max_num_frames_per_episode: the episode is truncated after so many frames; 0: no limit.
        full_action_space: all 18 actions, also those that do nothing in this game.
        seed: seeds the episodes; None draws the seed from the operating system.

    Raises:
        InvalidArgument: the emulator has no such game; or another argument is out of its range.
        ModuleNotFoundError: ``ale_py`` is not installed.
    """

    def __init__(
        self,
        game: str,
        *,
        obs_type: Literal["rgb", "grayscale"] = "rgb",
        frameskip: int = 4,
        repeat_action_probability: float = 0.25,
        max_num_frames_per_episode: int = 108_000,
        full_action_space: bool = False,
        seed: int | None = None,
    ) -> None:
        if obs_type not in _OBS_TYPES:
            raise InvalidArgument(f"obs_type must be one of {_OBS_TYPES}, got {obs_type!r}.")
        if frameskip < 1:
            raise InvalidArgument(f"frameskip must be at least 1, got {frameskip!r}.")
        ale_py = _import_ale()
        self.game: str = _rom_id(game, ale_py.roms.get_all_rom_ids())
        self._rom_path = ale_py.roms.get_rom_path(self.game)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", float(repeat_action_probability))
        self._ale.setInt("max_num_frames_per_episode", max_num_frames_per_episode)
        self._ale.loadROM(self._rom_path)
        self._actions: list[Any] = (
            self._ale.getLegalActionSet() if full_action_space else self._ale.getMinimalActionSet()
        )
        shape = (*self._ale.getScreenDims(), 3)[: 3 if obs_type == "rgb" else 2]
        self.observation_space: spaces.Box = spaces.Box(0, 255, shape, np.uint8)
        self.action_space: spaces.Discrete = spaces.Discrete(len(self._actions))
        self._frameskip = frameskip
        self._num_sampled = 0
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        #: What ``set_seed`` must be given to have this sampler's episodes again.
        self.initial_seed: int = seed
        self._rng = np.random.default_rng(seed)

    episodes_are_independent = True

    def skip_task(self, **kwargs: Any) -> None:
        """Count one episode and draw its seed, but load nothing."""
        self._rng.integers(_SEED_LIMIT)
        self._num_sampled += 1

    def next_task(self, **kwargs: Any) -> AtariTask:
        """Begin the next episode; keywords that other samplers understand are ignored."""
        seed = int(self._rng.integers(_SEED_LIMIT))
        self._ale.setInt("random_seed", seed)
        self._ale.loadROM(self._rom_path)  # the emulator takes a seed only when it loads a game
        self._ale.reset_game()
        self._last_sampled_task = AtariTask(
            self._ale,
            self._actions,
            self._frameskip,
            self.observation_space,
            self.action_space,
            {"game": self.game, "seed": seed, "episode": self._num_sampled},
        )
        self._num_sampled += 1
        return self._last_sampled_task

    def reset(self) -> None:
        """Count the episodes from 0 again; the random state stays as it is."""
        self._num_sampled = 0

    def set_seed(self, seed: int) -> None:
        """Seed the episodes that are sampled from now on."""
        self._rng = np.random.default_rng(seed)


def _import_ale() -> Any:
    ale_py = require("ale_py", "atari", "Atari games")
    require("ale_py.roms", "atari", "Atari games")
    return ale_py


def _rom_id(game: str, rom_ids: list[str]) -> str:
    """What the emulator calls a game: ``space_invaders`` for ``SpaceInvaders``."""
    for rom_id in rom_ids:
        if rom_id.replace("_", "") == str(game).replace("_", "").lower():
            return rom_id
    raise InvalidArgument(
        f"there is no Atari game {game!r}; ale_py.roms.get_all_rom_ids() lists them (give "
        '"Breakout" or "breakout" rather than "ALE/Breakout-v5").'
    )
