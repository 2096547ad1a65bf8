"""Film four poles that are kept up by a rule of thumb.

Run it: python examples/record_video.py [FILE.mp4]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from vectasks import VectorSampledTasks
from vectasks.envs import GymnasiumTaskSampler
from vectasks.rendering.video import VideoRecorder

NUM_STEPS = 200


def lean_policy(observation: np.ndarray) -> int:
    """Push to where the pole leans and is falling."""
    _, _, angle, angular_velocity = observation
    return int(angle + 0.5 * angular_velocity > 0)


out = Path(sys.argv[1] if len(sys.argv) > 1 else "poles.mp4")
arguments = [{"env": "CartPole-v1"}] * 4

with (
    VectorSampledTasks(GymnasiumTaskSampler, arguments, seed=0, max_processes=2) as tasks,
    VideoRecorder(tasks, out, fps=30, captions=True) as recorder,
):
    observations = tasks.get_observations()
    for _ in range(NUM_STEPS):
        results = recorder.step([lean_policy(observation) for observation in observations])
        observations = [result.observation for result in results]
    stats = tasks.stats()

print(f"{out}: {stats['steps']} steps, {stats['episodes']} episodes ended")
