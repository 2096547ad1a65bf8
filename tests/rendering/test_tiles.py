"""Tiles: every kind of image, in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vectasks.errors import InvalidArgument
from vectasks.rendering.tiles import as_rgb, fit, tile_images


def flat(height_px: int, width_px: int, value: int) -> np.ndarray:
    return np.full((height_px, width_px, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("count", "columns", "grid"),
    [
        (1, None, (1, 1)),
        (2, None, (1, 2)),
        (3, None, (2, 2)),
        (4, None, (2, 2)),
        (5, None, (2, 3)),
        (9, None, (3, 3)),
        (10, None, (3, 4)),
        (5, 1, (5, 1)),
        (5, 5, (1, 5)),
        (2, 4, (1, 4)),
    ],
)
def test_grid(count, columns, grid):
    tile = tile_images([flat(4, 6, 10 * (i + 1)) for i in range(count)], columns=columns)
    rows, columns = grid
    assert tile.shape == (4 * rows, 6 * columns, 3)
    assert tile.dtype == np.uint8
    for position in range(rows * columns):
        row, column = divmod(position, columns)
        cell = tile[4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
        assert (cell == (10 * (position + 1) if position < count else 0)).all()


def test_smaller_images_are_centred():
    tile = tile_images([flat(6, 8, 9), flat(2, 4, 200)])
    cell = tile[:, 8:]
    assert (cell[2:4, 2:6] == 200).all()
    assert cell.sum() == flat(2, 4, 200).sum()


def test_the_largest_height_and_width_make_the_cell():
    assert tile_images([flat(2, 9, 1), flat(7, 3, 1)]).shape == (7, 18, 3)


def test_grey_rgb_and_rgba_together():
    grey = np.full((2, 2), 100, np.uint8)
    rgba = np.dstack([flat(2, 2, 200), np.full((2, 2), 128, np.uint8)])
    tile = tile_images([grey, grey[..., np.newaxis], flat(2, 2, 50), rgba])
    assert (tile[:2, :4] == 100).all()
    assert (tile[2:, :2] == 50).all()
    assert (tile[2:, 2:] == 100).all()  # 200 * 128 / 255, over black


def test_rgba_ends_of_the_scale():
    colours = np.array([[[255, 3, 0, 255], [255, 3, 0, 0]]], np.uint8)
    assert as_rgb(colours).tolist() == [[[255, 3, 0], [0, 0, 0]]]


def test_empty_places_are_black():
    tile = tile_images([None, flat(3, 3, 7), None])
    assert (tile[:3, 3:] == 7).all()
    assert tile.sum() == flat(3, 3, 7).sum()


def test_dimmed_places_are_darker_and_the_images_stay_as_they_are():
    images = [flat(2, 2, 90), flat(2, 2, 90), None]
    tile = tile_images(images, dimmed=[1, 2])
    assert (tile[:2, :2] == 90).all()
    assert (tile[:2, 2:] == 30).all()
    assert (images[1] == 90).all()


def test_the_tile_is_owned():
    image = flat(2, 2, 90)
    tile = tile_images([image])
    tile[:] = 0
    assert (image == 90).all()


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (np.full((4, 4, 3), 1.5), r"image 1 is float64 \[4, 4, 3\] with values from 1.5 to 1.5"),
        (np.array([[-0.5, 0.25]]), r"image 1 is float64 \[1, 2\] with values from -0.5 to 0.25"),
        (np.array([[0.0, np.nan]]), "image 1 is float64 .* with values from nan to nan"),
        (np.array([[0, 300]]), r"image 1 is int64 \[1, 2\] with values from 0 to 300"),
        (np.array([[-1, 5]]), r"image 1 is int64 \[1, 2\] with values from -1 to 5"),
        (np.zeros((3, 4, 5), np.uint8), r"image 1 is uint8 with shape \[3, 4, 5\]"),
        (np.zeros(4, np.uint8), r"image 1 is uint8 with shape \[4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"image 1 is uint8 with shape \[0, 4, 3\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"image 1 is uint8 with shape \[1, 4, 4, 3\]"),
        ([], r"image 1 is float64 with shape \[0\]"),
        ([[1, 2], [3]], "image 1 cannot be made an array"),
        ("a picture", "image 1 is a str of dtype <U9"),
        ({"an": "image"}, "image 1 is a dict of dtype object"),
    ],
)
def test_what_is_no_image_is_named(image, complaint):
    with pytest.raises(InvalidArgument, match=complaint):
        tile_images([flat(2, 2, 0), image])


GREY = np.array([[0, 51, 255]], np.uint8)
RGB = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3) * 8


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (np.array([[0, 0.2, 1]]), GREY),
        (np.array([[0, 0.2, 1]], np.float32), GREY),
        (np.array([[0, 0.2, 1]], np.float16), GREY),
        ([[0, 0.2, 1.0]], GREY),
        (np.array([[False, True]]), GREY[:, [0, 2]]),
        (GREY.astype(np.int64), GREY),
        (GREY.tolist(), GREY),
        (np.array([[0, 1]]), np.array([[0, 1]], np.uint8)),  # integers are as bright as they say
        (RGB.astype(np.float64) / 255, RGB),
        (RGB.tolist(), RGB),
        (list(RGB), RGB),  # its rows
        ([flat(2, 5, 7), RGB], RGB),  # as render_mode="rgb_array_list" gives them: the newest
        ([flat(9, 9, 7), RGB], RGB),
        ((flat(2, 5, 7), RGB / 255), RGB),
        ([np.zeros((2, 5)), np.ones((2, 5))], flat(2, 5, 255)),
    ],
)
def test_whose_meaning_is_plain_is_converted(image: Any, shown: Any) -> None:
    rgb = shown if shown.ndim == 3 else shown[..., np.newaxis].repeat(3, axis=2)
    assert as_rgb(image).dtype == np.uint8
    np.testing.assert_array_equal(as_rgb(image), rgb)
    np.testing.assert_array_equal(tile_images([image]), rgb)


def test_an_image_that_is_none_is_named() -> None:
    with pytest.raises(InvalidArgument, match="the image of sampler 3 is None"):
        as_rgb(None, "the image of sampler 3")


def test_what_is_an_image_already_is_not_copied() -> None:
    assert as_rgb(RGB) is RGB


@pytest.mark.parametrize("images", [[], [None, None]])
def test_no_image_at_all(images):
    with pytest.raises(ValueError, match="at least one image"):
        tile_images(images)


@pytest.mark.parametrize(
    ("dimmed", "message"),
    [([1], "no such positions"), ([-1], "got -1"), ([0, 5], "no such positions")],
)
def test_dimming_a_place_that_is_not_there(dimmed, message):
    with pytest.raises(InvalidArgument, match=f"dimmed.*{message}"):
        tile_images([flat(2, 2, 0)], dimmed=dimmed)


@pytest.mark.parametrize("columns", [0, -2])
def test_columns_must_be_positive(columns):
    with pytest.raises(InvalidArgument, match="columns"):
        tile_images([flat(2, 2, 0)], columns=columns)


def test_fit_pads_and_cuts_about_the_centre():
    image = np.arange(5 * 3, dtype=np.uint8).reshape(5, 3, 1).repeat(3, axis=2)
    fitted = fit(image, 3, 5)
    assert (fitted[:, 1:4] == image[1:4]).all()
    assert not fitted[:, [0, 4]].any()
    assert fit(image, 5, 3) is image
