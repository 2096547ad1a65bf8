"""The window, where there is none to be had."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from vectasks.errors import DisplayUnavailable, InvalidArgument
from vectasks.rendering import window

IMAGE = np.zeros((4, 4, 3), np.uint8)
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="X11 is Linux's")


@pytest.fixture
def _no_screen(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


@on_linux
@pytest.mark.usefixtures("_no_screen")
def test_no_screen_is_said_plainly():
    with pytest.raises(DisplayUnavailable, match=r"neither DISPLAY nor.*xvfb-run.*rgb_array"):
        window.show(IMAGE)


@on_linux
@pytest.mark.usefixtures("_no_screen")
def test_no_screen_is_noticed_before_opencv_is_imported():
    script = (
        "import sys, numpy as np\n"
        "from vectasks.errors import DisplayUnavailable\n"
        "from vectasks.rendering.window import show, close_window\n"
        "try:\n"
        "    show(np.zeros((4, 4, 3), np.uint8))\n"
        "except DisplayUnavailable:\n"
        "    close_window()\n"
        "    sys.exit(7 if 'cv2' not in sys.modules else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 7


@on_linux
@pytest.mark.parametrize("variable", ["DISPLAY", "WAYLAND_DISPLAY"])
@pytest.mark.usefixtures("_no_screen")
def test_a_screen_that_is_gone_does_not_abort_the_process(monkeypatch, variable):
    pytest.importorskip("cv2")
    monkeypatch.setenv(variable, ":987654")
    with pytest.raises(DisplayUnavailable, match=f"no window can be opened on {variable}=:987654"):
        window.show(IMAGE)


@pytest.fixture
def _screen(monkeypatch):
    monkeypatch.setattr(window, "_require_screen", lambda: None)


@pytest.mark.usefixtures("_screen")
def test_opencv_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DisplayUnavailable, match="pip install opencv-python"):
        window.show(IMAGE)


@pytest.mark.usefixtures("_screen")
def test_opencv_without_windows(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")
    with pytest.raises(DisplayUnavailable, match="opencv-python-headless"):
        window.show(IMAGE)


@pytest.mark.usefixtures("_screen")
def test_opencv_refuses_to_open_a_window(monkeypatch):
    cv2 = pytest.importorskip("cv2")

    def refuse(*_):
        raise cv2.error("no windows today")

    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT")
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(DisplayUnavailable, match="no windows today"):
        window.show(IMAGE)
    window.close_window()  # none is open


@pytest.mark.usefixtures("_screen")
def test_one_window_is_used_again(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    calls = []
    for name in ("namedWindow", "resizeWindow", "imshow", "destroyWindow", "waitKey"):
        monkeypatch.setattr(
            cv2, name, lambda *args, name=name: calls.append((name, *args)), raising=False
        )
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT")

    red = np.full((1600, 10, 3), (255, 0, 0), np.uint8)
    window.show(red)
    window.show(red)
    window.show(red, "other")
    window.close_window()
    window.close_window()

    told = [(name, *args[:1]) for name, *args in calls if name != "waitKey"]
    assert told == [
        ("namedWindow", "vectasks"),
        ("resizeWindow", "vectasks"),
        ("imshow", "vectasks"),
        ("imshow", "vectasks"),
        ("destroyWindow", "vectasks"),
        ("namedWindow", "other"),
        ("resizeWindow", "other"),
        ("imshow", "other"),
        ("destroyWindow", "other"),
    ]
    assert ("resizeWindow", "vectasks", 5, 800) in calls  # no larger than a screen
    shown = next(args[1] for name, *args in calls if name == "imshow")
    assert shown[0, 0].tolist() == [0, 0, 255]  # OpenCV's order is BGR


def test_what_is_no_image_is_refused():
    with pytest.raises(InvalidArgument, match=r"values from 1\.5 to 1\.5"):
        window.show(np.full((4, 4, 3), 1.5))
