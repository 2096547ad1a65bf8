"""Encode frames into a video file. PyAV is imported on first use."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import real_number
from vectasks.errors import InvalidArgument


class Encoder(abc.ABC):
    """Writes one video file, frame by frame; the same frames give the same bytes."""

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

        # The frame itself, no copy: the codec has read it when encode() returns.
        picture = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = self._num_frames
        picture.time_base = self._time_base
        self._num_frames += 1
        for converted in self._convert(picture):
            self._container.mux(self._stream.encode(converted))

    def close(self) -> None:
        """Flush the encoder, and close the file."""
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    @abc.abstractmethod
    def _make_stream(self, fps: Fraction, height_px: int, width_px: int) -> Any:
        """Add the stream that the frames go to."""

    @abc.abstractmethod
    def _convert(self, picture: Any) -> Iterator[Any]:
        """Convert an RGB ``av.VideoFrame`` to the codec's format."""


class Mp4Encoder(Encoder):
    """H.264 in the form that every browser plays; odd sizes get one more row or column."""

    file_format = "mp4"
    file_options: ClassVar[Mapping[str, str]] = {"movflags": "+faststart"}

    def _make_stream(self, fps: Fraction, height_px: int, width_px: int) -> Any:
        from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

        # FFmpeg makes yuv420p of bgr24 three times as fast as of rgb24, the swap included.
        self._swap, self._to_yuv = VideoReformatter(), VideoReformatter()
        self._padding = ((0, height_px % 2), (0, width_px % 2), (0, 0))
        self._is_odd = bool(height_px % 2 or width_px % 2)
        # zerolatency: x264 keeps no frames back to look ahead. (Its lookahead also reads memory
        # that nobody wrote where the width is no multiple of 16, so the bytes would differ.)
        stream: Any = self._container.add_stream(
            "libx264",
            rate=fps,
            options={
                "preset": "ultrafast",  # two thirds of superfast's time, and half as large again
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
        super().write(np.pad(frame, self._padding, mode="edge") if self._is_odd else frame)

    def _convert(self, picture: Any) -> Iterator[Any]:
        from av.video.reformatter import ColorRange, Colorspace

        yield self._to_yuv.reformat(
            self._swap.reformat(picture, format="bgr24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )


class GifEncoder(Encoder):
    """GIF with the best 256 colours of each frame."""

    file_format = "gif"
    # A frame lasts two hundredths of a second or more, or viewers slow it down.
    max_fps: ClassVar[float] = 50

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


def encoder_class_for(path: Path) -> type[Encoder]:
    """Return the encoder for a file's name.

    Raises:
        InvalidArgument: another suffix.
    """
    try:
        return _ENCODERS[path.suffix.lower()]
    except KeyError:
        raise InvalidArgument(
            f"{path}: a video's name must end in {' or '.join(_ENCODERS)}, not in {path.suffix!r}."
        ) from None


def frame_rate(fps: float | Fraction, encoder: type[Encoder]) -> Fraction:
    """Return the rate as a fraction.

    Raises:
        InvalidArgument: it is not above 0, or too high for the format.
    """
    if real_number("fps", fps, positive=True) > encoder.max_fps:
        raise InvalidArgument(
            f"fps must be at most {encoder.max_fps:g} in a {encoder.file_format}, got {fps!r}."
        )
    exact = fps if isinstance(fps, Fraction) else Fraction(float(fps))
    return exact.limit_denominator(1001)  # 1001: NTSC's rates, as 30000/1001
