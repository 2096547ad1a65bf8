"""Savers append, overwrite and update, and say what is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks.compute import (
    NumpySaver,
    OnlineMeanResultsHandler,
    Result,
    ResultsCollector,
    Saver,
    SumResultsHandler,
    Task,
    TaskManager,
    ZarrSaver,
)
from vectasks.errors import InvalidArgument


class Files:
    """Savers of one kind, and how to read what they wrote."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._is_npy = kind == "npy"
        self.path = directory / f"data.{kind}"

    def saver(self, approach: Any) -> Saver:
        if self._is_npy:
            return NumpySaver(self.path, approach)
        return ZarrSaver(self.path, "values", approach)

    def read(self) -> Any:
        if self._is_npy:
            return np.load(self.path)
        zarr = pytest.importorskip("zarr")
        return zarr.open_group(str(self.path), mode="r")["values"][...]


@pytest.fixture(params=["npy", "zarr"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    if request.param == "zarr":
        pytest.importorskip("zarr", reason="it needs the compute extra")
    yield Files(request.param, tmp_path)
    if request.param == "zarr":
        _end_threads_of_zarr()


def _end_threads_of_zarr() -> None:
    """Zarr 3 keeps an event loop and threads, which no test may leave behind."""
    with contextlib.suppress(ImportError):
        from zarr.core.sync import cleanup_resources

        cleanup_resources()


def test_append(files: Files) -> None:
    saver = files.saver("append")
    for rows in ([1, 2, 3], [4, 5], [], np.array([6])):
        saver.save(np.asarray(rows, np.int64))
    np.testing.assert_array_equal(files.read(), [1, 2, 3, 4, 5, 6])
    assert files.read().dtype == np.int64


def test_append_rows_of_several_axes(files: Files) -> None:
    data = np.random.default_rng(0).normal(size=(50, 3, 2)).astype(np.float32)
    saver = files.saver("append")
    for batch in np.array_split(data, 9):
        saver.save(batch)
    np.testing.assert_array_equal(files.read(), data)
    assert files.read().dtype == np.float32


def test_overwrite(files: Files) -> None:
    saver = files.saver("overwrite")
    saver.save([1, 2, 3, 4, 5])
    saver.save([[1.5, 2.5]])
    np.testing.assert_array_equal(files.read(), [[1.5, 2.5]])


def test_update(files: Files) -> None:
    files.saver("overwrite").save([1, 2, 3, 4, 5])
    saver = files.saver("update")
    saver.save([99, 98], indices=[1, 2])
    saver.save([97], indices=range(4, 5))
    np.testing.assert_array_equal(files.read(), [1, 99, 98, 4, 97])


def test_what_is_wrong_is_said(files: Files) -> None:
    with pytest.raises(ValueError, match="approach='upsert' is unknown"):
        files.saver("upsert")
    with pytest.raises(FileNotFoundError, match=r"no array .* to update"):
        files.saver("update").save([1], indices=[0])
    assert not files.path.exists()
    files.saver("append").save([[1, 2], [3, 4]])
    with pytest.raises(InvalidArgument, match=r"rows of int64 \[2\], and these are of int64 \[3\]"):
        files.saver("append").save([[1, 2, 3]])
    with pytest.raises(InvalidArgument, match="float64"):
        files.saver("append").save([[0.5, 0.5]])
    with pytest.raises(InvalidArgument, match="must be told which rows"):
        files.saver("update").save([[1, 2]])
    with pytest.raises(InvalidArgument, match="1 indices for 2 rows"):
        files.saver("update").save([[1, 2], [3, 4]], indices=[0])
    with pytest.raises(InvalidArgument, match="must be rows"):
        files.saver("append").save(7)
    with pytest.raises(IndexError):
        files.saver("update").save([[1, 2]], indices=[7])
    np.testing.assert_array_equal(files.read(), [[1, 2], [3, 4]])


def test_masked_values_are_not_saved_as_if_they_were_there(files: Files) -> None:
    rows = np.ma.array([[1.0, 2.0]], mask=[[True, False]])
    collector = ResultsCollector(files.saver("append"))
    for save in (files.saver("append").save, lambda rows: collector.add_result(Result(0, rows))):
        with pytest.raises(InvalidArgument, match="masked"):
            save(rows)
    files.saver("append").save(rows.filled(9.0))
    files.saver("append").save(np.ma.array([[3.0, 4.0]]))
    np.testing.assert_array_equal(files.read(), [[9, 2], [3, 4]])


def test_rows_are_added_in_place(tmp_path: Path) -> None:
    """A reader, or a kill, between the rows and the header sees the file as it was."""
    path = tmp_path / "data.npy"
    saver = NumpySaver(path)
    saver.save(np.arange(1000.0))
    inode, old = path.stat().st_ino, path.read_bytes()
    saver.save(np.arange(5.0))
    assert path.stat().st_ino == inode
    assert path.stat().st_size == len(old) + 40
    path.write_bytes(old + path.read_bytes()[len(old) : len(old) + 20])  # killed while it appended
    np.testing.assert_array_equal(np.load(path), np.arange(1000.0))
    saver.save([7.0])
    np.testing.assert_array_equal(np.load(path), [*np.arange(1000.0), 7.0])
    assert path.stat().st_size == len(old) + 8


@pytest.mark.parametrize("content", [b"", b"no array at all", None])
def test_files_that_cannot_be_added_to(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "data.npy"
    if content is None:
        np.save(path, np.asfortranarray(np.ones((3, 4))))
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(InvalidArgument, match="cannot be added to"):
        NumpySaver(path).save(np.ones((1, 4)))
    assert path.read_bytes() == before


# -- with handlers ----------------------------------------------------------------------------


class Square(Task[Any, Any]):
    def do(self, batch: Any) -> Any:
        if batch[0] == 6:
            raise KeyError(6)
        return np.asarray(batch) ** 2


def test_results_are_saved_in_order(files: Files) -> None:
    handler = ResultsCollector(files.saver("append"), save_interval=2)
    for index in (2, 0, 3, 1):
        handler.add_result(Result(index, [index, 10 * index]))
    handler.finalize()
    np.testing.assert_array_equal(files.read(), [0, 0, 1, 10, 2, 20, 3, 30])
    assert len(handler.get()) == 4


def test_as_many_as_asked_for_are_saved_together(tmp_path: Path) -> None:
    saved = []

    class Noting(NumpySaver):
        def save(self, data: Any, indices: Any = None) -> None:
            saved.append((list(data), list(indices)))

    handler = ResultsCollector(Noting(tmp_path / "x.npy"), save_interval=2)
    for index in (1, 0, 2):
        handler.add_result(Result(index, [index, index]))
    assert saved == [([0, 0, 1, 1], [0, 1, 2, 3])]
    handler.finalize()
    assert saved[1:] == [([2, 2], [4, 5])]
    with pytest.raises(InvalidArgument, match="save_interval"):
        ResultsCollector(save_interval=0)


@pytest.mark.parametrize("backend", ["inline", "process"])
def test_a_submit_that_saves(backend: Any, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    manager = TaskManager(
        Square, lambda: ResultsCollector(files.saver("append")), backend=backend, num_workers=2
    )
    manager.submit(range(10), batch_size=3)
    np.testing.assert_array_equal(files.read(), [0, 1, 4, 9, 16, 25, 81])
    assert "1 batches failed" in caplog.text


def test_means_and_sums_are_saved_at_the_end(files: Files) -> None:
    mean = OnlineMeanResultsHandler(files.saver("overwrite"))
    mean.add_result(Result(0, (np.array([1.0, 2.0]), 1)))
    mean.add_result(Result(1, (np.array([3.0, 6.0]), 1)))
    mean.finalize()
    np.testing.assert_array_equal(files.read(), [2.0, 4.0])
    total = SumResultsHandler(files.saver("overwrite"))
    total.add_result(Result(0, 3))
    total.add_result(Result(1, 4))
    total.finalize()
    np.testing.assert_array_equal(files.read(), [7])
