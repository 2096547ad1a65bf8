"""Cache results of methods in files, under the config's identifier."""

from __future__ import annotations

import contextlib
import functools
import inspect
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from vectasks._util.extras import require
from vectasks.errors import InvalidArgument
from vectasks.experiment import context
from vectasks.experiment.identifier import canonical, digest, name_of, type_name

P = ParamSpec("P")
R = TypeVar("R")


def cache(
    name: str,
) -> Callable[[Callable[Concatenate[Any, Path, P], R]], Callable[Concatenate[Any, P], R]]:
    """Give a config's method a file, or a folder, in which to keep its result.

    The method gets its ``path``, and makes what is not there::

        @cache("index.npy")
        def index(self, path):
            if not path.exists():
                numpy.save(path, ...)
            return numpy.load(path)

    It is called without the path, in a job or in an experiment's block. One thread at a time is in
    it, of whatever process, for each config and each set of arguments, however these are given: by
    position, by name or by default. What it leaves when it raises, or is killed, is thrown away
    before it is called again, so that it sees a whole result or none.

    It may call other cached methods, and ``super()``'s: each has a place of its own, whatever the
    names of their files. Where methods call each other in a circle, and two threads or processes
    would wait for each other, one of them makes its result in another place.

    Args:
        name: of the file, in a folder under ``WORKDIR/cache/TYPE/IDENTIFIER``.

    Raises:
        InvalidArgument: the name leads out of that folder; or, when it is called, there is no
            telling whether two values of an argument are the same.
    """
    if not name or PurePath(name).name != name or name == "..":
        raise InvalidArgument(f"cache: {name!r} is no name for a file.")

    def decorate(
        method: Callable[Concatenate[Any, Path, P], R],
    ) -> Callable[Concatenate[Any, P], R]:
        this = _Cached(name, method)

        @functools.wraps(method)
        def cached(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
            return cast(R, this.call(self, args, kwargs))

        setattr(cached, _MARK, this)
        return cast(Callable[Concatenate[Any, P], R], cached)

    return decorate


_LOOK_FOR_CYCLES_S = 0.5
#: The attribute by which a cached method is known.
_MARK = "__vectasks_cached__"


class _Cached:
    """A method with a cache, and where in its config's folder that is.

    Args:
        name: of its file.
        method: what was decorated.
    """

    def __init__(self, name: str, method: Callable[..., Any]) -> None:
        self.name = name
        self._method = method

    def call(self, config: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the method with its path, under its lock."""
        kind = type(config)
        workdir = context.current(f"{kind.__name__}.{self._method.__name__}").workdir
        folder = workdir / "cache" / type_name(kind) / config.identifier
        folder /= self._subfolder(kind, args, kwargs)
        folder.mkdir(parents=True, exist_ok=True)
        path, is_whole, lock = (folder / f"{self.name}{end}" for end in ("", ".ok", ".lock"))
        if lock in _held.files:  # it is called by itself, and sees what it has made so far
            return self._method(config, _held.files[lock], *args, **kwargs)
        with _locked(lock) as is_ours:
            if not is_ours:
                path = folder / secrets.token_hex(4) / self.name
                path.parent.mkdir()
            elif not is_whole.exists():
                _remove(path)
            with _held.while_made(lock, path):
                result = self._method(config, path, *args, **kwargs)
            if is_ours and path.exists():
                is_whole.touch()
        return result

    def _subfolder(self, kind: type, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Name the folder for these arguments, and for no other method of the class.

        It is "" for the usual method, which has no arguments and alone has this file.

        Raises:
            TypeError: the arguments are not those of the method.
            InvalidArgument: an argument cannot be identified.
        """
        parameters = inspect.signature(self._method).bind(None, None, *args, **kwargs)
        parameters.apply_defaults()
        form = [[name, self._form(name, value)] for name, value in parameters.arguments.items()]
        is_first = next(_cached_as(self.name, kind), self) is self
        if is_first and len(form) <= 2:  # self and the path
            return ""
        return digest([None if is_first else name_of(self._method), form])

    def _form(self, name: str, value: Any) -> Any:
        if value is inspect.signature(self._method).parameters[name].default:
            with contextlib.suppress(InvalidArgument):  # any value will do as a default
                return canonical(value, name)
            return ["default"]
        return canonical(value, f"{self._method.__qualname__}: {name}")


def _cached_as(name: str, kind: type) -> Iterator[_Cached]:
    """Yield a class's cached methods that have a file of this name, its own ones first."""
    for base in kind.__mro__:
        for member in vars(base).values():
            function = member.fget if isinstance(member, property) else member
            mark = getattr(function, _MARK, None)
            if isinstance(mark, _Cached) and mark.name == name:
                yield mark


class _Held(threading.local):
    """The files that a thread is making: one for each lock that it holds (or could not wait for).

    While it waits for another lock, that one's name is beside those that it holds; so whoever waits
    for these, in whatever process, finds out that both would wait for ever.
    """

    def __init__(self) -> None:
        self.files: dict[Path, Path] = {}

    @contextlib.contextmanager
    def while_made(self, lock: Path, file: Path) -> Iterator[None]:
        self.files[lock] = file
        try:
            yield
        finally:
            del self.files[lock]

    @contextlib.contextmanager
    def while_waiting_for(self, lock: Path) -> Iterator[None]:
        notes = [_note(held) for held, file in self.files.items() if file.parent == held.parent]
        try:
            for note in notes:
                note.write_text(str(lock))
            yield
        finally:
            for note in notes:
                note.unlink(missing_ok=True)

    def is_awaited_by_holder_of(self, lock: Path) -> bool:
        """Tell whether the holder of a lock waits, perhaps through others, for this thread."""
        seen: set[Path] = set()
        while lock not in seen:
            seen.add(lock)
            try:
                lock = Path(_note(lock).read_text())
            except OSError:  # its holder is at work
                return False
            if lock in self.files:
                return True
        return False


_held = _Held()


def _note(lock: Path) -> Path:
    """Return the file in which the holder of a lock names the one it waits for."""
    return lock.with_name(f"{lock.name}.waits")


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[bool]:
    """Hold a file's lock; yield True, or False where waiting for it would be a deadlock."""
    filelock = require("filelock", "experiment", "cache")
    held = filelock.FileLock(lock)
    if not _acquire(held, lock, filelock.Timeout):
        yield False
        return
    try:
        _note(lock).unlink(missing_ok=True)  # of a holder that was killed
        yield True
    finally:
        held.release()


def _acquire(held: Any, lock: Path, too_late: type[Exception]) -> bool:
    if not _held.files:  # nobody can be waiting for this thread
        held.acquire()
        return True
    with _held.while_waiting_for(lock):
        while True:
            with contextlib.suppress(too_late):
                held.acquire(timeout=_LOOK_FOR_CYCLES_S)
                return True
            if _held.is_awaited_by_holder_of(lock):
                return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
