"""Videos of a vector, written while it runs.

A :class:`VideoRecorder` draws one tile a sampler and hands each frame to an :class:`Encoder`, which
holds on to none of them. The file grows under a temporary name beside the one that was asked for,
and is renamed when it is whole.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vectasks.errors import InvalidArgument, UsageError, VectasksError, WrongCount
from vectasks.ledger import SamplerState
from vectasks.rendering.captions import MIN_WIDTH_PX, draw_caption, require_opencv
from vectasks.rendering.tiles import as_rgb, fit, tile_images
from vectasks.task import RLStepResult

_FINAL_FRAME = "final_frame"


# -- encoders ---------------------------------------------------------------------------------


class Encoder(abc.ABC):
    """Writes one video file, frame by frame; the same frames give the same bytes.

    Args:
        path: the file to write.
        fps: frames a second.
        height_px, width_px: the size of every frame.
    """

    file_format: ClassVar[str]
    file_options: ClassVar[Mapping[str, str]] = {}
    max_fps: ClassVar[float] = math.inf

    def __init__(self, path: Path, fps: Fraction, height_px: int, width_px: int) -> None:
        import av

        self._time_base = 1 / fps
        self._num_frames = 0
        # Absolute, because FFmpeg takes "a:b.mp4" for an address of the protocol "a".
        self._container = av.open(
            str(path.absolute()),
            "w",
            format=self.file_format,
            options={"fflags": "+bitexact", **self.file_options},
        )
        self._stream = self._make_stream(fps, height_px, width_px)

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append a frame: uint8 [height_px, width_px, 3]."""
        import av

        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = self._num_frames
        picture.time_base = self._time_base
        self._num_frames += 1
        for converted in self._convert(picture):
            self._container.mux(self._stream.encode(converted))

    def close(self) -> None:
        """Write what is still due, and close the file."""
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    @abc.abstractmethod
    def _make_stream(self, fps: Fraction, height_px: int, width_px: int) -> Any:
        """Add the stream that the frames go to."""

    @abc.abstractmethod
    def _convert(self, picture: Any) -> Iterator[Any]:
        """An RGB ``av.VideoFrame`` as the codec takes it."""


class Mp4Encoder(Encoder):
    """H.264 in the form that every browser plays; odd sizes get one more row or column."""

    file_format = "mp4"
    file_options: ClassVar[Mapping[str, str]] = {"movflags": "+faststart"}

    def _make_stream(self, fps: Fraction, height_px: int, width_px: int) -> Any:
        from av.video.reformatter import ColorRange, Colorspace

        self._padding = ((0, height_px % 2), (0, width_px % 2), (0, 0))
        # zerolatency: x264 keeps no frames back to look ahead. (Its lookahead also reads memory
        # that nobody wrote where the width is no multiple of 16, so the bytes would differ.)
        stream: Any = self._container.add_stream(
            "libx264",
            rate=fps,
            options={
                "preset": "veryfast",
                "tune": "zerolatency",
                "crf": "18",
                "flags": "+bitexact",
            },
        )
        stream.height = height_px + height_px % 2
        stream.width = width_px + width_px % 2
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.thread_count = 1  # the number of threads shows in the bytes
        # Said in the file, or players guess the colours by the size of the picture.
        codec.colorspace = codec.color_primaries = codec.color_trc = int(Colorspace.ITU709)
        codec.color_range = int(ColorRange.MPEG)
        return stream

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append a frame: uint8 [height_px, width_px, 3]."""
        super().write(np.pad(frame, self._padding, mode="edge"))

    def _convert(self, picture: Any) -> Iterator[Any]:
        from av.video.reformatter import ColorRange, Colorspace

        yield picture.reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )


class GifEncoder(Encoder):
    """GIF with the best 256 colours of each frame."""

    file_format = "gif"
    max_fps = 50  # a frame lasts two hundredths of a second or more, or viewers slow it down

    def _make_stream(self, fps: Fraction, height_px: int, width_px: int) -> Any:
        import av
        import av.filter

        stream: Any = self._container.add_stream("gif", rate=fps, options={"flags": "+bitexact"})
        stream.height, stream.width, stream.pix_fmt = height_px, width_px, "pal8"

        # A palette of its own for each frame: one for all would need all frames beforehand.
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=width_px,
            height=height_px,
            format=av.VideoFormat("rgb24"),
            time_base=self._time_base,
        )
        split = self._graph.add("split")
        palette = self._graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        mapped = self._graph.add("paletteuse", "new=1:dither=sierra2_4a")
        source.link_to(split)
        split.link_to(mapped, 0, 0)
        split.link_to(palette, 1, 0)
        palette.link_to(mapped, 0, 1)
        mapped.link_to(self._graph.add("buffersink"))
        self._graph.configure()
        return stream

    def _convert(self, picture: Any) -> Iterator[Any]:
        self._graph.push(picture)
        yield self._graph.pull()


_ENCODERS: Mapping[str, type[Encoder]] = {".mp4": Mp4Encoder, ".gif": GifEncoder}


# -- recorder ---------------------------------------------------------------------------------


class Recordable(Protocol):
    """What a recorder uses of a vector."""

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more commands."""

    @property
    def sampler_ids(self) -> list[int]:
        """Ids of the unpaused samplers, in the order of results."""

    @property
    def sampler_states(self) -> dict[int, SamplerState]:
        """The state of every sampler, paused ones too, by id."""

    def step(self, actions: Any) -> list[RLStepResult]:
        """Step the unpaused samplers."""

    def render(self, mode: Literal["raw_rgb_list"]) -> Any:
        """The images of the unpaused samplers."""

    def command_at(self, sampler_index: int, command: str, data: Any = None) -> Any:
        """One command ("render", "keep_final_frame") for one unpaused sampler."""


@dataclass
class _Episode:
    """What the caption of one sampler's tile tells."""

    number: int = 1
    num_steps: int = 0
    episode_return: float = 0.0
    is_over: bool = False

    def count(self, result: RLStepResult) -> None:
        """Take one more result in."""
        info = result.info if isinstance(result.info, Mapping) else {}
        if info.get("waiting"):
            return
        if self.is_over:
            self.number += 1
            self.num_steps, self.episode_return, self.is_over = 0, 0.0, False
            if info.get("resampled"):  # it had waited for the others: its next task is new
                return
        self.num_steps += 1
        self.episode_return += float(np.sum(result.reward))  # several agents: all together
        self.is_over = bool(result.done)

    def caption(self, sampler_id: int) -> tuple[str, str]:
        return (
            f"sampler {sampler_id}  episode {self.number}",
            f"step {self.num_steps}  return {self.episode_return:.6g}",
        )


class VideoRecorder:
    """Films all samplers of a vector, one tile a sampler, one frame a step.

    The samplers keep their places: one that is paused, exhausted or failed shows its last image,
    dimmed, and one that was paused from the start an empty place. In the step that ends an episode
    the tile is the episode's own last image, not the next one's first. All frames have the size
    of the first; images that grow or shrink later are cut or centred within their tile.

    Args:
        tasks: the vector.
        path: the file, ``.mp4`` (H.264) or ``.gif``; an older one is replaced at the end.
        fps: frames a second, at most 50 in a GIF.
        captions: write the sampler's id, the number of the episode, its step and its return so far
            under each tile.
        columns: tiles a row; by default the grid is near-square.

    Raises:
        InvalidArgument: another suffix, or a rate that is out of range.
        OSError: the file cannot be written there.
        ModuleNotFoundError: PyAV (or, for captions, OpenCV) is missing.

    The recorder is used in a ``with`` statement. Entering it writes the first frame, and leaving it
    finishes the video, also when the body raised. Where encoding fails nothing is left behind::

        with VideoRecorder(tasks, "rollout.mp4") as recorder:
            for _ in range(500):
                recorder.step(choose_actions())
    """

    def __init__(
        self,
        tasks: Recordable,
        path: str | os.PathLike[str],
        *,
        fps: float | Fraction = 30,
        captions: bool = False,
        columns: int | None = None,
    ) -> None:
        self._tasks = tasks
        self._path = Path(path)
        self._encoder_class = _encoder_class(self._path)
        self._fps = _frame_rate(fps, self._encoder_class)
        self._captions = captions
        self._columns = columns
        _require_av()
        if captions:
            require_opencv()
        self._partial_path = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.part")
        _require_writable(self._path, self._partial_path)

        self._is_open = False
        self._encoder: Encoder | None = None
        self._cell_px: tuple[int, int] | None = None  # (height, width) of every tile's image
        self._images: dict[int, NDArray[np.uint8]] = {}  # the last one of each sampler, by id
        self._episodes: dict[int, _Episode] = {}
        self._asked: set[int] = set()  # samplers that were asked to keep their final frames

    def __enter__(self) -> VideoRecorder:
        self._is_open = True
        try:
            self.capture()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def step(self, actions: Any) -> list[RLStepResult]:
        """Step the vector and write one frame.

        Returns:
            results: what the vector's own ``step`` gave, without the images that the recorder asked
            for (``info["final_frame"]``).

        Raises:
            UsageError: outside of the ``with`` statement.
        """
        self._require_open("step")
        self._ask_for_final_frames()
        results = self._tasks.step(actions)
        self.capture(results)
        return [_without_final_frame(result) for result in results]

    def capture(self, results: Sequence[RLStepResult] | None = None) -> None:
        """Write one frame of the vector as it is.

        Args:
            results: those of a step that was made elsewhere, right after that step and before
                anything is paused; None where the tasks changed without a step. While no sampler
                has an image nothing is written.

        Raises:
            UsageError: outside of the ``with`` statement.
            WrongCount: the results are not one an unpaused sampler.
        """
        self._require_open("capture")
        ids = self._tasks.sampler_ids
        if results is not None and len(results) != len(ids):
            raise WrongCount(
                f"capture got {len(results)} results for {len(ids)} unpaused samplers: give it "
                "those of the step just made, before anything is paused or resumed."
            )
        by_id = dict(zip(ids, results, strict=True)) if results is not None else {}
        seen = self._take_images(by_id)
        for sampler_id, result in by_id.items():
            self._episodes.setdefault(sampler_id, _Episode()).count(result)
        self._ask_for_final_frames()
        if self._images:
            self._write(self._draw(seen))

    def close(self) -> None:
        """Finish the video; a second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._release_final_frames()
        if self._encoder is None:
            return
        try:
            self._encoder.close()
            self._partial_path.replace(self._path)
        except BaseException:
            self._partial_path.unlink(missing_ok=True)
            raise
        finally:
            self._encoder = None

    # -- one frame ----------------------------------------------------------------------------

    def _take_images(self, results: Mapping[int, RLStepResult]) -> set[int]:
        """Bring the images up to date; the ids of the samplers that have a new one."""
        ids, states = self._tasks.sampler_ids, self._tasks.sampler_states
        ready = [i for i in ids if states[i] is SamplerState.READY]
        if ready == ids:  # all at once, side by side in their workers
            images = dict(zip(ids, self._tasks.render("raw_rgb_list"), strict=True))
        else:
            images = {i: self._tasks.command_at(ids.index(i), "render") for i in ready}
        for sampler_id, result in results.items():
            if isinstance(result.info, Mapping) and _FINAL_FRAME in result.info:
                images[sampler_id] = result.info[_FINAL_FRAME]
        for sampler_id, image in images.items():
            self._images[sampler_id] = as_rgb(image, f"the image of sampler {sampler_id}")
        return set(images)

    def _draw(self, seen: set[int]) -> NDArray[np.uint8]:
        if self._cell_px is None:
            sizes = [image.shape for image in self._images.values()]
            height_px, width_px = max(size[0] for size in sizes), max(size[1] for size in sizes)
            self._cell_px = (height_px, max(width_px, MIN_WIDTH_PX) if self._captions else width_px)
        ids = sorted(self._tasks.sampler_states)
        return tile_images(
            [self._tile(i) if i in self._images else None for i in ids],
            dimmed=[place for place, i in enumerate(ids) if i not in seen],
            columns=self._columns,
        )

    def _tile(self, sampler_id: int) -> NDArray[np.uint8]:
        assert self._cell_px is not None
        tile = fit(self._images[sampler_id], *self._cell_px)
        if not self._captions:
            return tile
        lines = self._episodes.get(sampler_id, _Episode()).caption(sampler_id)
        return np.concatenate([tile, draw_caption(lines, self._cell_px[1])])

    def _write(self, frame: NDArray[np.uint8]) -> None:
        try:
            if self._encoder is None:
                height_px, width_px, _ = frame.shape
                self._encoder = self._encoder_class(
                    self._partial_path, self._fps, height_px, width_px
                )
            self._encoder.write(frame)
        except Exception:
            self._discard()
            raise

    def _discard(self) -> None:
        """Give the video up: what was written of it cannot be played."""
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            with contextlib.suppress(Exception):  # it failed already, and that is being raised
                encoder.close()
        self._partial_path.unlink(missing_ok=True)
        self.close()

    def _require_open(self, what: str) -> None:
        if not self._is_open:
            raise UsageError(
                f"{what}: the recorder is not open: use it in a with statement, once "
                "(it is closed by an error of the encoder, too)."
            )

    # -- final frames -------------------------------------------------------------------------

    def _ask_for_final_frames(self) -> None:
        states = self._tasks.sampler_states
        for index, sampler_id in enumerate(self._tasks.sampler_ids):
            if sampler_id not in self._asked and states[sampler_id] is SamplerState.READY:
                self._tasks.command_at(index, "keep_final_frame", True)
                self._asked.add(sampler_id)

    def _release_final_frames(self) -> None:
        if self._tasks.is_closed:
            return
        for index, sampler_id in enumerate(self._tasks.sampler_ids):
            if sampler_id in self._asked:
                # One that is busy or failed cannot be told, and needs no telling to finish a video.
                with contextlib.suppress(VectasksError):
                    self._tasks.command_at(index, "keep_final_frame", False)


def _without_final_frame(result: RLStepResult) -> RLStepResult:
    if not isinstance(result.info, Mapping) or _FINAL_FRAME not in result.info:
        return result
    kept = {key: value for key, value in result.info.items() if key != _FINAL_FRAME}
    return result._replace(info=kept)


def _encoder_class(path: Path) -> type[Encoder]:
    try:
        return _ENCODERS[path.suffix.lower()]
    except KeyError:
        raise InvalidArgument(
            f"{path}: a video's name must end in {' or '.join(_ENCODERS)}, not in {path.suffix!r}."
        ) from None


def _frame_rate(fps: float | Fraction, encoder: type[Encoder]) -> Fraction:
    if not 0 < fps <= encoder.max_fps or math.isinf(fps):
        raise InvalidArgument(
            f"fps={fps}: it must be above 0"
            + (f" and, in a {encoder.file_format}, at most {encoder.max_fps:g}" * (fps > 0))
            + "."
        )
    return Fraction(fps).limit_denominator(1001)  # 1001: NTSC's rates, as 30000/1001


def _require_av() -> None:
    try:
        import av  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'videos are written by PyAV, which is missing: pip install "vectasks[video]"',
            name=error.name,
        ) from error


def _require_writable(path: Path, partial_path: Path) -> None:
    """Find out before the first step whether the file can be made; nothing is left there."""
    if path.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "the video cannot be written: a directory has this name", str(path)
        )
    try:
        partial_path.open("xb").close()
        partial_path.unlink()
    except OSError as error:
        raise OSError(
            error.errno, f"the video cannot be written ({error.strerror})", str(path)
        ) from error
