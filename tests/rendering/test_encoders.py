"""Encoders: frames in, a file out, and the frames read back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.rendering.video_helpers import read
from vectasks.rendering.encoders import GifEncoder, Mp4Encoder

ENCODERS = [Mp4Encoder, GifEncoder]


def moving_square(count, height_px=48, width_px=70):
    for position in range(count):
        frame = np.zeros((height_px, width_px, 3), np.uint8)
        frame[..., 2] = np.linspace(0, 255, width_px)
        frame[10:26, position * 2 : position * 2 + 16] = (230, 40, 20)
        yield frame


def encode(encoder_class, path, frames, fps=30):
    frames = list(frames)
    encoder = encoder_class(path, Fraction(fps), *frames[0].shape[:2])
    for frame in frames:
        encoder.write(frame)
    encoder.close()
    return np.stack(frames)


@pytest.mark.parametrize(("encoder_class", "max_error"), [(Mp4Encoder, 3.0), (GifEncoder, 3.0)])
def test_frames_come_back(tmp_path, encoder_class, max_error):
    frames = encode(encoder_class, tmp_path / "x", moving_square(20), fps=20)
    decoded, _, rate = read(tmp_path / "x")
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < max_error
    assert rate == 20


def test_few_colours_stay_as_they_are_in_a_gif(tmp_path):
    frames = [np.tile(np.array([[[1, 2, 3]], [[250, 100, 7]]], np.uint8), (8, 12, 1))] * 3
    encode(GifEncoder, tmp_path / "x.gif", frames)
    assert np.abs(read(tmp_path / "x.gif")[0].astype(int) - frames[0]).max() <= 1


def test_mp4_is_what_browsers_play(tmp_path):
    path = tmp_path / "x.mp4"
    encode(Mp4Encoder, path, moving_square(3))
    _, codec, _ = read(path)
    assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    assert (codec.colorspace, codec.color_range) == (1, 1)  # BT.709, 16 to 235
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")  # it can start before it is loaded


@pytest.mark.parametrize(("height_px", "width_px"), [(33, 47), (32, 47), (33, 46), (1, 1)])
def test_odd_sizes(tmp_path, height_px, width_px):
    frame = np.full((height_px, width_px, 3), 180, np.uint8)
    for encoder_class in ENCODERS:
        encode(encoder_class, tmp_path / "x", [frame] * 2)
        decoded, _, _ = read(tmp_path / "x")
        even = encoder_class is Mp4Encoder
        assert decoded.shape[1] == height_px + (height_px % 2 if even else 0)
        assert decoded.shape[2] == width_px + (width_px % 2 if even else 0)
        assert np.abs(decoded.astype(int) - 180).max() <= 3


@pytest.mark.parametrize("encoder_class", ENCODERS)
def test_same_frames_same_bytes(tmp_path, encoder_class):
    frames = np.random.default_rng(0).integers(0, 256, (12, 7, 10, 3), np.uint8)
    frames = frames.repeat(6, axis=1).repeat(6, axis=2)  # 60 px wide: no multiple of 16
    contents = set()
    for _ in range(4):
        encode(encoder_class, tmp_path / "x", frames)
        contents.add((tmp_path / "x").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("encoder_class", ENCODERS)
def test_it_is_written_while_it_runs(tmp_path, encoder_class):
    path = tmp_path / "x"
    rng = np.random.default_rng(0)
    encoder = encoder_class(path, Fraction(30), 240, 240)
    sizes = []
    for _ in range(30):  # much more than FFmpeg's buffer of 256 KiB
        encoder.write(rng.integers(0, 256, (240, 240, 3), np.uint8))
        sizes.append(path.stat().st_size)
    encoder.close()
    assert sizes[-1] > 0.5 * path.stat().st_size
