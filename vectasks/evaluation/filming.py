"""Film chosen episodes: one file per episode, from its first image to its very last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vectasks._util.extras import require
from vectasks.host.task_host import FINAL_FRAME, FRAME
from vectasks.rendering.encoders import encoder_class_for, frame_rate
from vectasks.rendering.film import Film, FilmThread, Shot
from vectasks.rendering.tiles import as_rgb
from vectasks.task import RLStepResult
from vectasks.vector import BaseVectorSampledTasks


class EpisodeFilmer:
    """Films some of the episodes that a vector plays.

    Args:
        vector: made with ``auto_resample_when_done=False``.
        paths: the file for each episode that is filmed, by the episode's number.
        fps: frames a second.

    Raises:
        MissingExtra: PyAV is missing, and there is something to film.
    """

    def __init__(
        self, vector: BaseVectorSampledTasks, paths: Mapping[int, Path], fps: float
    ) -> None:
        self._vector = vector
        self._paths = paths
        self._fps = fps
        self._films: dict[int, Film] = {}  # by sampler
        self._asked: set[int] = set()  # samplers whose steps bring their frames along
        self._thread: FilmThread | None = None
        if paths:
            require("av", "video", "evaluate's films")
            self._thread = FilmThread()

    def begin(self, sampler_id: int, episode: int) -> None:
        """Begin the film of an episode that a sampler is at the start of."""
        path = self._paths.get(episode)
        self._keep_frames(sampler_id, path is not None)
        if path is None:
            return
        encoder_class = encoder_class_for(path)
        self._films[sampler_id] = Film(path, encoder_class, frame_rate(self._fps, encoder_class))
        self._write(sampler_id, self._look_at(sampler_id))

    def film(self, sampler_id: int, result: RLStepResult) -> None:
        """Film a step that a sampler made."""
        if sampler_id not in self._films:
            return
        brought = result.info.get(FINAL_FRAME if result.done else FRAME) if result.info else None
        self._write(sampler_id, self._look_at(sampler_id) if brought is None else brought)
        if result.done:
            self._finish(sampler_id)

    def cut(self, sampler_id: int) -> None:
        """End the film of a failed episode with the images so far."""
        self._asked.discard(sampler_id)  # it may be restarted, and know of nothing
        self._finish(sampler_id)

    def _finish(self, sampler_id: int) -> None:
        film = self._films.pop(sampler_id, None)
        if film is not None and self._thread is not None:
            self._thread.finish(film)

    def _keep_frames(self, sampler_id: int, keep: bool) -> None:
        if keep != (sampler_id in self._asked):
            index = self._vector.sampler_ids.index(sampler_id)
            self._vector.command_at(index, "keep_frames", "all" if keep else "none")
            (self._asked.add if keep else self._asked.discard)(sampler_id)

    def _look_at(self, sampler_id: int) -> Any:
        return self._vector.command_at(self._vector.sampler_ids.index(sampler_id), "render")

    def _write(self, sampler_id: int, image: Any) -> None:
        assert self._thread is not None
        # A copy: the task may draw the next image into the same array.
        shown = np.array(as_rgb(image, f"the image of sampler {sampler_id}"))
        self._thread.write(self._films[sampler_id], [Shot(shown, None, True)])

    def __enter__(self) -> EpisodeFilmer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is not None:
            self._thread.close(keep=kind is None)
