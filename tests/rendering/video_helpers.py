"""Helpers of the tests of videos: read them back, and vectors whose images tell who is seen."""

from __future__ import annotations

import numpy as np
import pytest

from vectasks.protocol import SamplerState
from vectasks.task import RLStepResult, Task, TaskSampler

av = pytest.importorskip("av")


def read(path):
    """All frames, uint8 [num_frames, height_px, width_px, 3], and the stream they come from."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), stream.codec_context, stream.average_rate


def colour_of(cell):
    """The colour in the middle of a tile, int [3]."""
    height_px, width_px, _ = cell.shape
    middle = cell[height_px // 3 : -height_px // 3, width_px // 3 : -width_px // 3]
    return middle.reshape(-1, 3).astype(int).mean(axis=0)


def is_like(cell, value, tolerance=4):
    return bool(np.abs(colour_of(cell) - value).max() <= tolerance)


class FakeVector:
    """Samplers whose image tells the id (red), the episode (green) and the step (blue)."""

    def __init__(self, count=2, episode_length=100, height_px=32, width_px=48):
        self.is_closed = False
        self.sampler_states = dict.fromkeys(range(count), SamplerState.READY)
        self.keeping = dict.fromkeys(range(count), "none")
        self.size_px = dict.fromkeys(range(count), (height_px, width_px))
        self.counts = {i: [0, 0] for i in range(count)}  # episode, step
        self.episode_length = episode_length
        self.given = None

    @property
    def sampler_ids(self):
        return [i for i, s in self.sampler_states.items() if s is not SamplerState.PAUSED]

    def image(self, i):
        episode, step = self.counts[i]
        image = np.empty((*self.size_px[i], 3), np.uint8)
        image[:] = (60 + 40 * i, 40 * episode, 20 * step)
        return image

    def step(self, actions):
        self.given = []
        for i in self.sampler_ids:
            self.counts[i][1] += 1
            info, done = {"id": i}, self.counts[i][1] == self.episode_length
            if done and self.keeping[i] != "none":
                info["final_frame"] = self.image(i).copy()  # infos are owned
            elif self.keeping[i] == "all":
                info["frame"] = self.image(i).copy()
            if done:
                self.counts[i] = [self.counts[i][0] + 1, 0]
            self.given.append(RLStepResult(i, 1.0, done, info))
        return self.given

    def render(self, mode):
        assert mode == "raw_rgb_list"
        return [self.image(i) for i in self.sampler_ids]

    def command(self, commands, data_list):
        return [self.command_at(k, commands, data) for k, data in enumerate(data_list)]

    def command_at(self, sampler_index, command, data=None):
        sampler_id = self.sampler_ids[sampler_index]
        if command == "render":
            assert self.sampler_states[sampler_id] is SamplerState.READY
            return self.image(sampler_id)
        assert command == "keep_frames"
        self.keeping[sampler_id] = data
        return None


class ColourTask(Task):
    """Two steps long; its image tells the sampler (red), the episode (green), the step (blue)."""

    action_space = None

    def __init__(self, sampler, episode):
        super().__init__(env=None, max_steps=2)
        self.sampler, self.episode = sampler, episode

    def _step(self, action):
        if action == "fail":
            raise ValueError("told to")
        return RLStepResult(0, 1.0, False, {})

    def get_observations(self):
        return 0

    def render(self, mode="rgb"):
        image = np.empty((24, 32, 3), np.uint8)
        image[:] = (50 + 100 * self.sampler, 40 * self.episode, 60 * self.num_steps_taken())
        return image


class ColourSampler(TaskSampler):
    def __init__(self, sampler, num_tasks):
        self.sampler, self.num_tasks, self.sampled = sampler, num_tasks, 0

    def next_task(self):
        if self.sampled == self.num_tasks:
            return None
        self.sampled += 1
        return ColourTask(self.sampler, self.sampled - 1)
