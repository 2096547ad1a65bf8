"""Results of methods that are kept in a file, under the config's identifier."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from vectasks.errors import InvalidArgument
from vectasks.experiment import context
from vectasks.experiment.identifier import type_name
from vectasks.extras import require

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

    It is called without the path, in a job or in an experiment's block. One process at a time is in
    it, for each config. What it leaves when it raises, or is killed, is thrown away before it is
    called again, so that it sees a whole result or none.

    Args:
        name: of the file, in ``WORKDIR/cache/TYPE/IDENTIFIER``.

    Raises:
        InvalidArgument: the name leads out of that folder.
    """
    if not name or PurePath(name).name != name or name == "..":
        raise InvalidArgument(f"cache: {name!r} is no name for a file.")

    def decorate(
        method: Callable[Concatenate[Any, Path, P], R],
    ) -> Callable[Concatenate[Any, P], R]:
        @functools.wraps(method)
        def cached(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
            filelock = require("filelock", "experiment", "cache")
            workdir = context.current(f"{type(self).__name__}.{method.__name__}").workdir
            folder = workdir / "cache" / type_name(type(self)) / self.identifier
            folder.mkdir(parents=True, exist_ok=True)
            path, is_whole = folder / name, folder / f"{name}.ok"
            with filelock.FileLock(folder / f"{name}.lock"):
                if not is_whole.exists():
                    _remove(path)
                result = method(self, path, *args, **kwargs)
                if path.exists():
                    is_whole.touch()
            return result

        return cast(Callable[Concatenate[Any, P], R], cached)

    return decorate


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
