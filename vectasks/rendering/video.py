"""Videos of a vector, written while it runs.

A :class:`VideoRecorder` looks at the samplers after each step, and hands the images to a
:class:`~vectasks.rendering.film.FilmThread`, which draws and encodes them beside the rollout.
A file grows under a temporary name beside the one that was asked for, and is renamed when it is
whole.
"""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import whole_number
from vectasks._util.extras import require
from vectasks.batch import StepBatch
from vectasks.errors import InvalidArgument, UsageError, VectasksError, WrongCount
from vectasks.host.task_host import FINAL_FRAME, FRAME
from vectasks.protocol import SamplerState
from vectasks.rendering import notebook
from vectasks.rendering.encoders import encoder_class_for, frame_rate
from vectasks.rendering.episode_captions import EpisodeCount
from vectasks.rendering.film import Film, FilmThread, Shot, require_writable
from vectasks.rendering.recordable import Recordable
from vectasks.rendering.tiles import as_rgb
from vectasks.task import RLStepResult

__all__ = ["VideoRecorder"]

_OVER = (SamplerState.EXHAUSTED, SamplerState.FAILED)


class VideoRecorder:
    """Films the samplers of a vector, one frame per step.

    By default one video shows all of them, a tile each. The samplers keep their places: one that is
    paused, exhausted or failed shows its last image, dimmed, and one that was paused from the start
    an empty place. In the step that ends an episode the tile is the episode's own last image, not
    the next one's first. All frames have the size of the first; images that grow or shrink later
    are cut or centred within their tile.

    Drawing and encoding are done by a thread, which never holds more than a few frames. What goes
    wrong with a file is told at the next step, and the rollout goes on without the video.

    Args:
        tasks: the vector.
        path: the file, ``.mp4`` (H.264) or ``.gif``; an older one is replaced at the end.
        fps: frames a second, at most 50 in a GIF.
        captions: write the sampler's id, the number of the episode, its step and its return so far
            under each tile; and, where tasks tell ``success`` at their end, how many succeeded.
        columns: tiles a row; by default the grid is near-square.
        per_sampler: besides, one file per sampler, of its own size: ``rollout-sampler0.mp4``, ...
        every_episodes: instead of all that, one file for each k-th episode of each sampler, from
            its first one: ``rollout-sampler0-episode1.mp4``, ... In between nothing is rendered.
        on_error: what a full disk or a path that cannot be written does: ``"warn"`` gives a
            RuntimeWarning, gives the videos up and lets the rollout go on; ``"raise"`` raises.

    Attributes:
        error: what the videos were given up for; None while all is well.

    Raises:
        InvalidArgument: another suffix, a rate or a number that is out of range.
        OSError: the file cannot be written there, and ``on_error`` is ``"raise"``.
        ModuleNotFoundError: PyAV (or, for captions, OpenCV) is missing.

    In a ``with`` statement it writes the first frame at once, and finishes the video at the end,
    also when the body raised::

        with VideoRecorder(tasks, "rollout.mp4") as recorder:
            for _ in range(500):
                recorder.step(choose_actions())

    Or it stands for the vector: it passes on whatever it does not film, and its :meth:`close`
    closes the vector too::

        tasks = VideoRecorder(tasks, "runs/rollout.mp4", every_episodes=100)
        train(tasks)
        tasks.close()
    """

    def __init__(
        self,
        tasks: Recordable,
        path: str | os.PathLike[str],
        *,
        fps: float | Fraction = 30,
        captions: bool = False,
        columns: int | None = None,
        per_sampler: bool = False,
        every_episodes: int | None = None,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        self._tasks = tasks
        self._path = Path(path)
        self._encoder_class = encoder_class_for(self._path)
        self._fps = frame_rate(fps, self._encoder_class)
        self._captions = captions
        self._per_sampler = per_sampler
        self._every_episodes = _checked_count("every_episodes", every_episodes)
        columns = _checked_count("columns", columns)
        if on_error not in ("warn", "raise"):
            raise InvalidArgument(f'on_error={on_error!r}: it must be "warn" or "raise".')
        self._on_error = on_error
        require("av", "video", "VideoRecorder")
        if captions:
            require("cv2", None, "VideoRecorder's captions")

        self.error: Exception | None = None
        self._is_entered = self._is_closed = False
        self._thread: FilmThread | None = None  # from the first frame on
        self._tiled = None if every_episodes else self._film(self._path, columns)
        self._singles: dict[int, Film] = {}  # the film of each sampler that has one of its own
        self._films: list[Film] = [self._tiled] if self._tiled else []
        self._images: dict[int, NDArray[np.uint8]] = {}  # the last one of each sampler, by id
        self._episodes: dict[int, EpisodeCount] = {}
        self._states: dict[int, SamplerState] = {}  # asked where it may be news
        self._filmed_ids: list[int] = []  # who was unpaused in the last frame
        self._asked: dict[int, str] = {}  # which frames samplers were asked to keep
        self._is_stepped = False  # by itself, so that every step may bring its frame along
        try:
            require_writable(self._path)
        except OSError as error:
            self._give_up(error)

    def __enter__(self) -> VideoRecorder:
        self._is_entered = True
        try:
            self._open()
        except BaseException:
            self.finish()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name in ("send", "recv"):
            raise UsageError(
                f"{name}: a frame shows the step of all samplers; film with step, step_batch or "
                "async_step and wait_step."
            )
        return getattr(self._tasks, name)

    # -- stepping -----------------------------------------------------------------------------

    def step(self, actions: Any) -> list[RLStepResult]:
        """Step the vector and write one frame.

        Returns:
            results: what the vector's own ``step`` gave, without the images that the recorder asked
            for (``info["frame"]``, ``info["final_frame"]``).

        Raises:
            UsageError: the video is finished.
        """
        self._prepare("step")
        return self._filmed(self._tasks.step(actions))

    def async_step(self, actions: Any) -> None:
        """Begin a step of the vector; :meth:`wait_step` writes the frame."""
        self._prepare("async_step")
        self._tasks.async_step(actions)

    def wait_step(self, timeout: float | None = None) -> list[RLStepResult]:
        """Do what the vector's method does, and write one frame."""
        self._require_open("wait_step")
        return self._filmed(self._tasks.wait_step(timeout))

    def step_batch(self, actions: Any, **options: Any) -> StepBatch:
        """Do what the vector's method does, and write one frame."""
        self._prepare("step_batch")
        batch = self._tasks.step_batch(actions, **options)
        rows = zip(batch.samplers, batch.reward, batch.done, batch.infos, strict=True)
        self._capture({int(i): RLStepResult(None, float(r), bool(d), x) for i, r, d, x in rows})
        return batch._replace(infos=[_less_frames(info) for info in batch.infos])

    def next_task(self, **kwargs: Any) -> list[Any]:
        """Do what the vector's method does, and end the current episodes here."""
        observations: list[Any] = self._tasks.next_task(**kwargs)
        self._abandon(self._tasks.sampler_ids)
        return observations

    def next_task_at(self, sampler_index: int, **kwargs: Any) -> list[Any]:
        """Do what the vector's method does, and end the current episode here."""
        observations: list[Any] = self._tasks.next_task_at(sampler_index, **kwargs)
        self._abandon([self._tasks.sampler_ids[sampler_index]])
        return observations

    def reset_all(self) -> None:
        """Do what the vector's method does, and end the current episodes here."""
        self._tasks.reset_all()
        self._abandon(self._tasks.sampler_ids)

    def capture(self, results: Sequence[RLStepResult] | None = None) -> None:
        """Write one frame of the vector as it is.

        Args:
            results: those of a step that was made elsewhere, right after that step and before
                anything is paused; None where the tasks changed without a step. While no sampler
                has an image nothing is written.

        Raises:
            UsageError: the video is finished.
            WrongCount: the results are not one an unpaused sampler.
        """
        self._is_stepped = False
        self._capture_results(results)

    def _capture_results(self, results: Sequence[RLStepResult] | None) -> None:
        self._require_open("capture")
        ids = self._tasks.sampler_ids
        if results is not None and len(results) != len(ids):
            raise WrongCount(
                f"capture got {len(results)} results for {len(ids)} unpaused samplers: give it "
                "those of the step just made, before anything is paused or resumed."
            )
        self._capture(dict(zip(ids, results, strict=True)) if results is not None else {})

    def finish(self) -> None:
        """Finish the videos; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._release_frames()
        if self._thread is not None:
            with self._told_errors():
                self._thread.close()

    def close(self) -> None:
        """Finish the videos and, where the recorder stands for the vector, close that too."""
        try:
            self.finish()
        finally:
            if not self._is_entered:
                self._tasks.close()

    # -- looking at them ----------------------------------------------------------------------

    @property
    def paths(self) -> list[Path]:
        """The videos that are complete, in the order in which they were begun."""
        return [film.path for film in self._films if film.is_finished]

    def _repr_html_(self) -> str:
        """Return the videos as HTML, for a notebook that shows the recorder."""
        if not self._is_closed:
            return f"<p>{notebook.escape(self._path)}: recording; to be seen when it is closed</p>"
        if self.error is not None:
            return f"<p>{notebook.escape(self._path)}: {notebook.escape(self.error)}</p>"
        return notebook.videos_html(self.paths)

    def display(self) -> None:
        """Show the videos below the cell of the notebook that calls this.

        Raises:
            ModuleNotFoundError: this is no notebook: IPython is not installed.
        """
        notebook.display(self)

    # -- one frame ----------------------------------------------------------------------------

    def _open(self) -> None:
        if self._thread is None and not self._is_closed and self.error is None:
            self._thread = FilmThread()
            weakref.finalize(self, _finish_quietly, self._thread)  # whoever forgets to close
            self._capture({})

    def _prepare(self, what: str) -> None:
        self._require_open(what)
        # Whether some were resumed, or the frames so far were of steps made elsewhere.
        is_news = self._tasks.sampler_ids != self._filmed_ids or not self._is_stepped
        self._is_stepped = True
        self._open()
        if is_news:
            self._states = self._tasks.sampler_states
            self._ask_for_frames()

    def _filmed(self, results: list[RLStepResult]) -> list[RLStepResult]:
        self._capture_results(results)
        return [
            result if _frame_of(result) is None else result._replace(info=_less_frames(result.info))
            for result in results
        ]

    def _capture(self, results: Mapping[int, RLStepResult]) -> None:
        """Write a frame of the moment after these results, by sampler id."""
        self._open()
        ids = self._tasks.sampler_ids
        # Who was ready and steps on without an end is ready still, and asking for states costs.
        goes_on = (
            self._is_stepped
            and ids == self._filmed_ids == list(results)
            and not any(result.done for result in results.values())
            and all(self._states.get(i) is SamplerState.READY for i in ids)
        )
        self._filmed_ids = ids
        for sampler_id, result in results.items():
            self._episode(sampler_id).count(result)
        if not goes_on:
            self._states = self._tasks.sampler_states
            for sampler_id, state in self._states.items():
                if state in _OVER:
                    self._episode(sampler_id).abandon()
        if self.error is not None:
            return
        with self._told_errors():
            if self._every_episodes is None:
                self._film_all(results)
            else:
                self._film_episodes(results)
        if not goes_on:
            self._ask_for_frames()

    def _film_all(self, results: Mapping[int, RLStepResult]) -> None:
        assert self._thread is not None
        assert self._tiled is not None
        seen = self._take_images(self._ready(), results)
        if not self._images:
            return
        shots = {i: self._shot(i, i in seen) for i in sorted(self._states)}
        self._thread.write(self._tiled, list(shots.values()))
        for sampler_id in sorted(seen) if self._per_sampler else []:
            if sampler_id not in self._singles:
                self._begin_single(sampler_id, f"-sampler{sampler_id}")
            self._thread.write(self._singles[sampler_id], [shots[sampler_id]])

    def _film_episodes(self, results: Mapping[int, RLStepResult]) -> None:
        going_on = {i for i in self._singles if not self._episode(i).is_over}
        self._film_singles(self._ready() & going_on, results)
        self._turn_over()

    def _turn_over(self) -> None:
        """Finish the films of episodes that are over, and begin those of the chosen next ones."""
        assert self._thread is not None
        for sampler_id in list(self._singles):
            if self._episode(sampler_id).is_over:
                self._thread.finish(self._singles.pop(sampler_id))
        begun = set()
        for sampler_id in self._ready() - set(self._singles):
            episode = self._episode(sampler_id)
            episode.follow()
            if self._is_chosen(episode) and episode.num_steps == 0 and not episode.is_over:
                self._begin_single(sampler_id, f"-sampler{sampler_id}-episode{episode.number}")
                begun.add(sampler_id)
        self._film_singles(begun, {})

    def _film_singles(self, ids: set[int], results: Mapping[int, RLStepResult]) -> None:
        assert self._thread is not None
        for sampler_id in sorted(self._take_images(ids, results) & set(self._singles)):
            self._thread.write(self._singles[sampler_id], [self._shot(sampler_id, True)])

    def _is_chosen(self, episode: EpisodeCount) -> bool:
        return self._every_episodes is not None and (episode.number - 1) % self._every_episodes == 0

    def _take_images(self, wanted: set[int], results: Mapping[int, RLStepResult]) -> set[int]:
        """Update the images; return the ids of the samplers that have a new one."""
        ids = self._tasks.sampler_ids
        brought = {
            i: frame for i, result in results.items() if (frame := _frame_of(result)) is not None
        }
        images: dict[int, Any] = {}
        missing = sorted(wanted - set(brought))
        if len(missing) > 1 and wanted == set(ids):  # all at once, side by side in their workers
            images = dict(zip(ids, self._tasks.render("raw_rgb_list"), strict=True))
        else:
            for i in missing:
                images[i] = self._tasks.command_at(ids.index(i), "render")
        for i, image in (images | brought).items():
            pixels = as_rgb(image, f"the image of sampler {i}")
            # Nobody else holds what a step of ours brought; other arrays may be drawn into again.
            self._images[i] = pixels if self._is_stepped and i in brought else np.array(pixels)
        return set(images | brought)

    def _shot(self, sampler_id: int, is_live: bool) -> Shot:
        caption = self._episode(sampler_id).caption(sampler_id) if self._captions else None
        return Shot(self._images.get(sampler_id), caption, is_live)

    def _abandon(self, sampler_ids: Sequence[int]) -> None:
        """End the episodes of samplers that made no last step."""
        for sampler_id in sampler_ids:
            self._episode(sampler_id).abandon()
        if self._every_episodes is not None and self._thread is not None and self.error is None:
            self._states = self._tasks.sampler_states
            with self._told_errors():
                self._turn_over()
            self._ask_for_frames()

    def _episode(self, sampler_id: int) -> EpisodeCount:
        return self._episodes.setdefault(sampler_id, EpisodeCount())

    def _ready(self) -> set[int]:
        return {i for i in self._tasks.sampler_ids if self._states[i] is SamplerState.READY}

    # -- files --------------------------------------------------------------------------------

    def _film(self, path: Path, columns: int | None = None) -> Film:
        return Film(path, self._encoder_class, self._fps, columns)

    def _begin_single(self, sampler_id: int, suffix: str) -> None:
        path = self._path.with_name(f"{self._path.stem}{suffix}{self._path.suffix}")
        film = self._singles[sampler_id] = self._film(path)
        self._films.append(film)

    @contextlib.contextmanager
    def _told_errors(self) -> Iterator[None]:
        """Discard the videos if the thread failed; what the tasks raise passes through."""
        try:
            yield
        except Exception as error:
            if self._thread is None or self._thread.error is not error:
                raise
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.error = error
        if self._thread is not None:
            with contextlib.suppress(Exception):  # it is `error`
                self._thread.close(keep=False)
        self._release_frames()
        if self._on_error == "raise":
            self._is_closed = True
            raise error
        warnings.warn(
            f"no video: {error} ({type(error).__name__}). The rollout goes on without it; "
            'on_error="raise" would stop it.',
            RuntimeWarning,
            stacklevel=2,
        )

    def _require_open(self, what: str) -> None:
        if self._is_closed:
            raise UsageError(
                f"{what}: the video is finished. Make a new VideoRecorder, or use the vector."
            )

    # -- frames that steps bring along --------------------------------------------------------

    def _ask_for_frames(self) -> None:
        if self.error is not None:
            return
        ready = self._ready()
        wanted = ready if self._every_episodes is None else ready & set(self._singles)
        which = "all" if self._is_stepped else "final"
        for sampler_id, state in self._states.items():
            if state in _OVER:
                self._asked.pop(sampler_id, None)
        self._keep_frames({i: which if i in wanted else "none" for i in ready})

    def _release_frames(self) -> None:
        if self._tasks.is_closed:
            return
        # One that is busy or failed cannot be told, and needs no telling to finish a video.
        for sampler_id in self._tasks.sampler_ids:
            with contextlib.suppress(VectasksError):
                self._keep_frames({sampler_id: "none"})
        self._asked.clear()

    def _keep_frames(self, which: Mapping[int, str]) -> None:
        """Tell samplers, by id, which frames their steps should bring, if that changed."""
        ids = self._tasks.sampler_ids
        news = {i: keep for i, keep in which.items() if keep != self._asked.get(i, "none")}
        if len(news) == len(ids) > 1:  # all at once
            self._tasks.command("keep_frames", [news[i] for i in ids])
            self._asked |= news
        else:
            for i, keep in news.items():
                self._tasks.command_at(ids.index(i), "keep_frames", keep)
                self._asked[i] = keep


def _frame_of(result: RLStepResult) -> Any:
    """Return the image that came with a step; None if there is none."""
    if not isinstance(result.info, Mapping):
        return None
    return result.info.get(FINAL_FRAME, result.info.get(FRAME))


def _less_frames(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in (FRAME, FINAL_FRAME)}


def _checked_count(name: str, value: int | None) -> int | None:
    return None if value is None else whole_number(name, value, at_least=1)


def _finish_quietly(thread: FilmThread) -> None:
    with contextlib.suppress(Exception):  # nobody is there any more to be told
        thread.close()
