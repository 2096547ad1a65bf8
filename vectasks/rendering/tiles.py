"""Tile many images into one near-square grid, in pure numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks._util.checks import whole_number
from vectasks.errors import InvalidArgument

_IMAGES = (
    "Images are [height_px, width_px] or [height_px, width_px, channels] with 1 (grey), 3 (RGB) or "
    "4 (RGBA) channels, not empty; integers from 0 to 255, floats from 0 to 1, or bools."
)


def tile_images(
    images: Sequence[Any], *, dimmed: Iterable[int] = (), columns: int | None = None
) -> NDArray[np.uint8]:
    """Lay images out in a grid, row by row.

    Every cell has the size of the largest image; smaller images are centred on black, and places
    without an image stay black.

    Args:
        images: each [height_px, width_px] or [height_px, width_px, 1] (grey),
            [height_px, width_px, 3] (RGB), [height_px, width_px, 4] (RGBA, laid over black), or
            None for an empty place. Integers are from 0 to 255, floats from 0 to 1, True is white.
            Sizes may differ.
        dimmed: positions in ``images`` to show darker.
        columns: so many images a row; by default the smallest square that holds all of them.

    Returns:
        tile: uint8 [rows * cell_height_px, columns * cell_width_px, 3].

    Raises:
        InvalidArgument: there is no image, one has other values or another shape, a position to dim
            does not exist, or ``columns`` is not positive.

    >>> grey, rgb = np.zeros((4, 6), np.uint8), np.zeros((5, 3, 3), np.uint8)
    >>> tile_images([grey, rgb, None]).shape
    (10, 12, 3)
    """
    pictures = [
        None if image is None else as_rgb(image, f"image {position}")
        for position, image in enumerate(images)
    ]
    present = [picture for picture in pictures if picture is not None]
    if not present:
        raise InvalidArgument(
            f"tile_images needs at least one image, got {len(pictures)} empty places."
        )
    dark = {whole_number("dimmed", position) for position in dimmed}
    unknown = sorted(dark - set(range(len(pictures))))
    if unknown:
        raise InvalidArgument(
            f"dimmed={unknown}: there are no such positions among {len(pictures)} images."
        )
    if columns is None:
        columns = math.isqrt(len(pictures) - 1) + 1
    else:
        columns = whole_number("columns", columns, at_least=1)
    rows = -(-len(pictures) // columns)

    height_px = max(picture.shape[0] for picture in present)
    width_px = max(picture.shape[1] for picture in present)
    tile = np.zeros((rows, height_px, columns, width_px, 3), np.uint8)
    for position, picture in enumerate(pictures):
        if picture is not None:
            row, column = divmod(position, columns)
            _paste(picture, tile[row, :, column])
            if position in dark:
                tile[row, :, column] //= 3
    return tile.reshape(rows * height_px, columns * width_px, 3)


def as_pixels(image: Any, name: str = "the image") -> NDArray[np.uint8]:
    """Convert an image to uint8; its shape stays.

    Args:
        image: [height_px, width_px] or [height_px, width_px, channels] with 1 (grey), 3 (RGB) or 4
            (RGBA) channels; an array, or nested lists. Integers are from 0 to 255, floats from 0 to
            1, True is white. Of a list of images, the last one is taken.
        name: says in errors which image it is.

    Raises:
        InvalidArgument: it is nothing of that.
    """
    if isinstance(image, (list, tuple)) and _are_images(image):
        image = image[-1]
    try:
        pixels = np.asarray(image)
    except (TypeError, ValueError) as error:  # a ragged list, a tensor of another device
        raise InvalidArgument(f"{name} cannot be made an array: {error}. {_IMAGES}") from error
    if pixels.dtype.kind not in "biuf":
        what = "None" if image is None else f"a {type(image).__name__} of dtype {pixels.dtype}"
        raise InvalidArgument(f"{name} is {what}. {_IMAGES}")
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1] if pixels.ndim == 3 else 0
    if channels not in (1, 3, 4) or pixels.size == 0:
        raise InvalidArgument(
            f"{name} is {pixels.dtype} with shape {list(pixels.shape)}. {_IMAGES}"
        )
    if pixels.dtype == np.uint8:
        return pixels
    lowest, highest = pixels.min(), pixels.max()
    white = 1 if pixels.dtype.kind in "bf" else 255
    if not (lowest >= 0 and highest <= white):  # so that NaN is refused
        raise InvalidArgument(
            f"{name} is {pixels.dtype} {list(pixels.shape)} with values from {lowest:g} to "
            f"{highest:g}. {_IMAGES}"
        )
    return pixels.astype(np.uint8) if white == 255 else np.rint(pixels * 255.0).astype(np.uint8)


def _are_images(items: Sequence[Any]) -> bool:
    """Tell whether these are images, as of ``rgb_array_list``, not an image's rows."""
    shape = np.shape(items[-1]) if items and isinstance(items[-1], np.ndarray) else ()
    return len(shape) == 3 or (len(shape) == 2 and shape[1] not in (1, 3, 4))


def as_rgb(image: Any, name: str = "the image") -> NDArray[np.uint8]:
    """Convert an image, as :func:`as_pixels` takes it, to uint8 [height_px, width_px, 3].

    Raises:
        InvalidArgument: it is no image; ``name`` says which one it is.
    """
    pixels = as_pixels(image, name)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        return ((pixels[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return pixels


def fit(image: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Fit an RGB image to a canvas of this size: centred on black, and cut where it is larger."""
    if image.shape[:2] == (height_px, width_px):
        return image
    canvas = np.zeros((height_px, width_px, 3), np.uint8)
    _paste(image, canvas)
    return canvas


def _paste(image: NDArray[np.uint8], canvas: NDArray[np.uint8]) -> None:
    rows_from, rows_to = _centred(image.shape[0], canvas.shape[0])
    columns_from, columns_to = _centred(image.shape[1], canvas.shape[1])
    canvas[rows_to, columns_to] = image[rows_from, columns_from]


def _centred(source_px: int, target_px: int) -> tuple[slice, slice]:
    common_px = min(source_px, target_px)
    source_start = (source_px - common_px) // 2
    target_start = (target_px - common_px) // 2
    return (
        slice(source_start, source_start + common_px),
        slice(target_start, target_start + common_px),
    )
