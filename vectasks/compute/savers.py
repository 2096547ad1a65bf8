"""Arrays on disk that results are added to: ``.npy`` files and zarr arrays.

Both know three ways: ``"append"`` adds rows (and begins the array if there is none),
``"overwrite"`` replaces it, and ``"update"`` changes rows of one that is there.
"""

from __future__ import annotations

import abc
import os
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vectasks._util.extras import require
from vectasks._util.files import whole_or_nothing
from vectasks.errors import InvalidArgument

Approach = Literal["append", "overwrite", "update"]

_APPROACHES = ("append", "overwrite", "update")


class Saver(abc.ABC):
    """Writes rows to one array.

    Args:
        file_path: where the array is.
        approach: ``"append"``, ``"overwrite"`` or ``"update"``.

    Raises:
        InvalidArgument: the approach is none of these.
    """

    def __init__(self, file_path: str | os.PathLike[str], approach: Approach = "append") -> None:
        if approach not in _APPROACHES:
            raise InvalidArgument(
                f"approach={approach!r} is unknown; it must be one of {', '.join(_APPROACHES)}."
            )
        self.file_path: Path = Path(file_path)
        self.approach = approach

    def save(self, data: Any, indices: Any = None) -> None:
        """Write rows.

        Args:
            data: [num_rows, ...], an array or what becomes one.
            indices: which rows they are, for ``"update"``; it is needed there, and is not looked at
                otherwise.

        Raises:
            InvalidArgument: the rows do not fit the array's, some are masked, or an update has no
                indices.
            FileNotFoundError: an update of an array that is not there.
        """
        rows = unmasked(data)
        if rows.ndim == 0:
            raise InvalidArgument(f"save: data must be rows, got {data!r:.60} alone.")
        if self.approach == "overwrite":
            self._overwrite(rows)
        elif self.approach == "append":
            self._append(rows)
        elif indices is None:
            raise InvalidArgument(
                f"save: an update of {self.file_path} must be told which rows (indices=...)."
            )
        else:
            positions = np.asarray(indices)
            if len(positions) != len(rows):
                raise InvalidArgument(f"save: {len(positions)} indices for {len(rows)} rows.")
            self._update(rows, positions)

    @abc.abstractmethod
    def _overwrite(self, rows: NDArray[Any]) -> None: ...

    @abc.abstractmethod
    def _append(self, rows: NDArray[Any]) -> None: ...

    @abc.abstractmethod
    def _update(self, rows: NDArray[Any], indices: NDArray[Any]) -> None: ...

    def _require_fit(
        self, rows: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        if rows.shape[1:] != shape[1:] or not np.can_cast(rows.dtype, dtype, "same_kind"):
            raise InvalidArgument(
                f"save: {self.file_path} has rows of {dtype} {list(shape[1:])}, and these are of "
                f"{rows.dtype} {list(rows.shape[1:])}."
            )


def _missing(array: str) -> FileNotFoundError:
    return FileNotFoundError(
        f'save: there is no array {array} to update; begin it with approach="overwrite" or '
        '"append".'
    )


def unmasked(values: Any) -> NDArray[Any]:
    """Return the values as an array.

    Raises:
        InvalidArgument: some of them are masked.
    """
    if np.ma.is_masked(values):
        raise InvalidArgument(
            "save: some values are masked, and a file of plain arrays would show what lies under "
            "the mask. Save values.filled(numpy.nan), say."
        )
    return np.asarray(values)


class NumpySaver(Saver):
    """Writes a ``.npy`` file. Rows are added in place: what is there is not written again."""

    def _overwrite(self, rows: NDArray[Any]) -> None:
        with whole_or_nothing(self.file_path) as partial_path, partial_path.open("xb") as file:
            np.save(file, rows, allow_pickle=False)

    def _append(self, rows: NDArray[Any]) -> None:
        try:
            file = self.file_path.open("r+b")
        except FileNotFoundError:
            self._overwrite(rows)
            return
        with file:
            shape, dtype, data_at = self._read_header(file)
            self._require_fit(rows, shape, dtype)
            row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            file.seek(data_at + shape[0] * row_bytes)
            # The rows first: a reader, or a kill, in between sees the file as it was.
            file.write(np.ascontiguousarray(rows, dtype).tobytes())
            file.truncate()
            file.flush()
            file.seek(0)
            header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False}
            npy.write_array_header_1_0(
                file, {**header, "shape": (shape[0] + len(rows), *shape[1:])}
            )
            if file.tell() != data_at:
                raise InvalidArgument(f"save: {self.file_path} was not written by numpy.save.")

    def _read_header(self, file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
        try:
            version = npy.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"its format is {version}, which has no room to grow")
            shape, is_fortran, dtype = npy.read_array_header_1_0(file)
        except ValueError as error:
            raise InvalidArgument(f"save: {self.file_path} cannot be added to: {error}.") from error
        if is_fortran or not shape:
            raise InvalidArgument(
                f"save: {self.file_path} cannot be added to: it does not hold rows in C order."
            )
        return shape, dtype, file.tell()

    def _update(self, rows: NDArray[Any], indices: NDArray[Any]) -> None:
        if not self.file_path.exists():
            raise _missing(str(self.file_path))
        array = np.load(self.file_path, mmap_mode="r+")
        self._require_fit(rows, array.shape, array.dtype)
        array[indices] = rows
        array.flush()


class ZarrSaver(Saver):
    """Writes an array of a zarr group.

    Args:
        file_path: the group's directory.
        dataset_name: the array's name in the group.
        approach: ``"append"``, ``"overwrite"`` or ``"update"``.
    """

    def __init__(
        self,
        file_path: str | os.PathLike[str],
        dataset_name: str = "dataset",
        approach: Approach = "append",
    ) -> None:
        super().__init__(file_path, approach)
        self.dataset_name = dataset_name

    def _group(self) -> Any:
        zarr = require("zarr", "compute", "ZarrSaver")
        return zarr.open_group(str(self.file_path), mode="a")

    def _overwrite(self, rows: NDArray[Any]) -> None:
        group = self._group()
        create = getattr(group, "create_array", None) or group.create_dataset  # zarr 2's name
        array = create(self.dataset_name, shape=rows.shape, dtype=rows.dtype, overwrite=True)
        array[...] = rows

    def _append(self, rows: NDArray[Any]) -> None:
        group = self._group()
        if self.dataset_name not in group:
            self._overwrite(rows)
            return
        array = group[self.dataset_name]
        self._require_fit(rows, array.shape, array.dtype)
        array.append(rows)

    def _update(self, rows: NDArray[Any], indices: NDArray[Any]) -> None:
        if not self.file_path.exists() or self.dataset_name not in (group := self._group()):
            raise _missing(f"{self.dataset_name!r} in {self.file_path}")
        array = group[self.dataset_name]
        self._require_fit(rows, array.shape, array.dtype)
        array.oindex[indices] = rows
