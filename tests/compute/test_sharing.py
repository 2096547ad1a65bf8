"""Arrays that workers read where they are."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from vectasks.compute import shared_array
from vectasks.compute.sharing import ArrayPlace, Parcels, Reader, place_of

LARGE = (300, 200)  # rows; a batch of it is worth a slot


def test_a_shared_array_is_read_where_it_is() -> None:
    array = shared_array((8, 3), np.int32)
    assert (array.shape, array.dtype, array.sum()) == ((8, 3), np.int32, 0)
    place = place_of(array[2:5])
    assert place is not None
    view = Reader().read(place)
    array[2:5] = 7
    np.testing.assert_array_equal(view, 7)
    assert not view.flags.writeable


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
    parcels, reader = Parcels(num_slots=2), Reader()
    batches = [np.full(LARGE, float(i)) for i in range(6)]
    offsets = set()
    for index, batch in enumerate(batches):
        place = parcels.wrap(index, batch)
        assert isinstance(place, ArrayPlace)
        np.testing.assert_array_equal(reader.read(place), batch)
        offsets.add(place.offset_bytes)
        if index:
            parcels.done(index - 1)
    assert len(offsets) == 2


def test_what_has_no_slot_is_sent() -> None:
    parcels = Parcels(num_slots=1)
    assert isinstance(parcels.wrap(0, np.zeros(LARGE)), ArrayPlace)
    assert isinstance(parcels.wrap(1, np.zeros(LARGE)), np.ndarray), "the slot is taken"
    parcels.done(0)
    assert isinstance(parcels.wrap(2, np.zeros((400, 200))), np.ndarray), "it is too large"
    assert isinstance(parcels.wrap(3, np.zeros(8)), np.ndarray), "it is too small to be worth it"
    assert isinstance(parcels.wrap(4, np.array([None] * 99_999)), np.ndarray)
    assert parcels.wrap(5, "text") == "text"


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
