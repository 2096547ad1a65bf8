"""Share arrays with workers, which read them in place instead of having them sent.

::

    np.memmap, shared_array()     a worker maps the same pages: nothing is copied
    any other large array         each batch is copied into a place in shared memory (once, by one
                                  memcpy) and the place is used again when the batch is done

So what a computation needs beyond the data itself is a few batches, whatever the size of the data.
The memory is anonymous: a worker opens it through the parent's descriptor in ``/proc``. Where there
is no ``/proc``, batches are sent.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vectasks._util.checks import whole_number
from vectasks._util.pickling import reduce_view
from vectasks.transport.memory import SharedMemory

_MIN_SLOT_BYTES = 1 << 18  # smaller batches are as well sent

_ALIGNMENT_BYTES = 64


class ArrayPlace(NamedTuple):
    """The location of a shared array: what is sent instead of the array.

    Attributes:
        path: of the memory or the file; ``inode`` says which one, for a path may be used again.
    """

    path: str
    inode: int
    offset_bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]


class Attributed(NamedTuple):
    """An array with the attributes that numpy leaves out of its pickle."""

    array: NDArray[Any]
    attributes: dict[str, Any]


class Viewed(NamedTuple):
    """The parts to rebuild a memoryview from; its own pickle would be that of bytes."""

    make: Callable[..., memoryview]
    args: tuple[Any, ...]


#: How numpy pickles arrays of subclasses that do not say how.
_NUMPYS_OWN = (np.ndarray.__reduce__, np.ma.MaskedArray.__reduce__)


def sendable(value: Any) -> Any:
    """Convert a batch or a result to a form that pickles completely; most stay as they are."""
    if isinstance(value, memoryview):
        return Viewed(*reduce_view(value))
    if isinstance(value, np.ndarray) and type(value).__reduce__ in _NUMPYS_OWN:
        attributes = _sendable_attributes(getattr(value, "__dict__", {}))
        return Attributed(value, attributes) if attributes else value
    return value


def received(value: Any) -> Any:
    """Undo :func:`sendable`."""
    if isinstance(value, Attributed):
        vars(value.array).update(value.attributes)
        return value.array
    return value.make(*value.args) if isinstance(value, Viewed) else value


def _sendable_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """Select the attributes to send: neither the mask, which numpy sends, nor a file's mapping."""
    return {
        name: _sendable_attributes(value) if type(value) is dict else value
        for name, value in attributes.items()
        if name != "_mask" and not isinstance(value, mmap.mmap)
    }


class _Mapping(mmap.mmap):
    """Shared memory mapped into this process; knows how others find it."""

    _path: str
    _inode: int
    _memory: SharedMemory

    @classmethod
    def of_size(cls, size_bytes: int) -> _Mapping:
        """Make new memory, all zero.

        Raises:
            OSError: there is not so much.
        """
        memory = SharedMemory("vectasks-compute")
        try:
            memory.resize(size_bytes)
            mapping = cls(memory.fd, size_bytes)
        except BaseException:
            memory.close()
            raise
        mapping._path = f"/proc/{os.getpid()}/fd/{memory.fd}"
        mapping._inode = os.fstat(memory.fd).st_ino
        mapping._memory = memory
        return mapping

    def place(self, offset_bytes: int, array: NDArray[Any]) -> ArrayPlace:
        """Return the place at which others find an array in this memory."""
        return ArrayPlace(
            self._path, self._inode, offset_bytes, array.shape, array.dtype, array.strides
        )

    def __del__(self) -> None:  # the last array on it is gone
        if "_memory" in self.__dict__:
            self._memory.close()


#: Whether other processes of this user's can open this one's memory.
_CAN_SHARE = Path("/proc/self/fd").exists()


def shared_array(shape: int | tuple[int, ...], dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Make an array of zeros in memory that workers can read: fill it, and submit it.

    Its slices are not copied on their way to workers. The memory lives as long as an array on it.

    Raises:
        InvalidArgument: a size is no integer of at least 0.
        OSError: there is not so much memory.
    """
    dtype = np.dtype(dtype)
    sizes = shape if isinstance(shape, Iterable) else (shape,)
    shape = tuple(whole_number("shape", size) for size in sizes)
    size_bytes = max(1, math.prod(shape) * dtype.itemsize)
    return np.ndarray(shape, dtype, _Mapping.of_size(size_bytes))


def place_of(array: NDArray[Any]) -> ArrayPlace | None:
    """Return this array's place, if it lies in a file or in shared memory as one piece."""
    if not array.flags.c_contiguous or array.dtype.hasobject:
        return None
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    offset_bytes = _address(array) - _address(root)
    if isinstance(root.base, _Mapping):
        return root.base.place(offset_bytes, array) if _CAN_SHARE else None
    # What was written to a copy-on-write file is in this process alone.
    if not isinstance(root, np.memmap) or root.filename is None or root.mode == "c":
        return None
    path = os.fspath(root.filename)
    try:
        inode = Path(path).stat().st_ino
    except OSError:  # it was removed, and lives on in this process
        return None
    return ArrayPlace(
        path, inode, root.offset + offset_bytes, array.shape, array.dtype, array.strides
    )


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


class BatchPacker:
    """Packs batches for worker processes: large arrays stay in place, or are copied into slots.

    Only plain arrays do: what a subclass has besides, a mask say, would be lost.

    A slot is a place for one batch in shared memory; all are of the first batch's size, and what
    does not fit is sent.

    Args:
        num_slots: as many batches as can be out.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._slot_bytes = 0
        self._mapping: _Mapping | None = None
        self._free: list[int] = []
        self._slot_of: dict[int, int] = {}
        self._held: dict[int, Any] = {}  # a batch's memory must live as long as the batch is out

    def wrap(self, index: int, batch: Any) -> Any:
        """Pack a batch: as itself, or as its place."""
        self._held[index] = batch
        if type(batch) is not np.ndarray or batch.dtype.hasobject:
            return sendable(batch)
        place = place_of(batch)
        if place is not None:
            return place
        return self._put(index, batch) if _CAN_SHARE and batch.nbytes >= _MIN_SLOT_BYTES else batch

    def _put(self, index: int, batch: NDArray[Any]) -> Any:
        if self._mapping is None:
            self._slot_bytes = -(-batch.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
            self._mapping = _Mapping.of_size(self._num_slots * self._slot_bytes)
            self._free = list(range(self._num_slots))
        if not self._free or batch.nbytes > self._slot_bytes:
            return batch
        slot = self._slot_of[index] = self._free.pop()
        offset_bytes = slot * self._slot_bytes
        strides = np.empty_like(batch, order="K").strides  # its axes lie as the batch's do
        copy: NDArray[Any] = np.ndarray(
            batch.shape, batch.dtype, self._mapping, offset_bytes, strides
        )
        copy[...] = batch
        return self._mapping.place(offset_bytes, copy)

    def done(self, index: int) -> None:
        """Free the slot of a batch that is done."""
        self._held.pop(index)
        slot = self._slot_of.pop(index, None)
        if slot is not None:
            self._free.append(slot)


class Reader:
    """Unpacks batches in a worker: arrays in place, read-only, and what came in another form."""

    def __init__(self) -> None:
        self._mappings: dict[tuple[str, int], mmap.mmap] = {}

    def unwrap(self, batch: Any) -> Any:
        """Unpack a batch.

        Raises:
            OSError: it lies in a file that is not there any more.
        """
        return self.read(batch) if isinstance(batch, ArrayPlace) else received(batch)

    def read(self, place: ArrayPlace) -> NDArray[Any]:
        """Return the array at a place.

        Raises:
            OSError: the file is not there any more.
        """
        end = place.offset_bytes + math.prod(place.shape) * place.dtype.itemsize
        mapping = self._mappings.get((place.path, place.inode))
        if mapping is None or len(mapping) < end:  # a file may have grown
            mapping = self._mappings[place.path, place.inode] = _mapped(place)
        return np.ndarray(place.shape, place.dtype, mapping, place.offset_bytes, place.strides)


def _mapped(place: ArrayPlace) -> mmap.mmap:
    with Path(place.path).open("rb") as file:
        if os.fstat(file.fileno()).st_ino != place.inode:
            raise FileNotFoundError(f"{place.path} is not the file that was submitted any more.")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
