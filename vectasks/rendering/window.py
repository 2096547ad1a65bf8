"""The one window of ``render("human")``."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks.errors import DisplayUnavailable
from vectasks.rendering.tiles import as_rgb

_FIRST_SIZE_PX = (800, 1280)  # a window opens no larger (height, width) than this; users resize it
_PROBE_TIMEOUT_S = 30.0
_PROBE = "import cv2; cv2.namedWindow('vectasks'); cv2.destroyAllWindows()"
_INSTEAD = 'Without a screen, use render("rgb_array") or record a video with VideoRecorder.'

_open_title: str | None = None


def show(image: Any, title: str = "vectasks") -> None:
    """Show an image in the window, which is opened by the first call and used again by the next.

    Args:
        image: [height_px, width_px, 3] (or grey, or RGBA), as ``tile_images`` takes it.
        title: the window's title; another title than before replaces the window.

    Raises:
        DisplayUnavailable: there is no screen, or OpenCV is missing or was built without windows.
        InvalidArgument: the image has other values or another shape.
    """
    picture = as_rgb(image)
    _require_screen()
    cv2 = _import_opencv()
    try:
        if title != _open_title:
            close_window()
        if _open_title is None:
            _open(cv2, title, picture)
        cv2.imshow(title, np.ascontiguousarray(picture[..., ::-1]))
        cv2.waitKey(1)  # lets the window draw itself
    except cv2.error as error:
        raise DisplayUnavailable(f"OpenCV could not show a window: {error}. {_INSTEAD}") from error


def close_window() -> None:
    """Close the window, if one is open."""
    global _open_title
    if _open_title is None:
        return
    import cv2

    title, _open_title = _open_title, None
    cv2.destroyWindow(title)
    cv2.waitKey(1)  # lets the window go


def _open(cv2: Any, title: str, picture: NDArray[np.uint8]) -> None:
    global _open_title
    cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
    height_px, width_px = picture.shape[:2]
    zoom = min(1.0, _FIRST_SIZE_PX[0] / height_px, _FIRST_SIZE_PX[1] / width_px)
    cv2.resizeWindow(title, max(1, int(width_px * zoom)), max(1, int(height_px * zoom)))
    _open_title = title


def _require_screen() -> None:
    """Raise where OpenCV's Qt would abort the whole process."""
    if not sys.platform.startswith("linux"):
        return
    screens = {
        name: os.environ[name] for name in ("DISPLAY", "WAYLAND_DISPLAY") if os.environ.get(name)
    }
    if not screens:
        raise DisplayUnavailable(
            "there is no screen to open a window on: neither DISPLAY nor WAYLAND_DISPLAY is set. "
            "Run in a desktop session, connect by ssh -X, or start under xvfb-run. " + _INSTEAD
        )
    _require_window_opens(tuple(screens.items()))


@functools.cache
def _require_window_opens(screens: tuple[tuple[str, str], ...]) -> None:
    """Raise what Qt says before it aborts; a screen on which a window opened is not tried again.

    A stale DISPLAY, or Wayland alone (OpenCV's wheels speak X11 only), makes Qt abort, and nothing
    in this process could catch that. So another process tries first.
    """
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        complaint = f"nothing for {_PROBE_TIMEOUT_S:.0f} s"
    else:
        # Killed by a signal: other failures are exceptions, which this process can raise itself.
        if probe.returncode >= 0:
            return
        said = [line.strip() for line in probe.stderr.splitlines() if line.strip()]
        complaint = said[0] if said else f"nothing, but ended by signal {-probe.returncode}"
    where = ", ".join(f"{name}={value}" for name, value in screens)
    raise DisplayUnavailable(
        f"no window can be opened on {where} (OpenCV says: {complaint}). "
        f"Is that screen still there, and may this user open windows on it? {_INSTEAD}"
    )


def _import_opencv() -> Any:
    try:
        import cv2
    except ImportError as error:  # a system library that OpenCV links to may be missing, too
        raise DisplayUnavailable(
            f"windows are OpenCV's, which cannot be imported ({error}): "
            f"pip install opencv-python. {_INSTEAD}"
        ) from error
    if not cv2.currentUIFramework():
        raise DisplayUnavailable(
            "this OpenCV was built without windows (opencv-python-headless?): uninstall it, then "
            f"pip install opencv-python. {_INSTEAD}"
        )
    return cv2
