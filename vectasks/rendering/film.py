"""One video file of tiles, and the thread that writes such files."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks._util.files import partial_path
from vectasks.rendering.captions import MIN_WIDTH_PX, draw_caption
from vectasks.rendering.encoders import Encoder
from vectasks.rendering.tiles import fit, tile_images

_MAX_WAITING = 4


class Shot(NamedTuple):
    """One sampler's part of a frame.

    Attributes:
        image: uint8 [height_px, width_px, 3], which nobody changes any more; None leaves the place
            empty.
        caption: lines of text, or None for no caption.
        is_live: whether the image is of this moment; an older one is shown dimmed.
    """

    image: NDArray[np.uint8] | None
    caption: tuple[str, ...] | None
    is_live: bool


class Film:
    """A video of tiles, written under a temporary name and renamed when it is complete.

    There are ``columns`` tiles a row; with None, the grid is near-square.
    """

    def __init__(
        self, path: Path, encoder_class: type[Encoder], fps: Fraction, columns: int | None = None
    ) -> None:
        self.path = path
        self.is_finished: bool = False
        self.num_frames: int = 0
        self._partial_path = partial_path(path)
        self._encoder_class = encoder_class
        self._fps = fps
        self._columns = columns
        self._encoder: Encoder | None = None
        self._cell_px: tuple[int, int] | None = None  # (height, width) of every tile's image

    def write(self, shots: Sequence[Shot]) -> None:
        """Append a frame. The first one fixes the size: later images are cut or centred."""
        frame = self._draw(shots)
        if self._encoder is None:
            self._encoder = self._encoder_class(self._partial_path, self._fps, *frame.shape[:2])
        self._encoder.write(frame)
        self.num_frames += 1

    def finish(self) -> None:
        """Close the file and give it its name; without a frame there is none."""
        if self._encoder is None:
            return
        encoder, self._encoder = self._encoder, None
        try:
            encoder.close()
            self._partial_path.replace(self.path)
        except BaseException:
            self._partial_path.unlink(missing_ok=True)
            raise
        self.is_finished = True

    def discard(self) -> None:
        """Delete the file, because a part of a video cannot be played."""
        if self._encoder is not None:
            with contextlib.suppress(Exception):  # what failed before may fail again
                self._encoder.close()
            self._encoder = None
            self._partial_path.unlink(missing_ok=True)

    def _draw(self, shots: Sequence[Shot]) -> NDArray[np.uint8]:
        if self._cell_px is None:
            sizes = [shot.image.shape for shot in shots if shot.image is not None]
            height_px, width_px = max(size[0] for size in sizes), max(size[1] for size in sizes)
            has_text = any(shot.caption is not None for shot in shots)
            self._cell_px = (height_px, max(width_px, MIN_WIDTH_PX) if has_text else width_px)
        return tile_images(
            [None if shot.image is None else self._tile(shot) for shot in shots],
            dimmed=[place for place, shot in enumerate(shots) if not shot.is_live],
            columns=self._columns,
        )

    def _tile(self, shot: Shot) -> NDArray[np.uint8]:
        assert self._cell_px is not None
        assert shot.image is not None
        tile = fit(shot.image, *self._cell_px)
        if shot.caption is None:
            return tile
        return np.concatenate([tile, draw_caption(shot.caption, self._cell_px[1])])


class FilmThread:
    """Writes films in its own thread, which ends when it is closed.

    At most four frames wait: who is faster than the codec waits for it, so that the memory stays
    bounded and no frame is lost. After the first error every film is given up and later jobs are
    dropped; the error is raised by the next call.
    """

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_MAX_WAITING)
        self._films: set[Film] = set()  # those begun and not finished
        self.error: Exception | None = None
        self._owner_pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="vectasks-video", daemon=True)
        self._is_closed = False
        self._thread.start()

    def write(self, film: Film, shots: Sequence[Shot]) -> None:
        """Append a frame to a film.

        Raises:
            Exception: what an earlier frame, of whichever film, ended with.
        """

        def job() -> None:
            self._films.add(film)
            film.write(shots)

        self._submit(job)

    def finish(self, film: Film) -> None:
        """Close a film after the frames it was given. Raises as :meth:`write` does."""

        def job() -> None:
            self._films.discard(film)
            film.finish()

        self._submit(job)

    def close(self, *, keep: bool = True) -> None:
        """Write all queued frames, finish every film and end the thread. May be called twice.

        Args:
            keep: False gives the unfinished films up.

        Raises:
            Exception: what writing ended with; no unfinished film is left then.
        """
        if self._is_closed or os.getpid() != self._owner_pid:  # a forked child has no such thread
            return
        self._is_closed = True
        if keep:
            self._jobs.put(self._finish_all)
        self._jobs.put(None)
        self._thread.join()
        self._discard_all()
        if self.error is not None:
            raise self.error

    def _submit(self, job: Callable[[], None]) -> None:
        if self.error is not None:
            raise self.error
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self.error is not None:
                continue
            try:
                job()
            except Exception as error:  # raised where the user can see it
                self.error = error

    def _finish_all(self) -> None:
        while self._films:
            self._films.pop().finish()

    def _discard_all(self) -> None:
        while self._films:
            self._films.pop().discard()


def require_writable(path: Path) -> None:
    """Check before the first step that the file can be made; leave nothing there.

    Raises:
        OSError: it cannot.
    """
    if path.is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "the video cannot be written: a directory has this name", str(path)
        )
    partial = partial_path(path)
    try:
        partial.open("xb").close()
        partial.unlink()
    except OSError as error:
        raise OSError(
            error.errno, f"the video cannot be written ({error.strerror})", str(path)
        ) from error
