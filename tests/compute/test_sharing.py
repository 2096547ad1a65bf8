"""Arrays that workers read where they are."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks.compute import OnlineMeanResultsHandler, Task, TaskManager, shared_array
from vectasks.compute.sharing import ArrayPlace, BatchPacker, Reader, place_of

LARGE = (300, 200)  # rows; a batch of it is worth a slot


@pytest.mark.guarantee("no-copies")
def test_a_shared_array_is_read_where_it_is() -> None:
    array = shared_array((8, 3), np.int32)
    assert (array.shape, array.dtype, array.sum()) == ((8, 3), np.int32, 0)
    place = place_of(array[2:5])
    assert place is not None
    view = Reader().read(place)
    array[2:5] = 7
    np.testing.assert_array_equal(view, 7)
    assert not view.flags.writeable


@pytest.mark.guarantee("no-copies")
def test_a_file_is_read_where_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.arange(20.0).reshape(10, 2))
    array = np.load(tmp_path / "data.npy", mmap_mode="r")
    place = place_of(array[3:6])
    assert place is not None
    np.testing.assert_array_equal(Reader().read(place), [[6, 7], [8, 9], [10, 11]])


def test_what_others_cannot_find(tmp_path: Path) -> None:
    filed = np.memmap(tmp_path / "data", float, "w+", shape=(8, 3))
    private = np.memmap(tmp_path / "data", float, "c", shape=(8, 3))
    assert place_of(filed) is not None
    for array in (np.zeros(8), private, filed[:, 1:], filed.T, filed.copy(), shared_array(8)[::2]):
        assert place_of(array) is None
    (tmp_path / "data").unlink()
    assert place_of(filed) is None


def test_a_file_in_anothers_place_is_not_read(tmp_path: Path) -> None:
    filed = np.memmap(tmp_path / "data", float, "w+", shape=8)
    place = place_of(filed)
    assert place is not None
    (tmp_path / "data").rename(tmp_path / "moved")
    np.zeros(8).tofile(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="any more"):
        Reader().read(place)


def test_private_arrays_take_turns_in_few_slots() -> None:
    packer, reader = BatchPacker(num_slots=2), Reader()
    batches = [np.full(LARGE, float(i)) for i in range(6)]
    offsets = set()
    for index, batch in enumerate(batches):
        place = packer.wrap(index, batch)
        assert isinstance(place, ArrayPlace)
        np.testing.assert_array_equal(reader.read(place), batch)
        offsets.add(place.offset_bytes)
        if index:
            packer.done(index - 1)
    assert len(offsets) == 2


def test_what_has_no_slot_is_sent() -> None:
    packer = BatchPacker(num_slots=1)
    assert isinstance(packer.wrap(0, np.zeros(LARGE)), ArrayPlace)
    assert isinstance(packer.wrap(1, np.zeros(LARGE)), np.ndarray), "the slot is taken"
    packer.done(0)
    assert isinstance(packer.wrap(2, np.zeros((400, 200))), np.ndarray), "it is too large"
    assert isinstance(packer.wrap(3, np.zeros(8)), np.ndarray), "it is too small to be worth it"
    assert isinstance(packer.wrap(4, np.array([None] * 99_999)), np.ndarray)
    assert packer.wrap(5, "text") == "text"


def test_memory_lives_as_long_as_an_array_on_it() -> None:
    row = shared_array((4, 1000))[2]
    gc.collect()
    row[...] = 3
    place = place_of(row)
    assert place is not None
    assert Reader().read(place).sum() == 3000
    del row
    gc.collect()
    with pytest.raises(FileNotFoundError):
        Reader().read(place)


# -- what is more than a plain array ----------------------------------------------------------


class Measured(np.ndarray):
    """With an attribute, as numpy's manual has it; of which numpy's pickles know nothing."""

    unit: str

    def __array_finalize__(self, of: Any) -> None:
        self.unit = getattr(of, "unit", "none")


def measured(array: Any, unit: str) -> Measured:
    view: Measured = np.asarray(array).view(Measured)
    view.unit = unit
    return view


class Describe(Task[Any, str]):
    """Describe what a task can see of a batch."""

    def do(self, batch: Any) -> str:
        if isinstance(batch, dict):
            return repr({name: self.do(item) for name, item in batch.items()})
        data = np.asarray(batch)
        content = data.tolist() if data.dtype.hasobject else zlib.crc32(data.tobytes())
        seen: list[Any] = [type(batch).__name__, content, np.shape(batch)]
        if isinstance(batch, memoryview):
            return repr([*seen, batch.format, batch.readonly])
        if isinstance(batch, np.ndarray):
            mask = np.ma.getmaskarray(batch) if isinstance(batch, np.ma.MaskedArray) else None
            seen += [batch.dtype.descr if batch.dtype.names else batch.dtype.str]
            seen += [batch.flags.writeable, getattr(batch, "unit", None)]
            seen += [None if mask is None else (zlib.crc32(mask.tobytes()), mask.flags.writeable)]
            seen += [getattr(batch, "fill_value", None), batch.flags.c_contiguous]
        return repr(seen)


def _pairs(num_rows: int) -> Any:
    return np.arange(2.0 * num_rows).reshape(num_rows, 2)


PLENTY = 40_000  # rows of two: worth a slot
KINDS_OF_BATCHES: dict[str, Callable[[Any], Any]] = {
    "masked": lambda pairs: np.ma.array(pairs, mask=pairs % 3 == 0, fill_value=7.0),
    "masked constant": lambda pairs: np.ma.masked,
    "matrix": lambda pairs: pairs.view(np.matrix),
    "own class": lambda pairs: measured(pairs, "m"),
    "record array": lambda pairs: np.rec.fromarrays(pairs.T, names="a,b"),
    "memoryview": memoryview,
    "memoryview of rows": lambda pairs: memoryview(pairs)[::2],
    "memoryview, big endian": lambda pairs: memoryview(pairs.astype(">f8")),
    "memoryview of nothing": lambda pairs: memoryview(pairs[:, :0]),
    "in a dict": lambda pairs: {"view": memoryview(pairs[:2].copy())},
    "Fortran order": np.asfortranarray,
    "structured": lambda pairs: np.zeros(len(pairs), [("a", "i4"), ("b", "f8", 2)]),
    "times": lambda pairs: np.arange(len(pairs)).astype("M8[ms]"),
    "objects": lambda pairs: np.array([None, 1], object),
    "no axes": lambda pairs: np.array(1.5),
    "own class, no axes": lambda pairs: measured(1.5, "m"),
    "masked, no axes": lambda pairs: np.ma.array(1.5, mask=True),
    "shared and masked": lambda pairs: np.ma.array(
        shared_array(pairs.shape), mask=pairs % 3 == 0, copy=False
    ),
}


def test_workers_see_what_a_task_here_sees(tmp_path: Path) -> None:
    batches = [make(_pairs(rows)) for make in KINDS_OF_BATCHES.values() for rows in (6, PLENTY)]
    filed = np.memmap(tmp_path / "data", float, "w+", shape=(PLENTY, 2))
    batches += [filed, np.ma.array(filed, mask=filed > 3, copy=False), filed.view(Measured)]
    names = [f"{name}, {size}" for name in KINDS_OF_BATCHES for size in ("small", "large")]
    names += ["file", "masked file", "file of own class"]
    here, there = (
        TaskManager(Describe, backend=backend, num_workers=1).submit(batches, prebatched=True)
        for backend in ("inline", "process")
    )
    for name, one, other in zip(names, here.values(), there.values(), strict=True):
        assert one == other, name


def test_results_are_what_they_are_here() -> None:
    class Make(Task[str, Any]):
        def do(self, batch: str) -> Any:
            return {
                "own class": measured([1, 2], "m"),
                "masked": np.ma.array([1, 2], mask=[True, False]),
                "memoryview": memoryview(np.arange(3.0)),
            }[batch]

    names = ["own class", "masked", "memoryview"]
    here, there = (
        TaskManager(Make, backend=backend, num_workers=1).submit(names, prebatched=True).values()
        for backend in ("inline", "process")
    )
    assert [Describe().do(value) for value in here] == [Describe().do(value) for value in there]


def test_a_batch_cannot_be_written_through() -> None:
    class Write(Task[Any, None]):
        def do(self, batch: Any) -> None:
            batch[0] = np.ma.masked if isinstance(batch, np.ma.MaskedArray) else batch[1]

    data = [np.ma.array([1, 2], mask=[False, True]), memoryview(bytearray(b"ab"))]
    data += [np.array([None, 1], object), measured([1, 2], "m"), np.zeros(LARGE)]
    for backend in ("inline", "process"):
        results = TaskManager(Write, backend=backend, num_workers=1).submit(data, prebatched=True)
        assert [type(result.error) for result in results.get()] == [
            *(ValueError, TypeError, ValueError, ValueError, ValueError)
        ]
    assert data[0].mask.tolist() == [False, True]


def test_a_mean_leaves_out_what_is_masked_on_every_backend() -> None:
    class Mean(Task[Any, tuple[Any, int]]):
        def do(self, batch: Any) -> tuple[Any, int]:
            return batch.mean(), batch.count()

    pairs = _pairs(4 * PLENTY)
    data = np.ma.array(pairs, mask=pairs % 2 == 0)
    for backend in ("inline", "process"):
        manager = TaskManager(Mean, OnlineMeanResultsHandler, backend=backend, num_workers=2)
        assert manager.submit(data, batch_size=PLENTY).get() == (data.mean(), data.count())


def test_the_axes_of_a_slot_lie_as_the_batchs_do() -> None:
    batch = np.asfortranarray(np.arange(np.prod(LARGE)).reshape(LARGE))
    packer, reader = BatchPacker(num_slots=1), Reader()
    there = reader.read(packer.wrap(0, batch))
    np.testing.assert_array_equal(there, batch)
    np.testing.assert_array_equal(there.ravel("K"), batch.ravel("K"))
