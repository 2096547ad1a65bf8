"""Atari games as tasks, straight on the emulator: it draws its screen where the vector wants it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from vectasks._util.checks import checked_seed, real_number, whole_number
from vectasks._util.extras import require
from vectasks.envs.episode_end import EpisodeEnd
from vectasks.errors import InvalidArgument
from vectasks.task import RLStepResult, Task, TaskSampler

__all__ = ["AtariTask", "AtariTaskSampler", "StackedAtariTask"]

_SEED_LIMIT = 2**31
_IMAGE_MODES = ("rgb", "rgb_array")
_OBS_TYPES = ("rgb", "grayscale", "stacked")


class AtariTask(EpisodeEnd, Task[Any]):
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
        return self._result(reward)

    def _result(self, reward: float) -> RLStepResult:
        if not self.is_done():
            return RLStepResult(None, reward, False, None)
        return RLStepResult(None, reward, True, self._end_flags())

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


class StackedAtariTask(AtariTask):
    """The same as agents are usually shown it: the last screens, small and in shades of grey.

    Each is the brighter of a step's last two frames, pixel by pixel, since sprites may be drawn in
    every other frame only (Mnih et al. 2015, "Human-level control through deep reinforcement
    learning"). The same pixels as Gymnasium's ``AtariPreprocessing`` and ``FrameStackObservation``
    give, in less time: only frames that are looked at are drawn. In the beginning all screens are
    the first one. It takes what :class:`AtariTask` takes.
    """

    def __init__(self, ale: Any, *others: Any) -> None:
        super().__init__(ale, *others)
        cv2 = require("cv2", None, "stacked Atari screens")
        self._resize, self._interpolation = cv2.resize, cv2.INTER_AREA
        self._draw = ale.getScreenGrayscale
        self._last: NDArray[np.uint8] = ale.getScreenGrayscale()
        self._before_last = np.zeros_like(self._last)
        self._stack = np.empty(self.observation_space.shape, np.uint8)
        self._stack[:] = self._small_screen()

    def _step(self, action: Any) -> RLStepResult:
        ale, joystick = self.env, self._actions[action]
        reward = 0.0
        for frames_left in range(self._frameskip - 1, -1, -1):
            reward += ale.act(joystick)
            self._terminated = ale.game_over(with_truncation=False)
            self._truncated = ale.game_truncated()
            if self._terminated or self._truncated:
                break
            if frames_left == 1:
                self._draw(self._before_last)
            elif frames_left == 0:
                self._draw(self._last)
        self._stack[:-1] = self._stack[1:]
        self._stack[-1] = self._small_screen()
        return self._result(reward)

    def _small_screen(self) -> NDArray[np.uint8]:
        if self._frameskip > 1:
            np.maximum(self._last, self._before_last, out=self._last)
        height_px, width_px = self._stack.shape[1:]
        small: NDArray[np.uint8] = self._resize(
            self._last, (width_px, height_px), interpolation=self._interpolation
        )
        return small

    def write_observation(self, out: NDArray[np.uint8]) -> None:
        """Write the screens into ``out``, an array of the observation space's shape."""
        out[...] = self._stack

    def get_observations(self) -> NDArray[np.uint8]:
        """The last screens, the latest one last, as a new array."""
        return self._stack.copy()


class AtariTaskSampler(TaskSampler[AtariTask]):
    """An endless stream of episodes of one Atari game, on the emulator (``ale_py``) itself.

    Every episode starts from a fresh seed, drawn from a generator that ``seed`` seeds, and can so
    be replayed by itself; for that the emulator loads the game again, which takes many times as
    long as a reset (see ``seed_each_episode``). A task's ``task_info`` holds ``game``, ``seed`` (or
    None) and ``episode`` (counted from 0). The defaults are those of Gymnasium's ``"ALE/...-v5"``.

    Args:
        game: as in Gymnasium's ids or as the emulator calls it: ``"SpaceInvaders"``,
            ``"space_invaders"``.
        obs_type: "rgb", colours, uint8 [210, 160, 3] with most games; "grayscale", shades of grey,
            [210, 160]; or "stacked", the last screens, grey and small:
            [num_stacked, screen_size_px, screen_size_px].
        frameskip: frames that an action is held for.
        repeat_action_probability: how likely the joystick sticks where it was, at each frame.
        max_num_frames_per_episode: the episode is truncated after so many frames; 0: no limit.
        full_action_space: all 18 actions, also those that do nothing in this game.
        seed: seeds the episodes; None draws the seed from the operating system.
        seed_each_episode: False seeds one episode and lets the following ones go on from there.
        screen_size_px: the height and the width of a stacked screen.
        num_stacked: how many of them.
        noop_max: begin a stacked episode with 1 to so many frames in which nothing is done, drawn
            by its seed; 0: none.

    Raises:
        InvalidArgument: the emulator has no such game; or another argument is out of its range.
        ModuleNotFoundError: ``ale_py`` is not installed.
    """

    def __init__(
        self,
        game: str,
        *,
        obs_type: Literal["rgb", "grayscale", "stacked"] = "rgb",
        frameskip: int = 4,
        repeat_action_probability: float = 0.25,
        max_num_frames_per_episode: int = 108_000,
        full_action_space: bool = False,
        seed: int | None = None,
        seed_each_episode: bool = True,
        screen_size_px: int = 84,
        num_stacked: int = 4,
        noop_max: int = 30,
    ) -> None:
        if obs_type not in _OBS_TYPES:
            raise InvalidArgument(f"obs_type must be one of {_OBS_TYPES}, got {obs_type!r}.")
        frameskip = whole_number("frameskip", frameskip, at_least=1)
        screen_size_px = whole_number("screen_size_px", screen_size_px, at_least=1)
        num_stacked = whole_number("num_stacked", num_stacked, at_least=1)
        noop_max = whole_number("noop_max", noop_max)
        num_frames = whole_number("max_num_frames_per_episode", max_num_frames_per_episode)
        repetition = real_number("repeat_action_probability", repeat_action_probability)
        if seed is not None:
            seed = checked_seed(seed)
        ale_py = _import_ale()
        self.game: str = _rom_id(game, ale_py.roms.get_all_rom_ids())
        self._rom_path = ale_py.roms.get_rom_path(self.game)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", repetition)
        self._ale.setInt("max_num_frames_per_episode", num_frames)
        self._ale.loadROM(self._rom_path)
        self._actions: list[Any] = (
            self._ale.getLegalActionSet() if full_action_space else self._ale.getMinimalActionSet()
        )
        shape: tuple[int, ...] = (num_stacked, screen_size_px, screen_size_px)
        if obs_type != "stacked":
            shape = (*self._ale.getScreenDims(), 3)[: 3 if obs_type == "rgb" else 2]
        self._make_task = StackedAtariTask if obs_type == "stacked" else AtariTask
        self._noop_max = noop_max if obs_type == "stacked" else 0
        self._noop = ale_py.Action.NOOP
        self.observation_space: spaces.Box = spaces.Box(0, 255, shape, np.uint8)
        self.action_space: spaces.Discrete = spaces.Discrete(len(self._actions))
        self._frameskip = frameskip
        self._num_sampled = 0
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        #: What ``set_seed`` must be given to replay this sampler's episodes.
        self.initial_seed: int = seed
        self.seed_each_episode: bool = seed_each_episode
        self._rng = np.random.default_rng(seed)
        self._is_seeded = True  # and the next episode takes a seed from it

    @property
    def episodes_are_independent(self) -> bool:  # type: ignore[override]
        """True if each episode can be replayed by itself: if each has a seed of its own."""
        return self.seed_each_episode

    def skip_task(self, **kwargs: Any) -> None:
        """Count one episode and draw its seed, but load nothing; without one it is begun."""
        if not self.seed_each_episode:
            self.next_task(**kwargs)
            return
        self._rng.integers(_SEED_LIMIT)
        self._num_sampled += 1

    def next_task(self, seed: int | None = None, **kwargs: Any) -> AtariTask:
        """Begin the next episode; keywords that other samplers understand are ignored.

        Args:
            seed: of the emulator, in place of the sampler's own, which is left out.
            **kwargs: are ignored.
        """
        if self.seed_each_episode or self._is_seeded:
            self._is_seeded = False
            own_seed = int(self._rng.integers(_SEED_LIMIT))
            seed = own_seed if seed is None else seed
        if seed is not None:
            seed = checked_seed(seed)
            self._ale.setInt("random_seed", seed)
            self._ale.loadROM(self._rom_path)  # the emulator takes a seed only when it loads a game
            self._noop_rng = np.random.default_rng(seed)
        self._ale.reset_game()
        if self._noop_max:
            for _ in range(self._noop_rng.integers(1, self._noop_max + 1)):
                self._ale.act(self._noop)
                if self._ale.game_over():
                    self._ale.reset_game()
        self._last_sampled_task = self._make_task(
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
        self._rng, self._is_seeded = np.random.default_rng(seed), True


def _import_ale() -> Any:
    ale_py = require("ale_py", "atari", "Atari games")
    require("ale_py.roms", "atari", "Atari games")
    return ale_py


def _rom_id(game: str, rom_ids: list[str]) -> str:
    """Return the emulator's name of a game: ``space_invaders`` for ``SpaceInvaders``."""
    for rom_id in rom_ids:
        if rom_id.replace("_", "") == str(game).replace("_", "").lower():
            return rom_id
    raise InvalidArgument(
        f"there is no Atari game {game!r}; ale_py.roms.get_all_rom_ids() lists them (give "
        '"Breakout" or "breakout" rather than "ALE/Breakout-v5").'
    )
