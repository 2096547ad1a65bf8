"""Makes the README's picture from a real run: ``python docs/make_picture.py``.

Nine different games under random actions, stepped in two processes and filmed; the picture is one
frame of the film. Needs the extras ``video`` and ``atari``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import av

from vectasks import VectorSampledTasks
from vectasks.envs import GymnasiumTaskSampler
from vectasks.rendering.video import VideoRecorder

GAMES = [
    "MsPacman",
    "SpaceInvaders",
    "Breakout",
    "Seaquest",
    "Enduro",
    "Qbert",
    "Pong",
    "Freeway",
    "Frostbite",
]
STEPS, PICTURED = 160, 150


def main() -> None:
    """Film them and keep one frame."""
    arguments = [{"env": f"ALE/{name}-v5"} for name in GAMES]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "games.mp4")
        with (
            VectorSampledTasks(
                GymnasiumTaskSampler, arguments, heterogeneous=True, max_processes=2, seed=1
            ) as tasks,
            VideoRecorder(tasks, path, captions=True) as recorder,
        ):
            for i, space in enumerate(tasks.action_spaces):
                space.seed(i)
            for _ in range(STEPS):
                recorder.step([space.sample() for space in tasks.action_spaces])
        with av.open(str(path)) as film:
            for step, frame in enumerate(film.decode(video=0)):
                if step == PICTURED:
                    frame.to_image().save(Path(__file__).parent / "images" / "games.png")


if __name__ == "__main__":
    main()
