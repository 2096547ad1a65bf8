"""Draw text under tiles, by OpenCV."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Tiles with captions are at least this wide, so that the text stays legible.
MIN_WIDTH_PX = 160

_MARGIN_PX = 4
_WHITE = (255, 255, 255)


def draw_caption(lines: Sequence[str], width_px: int) -> NDArray[np.uint8]:
    """Draw lines of text, white on black.

    The text grows with the width, and a line that is too long is drawn smaller. The height depends
    on the width and the number of lines alone.

    Returns:
        strip: uint8 [strip_height_px, width_px, 3].
    """
    return np.concatenate(
        [
            *(_draw_line(line, width_px) for line in lines),
            np.zeros((_MARGIN_PX, width_px, 3), np.uint8),
        ]
    )


@functools.lru_cache(256)  # most lines are those of the frame before
def _draw_line(line: str, width_px: int) -> NDArray[np.uint8]:
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = float(np.clip(width_px / 640, 0.4, 1.0))
    strip = np.zeros((round(34 * scale), width_px, 3), np.uint8)
    (text_width_px, _), _ = cv2.getTextSize(line, font, scale, 1)
    fitted = scale * min(1.0, (width_px - 2 * _MARGIN_PX) / max(text_width_px, 1))
    baseline_px = round(26 * scale)
    cv2.putText(strip, line, (_MARGIN_PX, baseline_px), font, fitted, _WHITE, 1, cv2.LINE_AA)
    return strip
