"""Batched computing: the same results on every backend, in order, errors and all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks.compute import (
    MeanResult,
    OnlineMeanResultsHandler,
    Result,
    ResultsCollector,
    SumResultsHandler,
    Task,
    TaskManager,
    shared_array,
)
from vectasks.errors import InvalidArgument, WorkerDied


class Double(Task[Any, Any]):
    def do(self, batch: Any) -> Any:
        return batch * 2 if isinstance(batch, np.ndarray) else [2 * item for item in batch]


@pytest.fixture(params=["inline", "process"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def submit(task_cls: Any, data: Any, backend: str = "inline", **options: Any) -> Any:
    return TaskManager(task_cls, backend=backend, num_workers=2).submit(data, **options)


def marking(directory: Path) -> type[Task[Any, Any]]:
    """A task that leaves a file for each of its calls, in whatever process it lives."""

    class Marking(Task[Any, Any]):
        def _mark(self, what: str, *args: Any, **kwargs: Any) -> None:
            name = f"{what}-{os.getpid()}-{time.monotonic_ns()}"
            (directory / name).write_text(repr((args, kwargs)))

        def setup(self, *args: Any, **kwargs: Any) -> None:
            self._mark("setup", *args, **kwargs)

        def do(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
            self._mark("do", *args, **kwargs)
            if batch[0] == "raise":
                raise KeyError("on purpose")
            return len(batch)

        def teardown(self, *args: Any, **kwargs: Any) -> None:
            self._mark("teardown", *args, **kwargs)

    return Marking


def marks(directory: Path, what: str) -> list[str]:
    return sorted(path.name for path in directory.glob(f"{what}-*"))


# -- a task by itself -------------------------------------------------------------------------


def test_one_batch_by_hand(tmp_path: Path) -> None:
    task = marking(tmp_path)()
    result = task.run_batch(3, ["a", "b"], 1, key=2)
    assert (result.index, result.value, result.error) == (3, 2, None)
    called = sorted(tmp_path.iterdir(), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    assert [path.name.split("-")[0] for path in called] == ["setup", "do", "teardown"]
    assert {path.read_text() for path in called} == {"((1,), {'key': 2})"}


def test_an_error_by_hand(tmp_path: Path) -> None:
    result = marking(tmp_path)().run_batch(0, ["raise"])
    assert isinstance(result.error, KeyError)
    assert "in do" in result.traceback
    assert len(marks(tmp_path, "teardown")) == 1


@pytest.mark.parametrize("where", ["setup", "teardown"])
def test_errors_around_a_batch(where: str) -> None:
    def fail(self: Any) -> None:
        raise RuntimeError(where)

    task_cls = type("Failing", (Double,), {where: fail})
    result = task_cls().run_batch(0, [1])
    assert (result.value, str(result.error)) == (None, where)


def test_without_do() -> None:
    class Idle(Task[Any, Any]):
        pass

    for call in (
        lambda: Idle().do([1]),
        lambda: Idle().run_batch(0, [1]),
        lambda: TaskManager(Idle).submit([1]),
    ):
        with pytest.raises(NotImplementedError, match=r"Idle has no do\(\)"):
            call()


# -- batches ----------------------------------------------------------------------------------


def test_ten_items_in_batches_of_three(backend: str) -> None:
    results = submit(Double, list(range(10)), backend, batch_size=3).get()
    assert [result.index for result in results] == [0, 1, 2, 3]
    assert [result.value for result in results] == [[0, 2, 4], [6, 8, 10], [12, 14, 16], [18]]


@pytest.mark.guarantee("same-computed")
@pytest.mark.parametrize(
    "data",
    [
        list(range(7)),
        tuple(range(7)),
        range(7),
        np.arange(21.0).reshape(7, 3),
        np.asfortranarray(np.arange(21).reshape(7, 3)),
        np.array([1, "a", None] * 3, object),
    ],
    ids=["list", "tuple", "range", "array", "fortran", "objects"],
)
def test_parallel_equals_serial(data: Any) -> None:
    class Reverse(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            return batch[::-1]

    serial = submit(Reverse, data, "inline", batch_size=2).values()
    parallel = submit(Reverse, data, "process", batch_size=2).values()
    assert len(serial) == len(parallel) > 1
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one, other)
        assert type(one) is type(other)


def test_an_iterator_is_taken_as_it_is_needed(backend: str, tmp_path: Path) -> None:
    """Before more is taken than the workers have room for, a batch was done."""
    room = 2 * 2 if backend == "process" else 1  # two at each of two workers

    def numbers() -> Iterator[int]:
        for number in range(100):
            assert number < 5 * room or len(marks(tmp_path, "do")) > number // 5 - room - 1
            yield number

    results = submit(marking(tmp_path), numbers(), backend, batch_size=5).get()
    assert [result.value for result in results] == [5] * 20


def test_batches_made_elsewhere(backend: str) -> None:
    batches = [[1], np.array([2, 3]), (4,)]
    values = submit(Double, batches, backend, prebatched=True).values()
    assert [list(value) for value in values] == [[2], [4, 6], [8]]


def test_arguments_reach_every_method(backend: str, tmp_path: Path) -> None:
    submit(marking(tmp_path), "ab", backend, batch_size=1, args=(1,), kwargs={"key": 2})
    texts = {path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"((1,), {'key': 2})"}


def test_setup_and_teardown_run_once_a_worker(tmp_path: Path) -> None:
    class Meeting(marking(tmp_path)):  # type: ignore[misc]
        def do(self, batch: Any) -> Any:
            super().do(batch)
            while len(marks(tmp_path, "setup")) < 2:  # both workers take part
                time.sleep(0.001)

    submit(Meeting, list(range(20)), "process", batch_size=1)
    setups, teardowns = marks(tmp_path, "setup"), marks(tmp_path, "teardown")
    assert len({name.split("-")[1] for name in setups}) == len(setups) == 2
    assert {n.split("-")[1] for n in teardowns} == {n.split("-")[1] for n in setups}
    assert len(teardowns) == 2
    assert len(marks(tmp_path, "do")) == 20


def test_inline_it_is_set_up_once(tmp_path: Path) -> None:
    submit(marking(tmp_path), list("abcdef"), batch_size=2)
    counts = [len(marks(tmp_path, what)) for what in ("setup", "do", "teardown")]
    assert counts == [1, 3, 1]


def test_no_data(backend: str) -> None:
    assert submit(Double, [], backend).get() == []


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        ([1], {"batch_size": 0}, "batch_size must be an integer of at least 1"),
        (7, {}, "data must be a list, an array or an iterable, got a int"),
        ({"a": 1}, {}, r"list\(data.items\(\)\)"),
        (np.array(7), {}, "no axes"),
    ],
)
def test_what_cannot_be_made_into_batches(
    data: Any, options: dict[str, Any], expected: str, backend: str
) -> None:
    with pytest.raises(InvalidArgument, match=expected):
        submit(Double, data, backend, **options)


def test_wrong_managers() -> None:
    with pytest.raises(ValueError, match="backend='thread' is unknown"):
        TaskManager(Double, backend="thread")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="num_workers must be an integer of at least 1"):
        TaskManager(Double, num_workers=0)


def test_numpys_integers_are_sizes_and_numbers_of_workers(backend: str) -> None:
    few, two = np.uint8(4), np.int64(2)
    manager = TaskManager(Double, lambda: ResultsCollector(None, few), backend, two)  # type: ignore
    assert manager.submit(list(range(10)), few).values() == [
        [0, 2, 4, 6],
        [8, 10, 12, 14],
        [16, 18],
    ]
    assert shared_array(few).shape == shared_array(np.array([4])).shape == (4,)
    for refused in (2.0, True, "2"):
        with pytest.raises(InvalidArgument, match="batch_size must be an integer"):
            manager.submit([1], refused)  # type: ignore[arg-type]


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.guarantee("computing-errors")
def test_an_error_is_recorded_and_torn_down(backend: str, tmp_path: Path) -> None:
    manager = TaskManager(marking(tmp_path), backend=backend, num_workers=1)
    handler = manager.submit(["a", "raise", "c"], batch_size=1)
    results = handler.get()
    assert [result.value for result in results] == [1, None, 1]
    error = results[1].error
    assert isinstance(error, KeyError)
    assert error.args == ("on purpose",)
    assert "in do" in results[1].traceback
    assert handler.errors == [results[1]]
    assert len(marks(tmp_path, "teardown")) == 1
    with pytest.raises(KeyError, match="on purpose"):
        handler.values()
    # Nothing of it reaches the next submit.
    again = manager.submit(["d"], batch_size=1)
    assert [(r.index, r.value, r.error) for r in again.get()] == [(0, 1, None)]
    assert len(handler.get()) == 3


def test_an_exception_that_is_returned_is_an_error(backend: str) -> None:
    class Returning(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            return ValueError("returned")

    result = submit(Returning, [1], backend).get()[0]
    assert (result.value, type(result.error), str(result.error)) == (None, ValueError, "returned")


@pytest.mark.guarantee("computing-errors")
def test_none_is_a_value(backend: str) -> None:
    class Nothing(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            return None

    handler = submit(Nothing, [1, 2], backend, batch_size=1)
    assert handler.values() == [None, None]
    assert handler.errors == []


def test_a_setup_that_fails_fails_every_batch(backend: str) -> None:
    class Broken(Double):
        def setup(self) -> None:
            raise OSError("no model")

    results = submit(Broken, [1, 2], backend, batch_size=1).get()
    assert [str(result.error) for result in results] == ["no model", "no model"]


def test_a_teardown_that_fails_is_told(backend: str) -> None:
    class Broken(Double):
        def teardown(self) -> None:
            raise OSError("disk full")

    manager = TaskManager(Broken, backend=backend, num_workers=2)
    with pytest.raises(OSError, match="disk full"):
        manager.submit([1, 2], batch_size=1)
    assert manager.handler is not None
    assert manager.handler.values() == [[2], [4]]


def test_a_task_that_cannot_be_made(backend: str) -> None:
    class Unmade(Double):
        def __init__(self) -> None:
            raise OSError("no licence")

    with pytest.raises(OSError, match="no licence"):
        submit(Unmade, [1, 2, 3], backend, batch_size=1)


def test_data_that_ends_in_an_error(backend: str, tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        submit(marking(tmp_path), broken(), backend, batch_size=1)
    assert len(marks(tmp_path, "teardown")) == len(marks(tmp_path, "setup"))


def test_a_worker_that_dies_costs_its_batch() -> None:
    class Deadly(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            if batch == [3]:
                os._exit(7)
            return batch

    results = submit(Deadly, list(range(12)), "process", batch_size=1).get()
    assert [result.value for result in results if result.error is None] == [
        [i] for i in range(12) if i != 3
    ]
    assert isinstance(results[3].error, WorkerDied)


def test_values_and_batches_that_cannot_travel() -> None:
    class Closure(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            return __import__("threading").Lock() if batch == [1] else batch

    results = submit(Closure, [0, 1, 2], "process", batch_size=1).get()
    assert [result.error is None for result in results] == [True, False, True]
    lock = __import__("threading").Lock()
    results = submit(Double, [[1], [lock], [2]], "process", prebatched=True).get()
    assert [result.value for result in results] == [[2], None, [4]]
    assert isinstance(results[1].error, InvalidArgument)


# -- handlers ---------------------------------------------------------------------------------


def test_whatever_comes_first_they_stand_in_order() -> None:
    handler = ResultsCollector()
    for index in (2, 0, 1):
        handler.add_result(Result(index, f"value {index}"))
    assert handler.values() == ["value 0", "value 1", "value 2"]
    with pytest.raises(ValueError, match="index 1 already"):
        handler.add_result(Result(1, "again"))
    assert handler.values()[1] == "value 1"


@pytest.mark.guarantee("same-computed")
def test_late_workers_change_no_order(tmp_path: Path) -> None:
    class FirstComesLast(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            sign = tmp_path / "sign"
            if batch[0] == 7:
                sign.touch()
            while batch[0] == 0 and not sign.exists():
                time.sleep(0.001)
            return batch[0]

    order = []

    class Noting(ResultsCollector):
        def add_result(self, result: Result[Any]) -> None:
            order.append(result.index)
            super().add_result(result)

    manager = TaskManager(FirstComesLast, Noting, backend="process", num_workers=2)
    assert manager.submit(range(8), batch_size=1).values() == list(range(8))
    assert order == list(range(8)), "so that no sum depends on who was faster"


def test_the_running_mean() -> None:
    handler = OnlineMeanResultsHandler()
    with pytest.raises(ValueError, match="mean of nothing"):
        handler.get()
    handler.add_result(Result(0, (10.0, 5)))
    handler.add_result(Result(1, (20.0, 15)))
    handler.add_result(Result(2, (1e9, 0)))
    assert handler.get() == MeanResult(mean=17.5, n=20)
    handler.reset()
    with pytest.raises(ValueError, match="mean of nothing"):
        handler.get()


def test_the_mean_of_arrays(backend: str) -> None:
    class Mean(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            return batch.mean(axis=0), len(batch)

    data = np.random.default_rng(0).normal(size=(1000, 3))
    manager = TaskManager(Mean, OnlineMeanResultsHandler, backend=backend, num_workers=2)
    mean, n = manager.submit(data, batch_size=64).get()
    assert n == 1000
    np.testing.assert_allclose(mean, data.mean(axis=0), rtol=1e-12)


def test_a_mean_of_masked_arrays_is_masked() -> None:
    handler = OnlineMeanResultsHandler()
    handler.add_result(Result(0, (np.ma.array([2.0, 9.0], mask=[False, True]), 1)))
    assert handler.get().mean.tolist() == [2.0, None]


@pytest.mark.guarantee("same-computed")
def test_means_and_sums_are_the_same_on_every_backend() -> None:
    """To the last bit: results are taken in in order of index."""

    class Sum(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            return batch.sum(axis=0)

    data = np.random.default_rng(0).normal(size=(500, 2)) * 1.1 ** np.arange(500)[:, None]
    sums = [
        TaskManager(Sum, SumResultsHandler, backend=backend, num_workers=2)
        .submit(data, batch_size=7)
        .get()
        for backend in ("inline", "process")
    ]
    np.testing.assert_array_equal(sums[0], sums[1])


def test_a_mean_of_failed_batches_is_no_mean() -> None:
    for handler in (OnlineMeanResultsHandler(), SumResultsHandler()):
        handler.add_result(Result(0, (1.0, 1)))
        handler.add_result(Result(1, error=KeyError("lost")))
        with pytest.raises(KeyError, match="lost"):
            handler.get()
    with pytest.raises(InvalidArgument, match=r"must return \(mean, n\)"):
        OnlineMeanResultsHandler().add_result(Result(0, 7.0))
    with pytest.raises(ValueError, match="sum of nothing"):
        SumResultsHandler().get()


def test_a_handler_of_ones_own_forgets_what_was_before() -> None:
    handler = ResultsCollector()
    manager = TaskManager(Double, handler)
    assert manager.submit([1, 2], batch_size=1) is handler
    assert manager.submit_tasks([3]) is handler
    assert handler.values() == [[6]]


# -- arrays -----------------------------------------------------------------------------------


@pytest.mark.guarantee("no-copies")
def test_arrays_are_sliced_without_a_copy() -> None:
    data = np.arange(12.0).reshape(6, 2)
    batches = []

    class Keep(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            batches.append(batch)

    submit(Keep, data, batch_size=4)
    assert all(np.shares_memory(batch, data) for batch in batches)
    with pytest.raises(ValueError, match="read-only"):
        batches[0][0] = 1
    data[0] = 5


def test_large_arrays_in_workers(tmp_path: Path) -> None:
    """Private, shared and file-backed arrays: the values are the same, and nobody may write."""

    class Look(Task[Any, Any]):
        def do(self, batch: Any) -> Any:
            return float(batch.sum()), batch.flags.writeable, batch.dtype.name

    private = np.random.default_rng(0).normal(size=(60, 50, 100))
    shared = shared_array(private.shape)
    shared[...] = private
    filed = np.memmap(tmp_path / "data", float, "w+", shape=private.shape)
    filed[...] = private
    expected = [(float(batch.sum()), False, "float64") for batch in np.split(private, 6)]
    for data in (private, shared, filed, shared[::-1][::-1]):
        assert submit(Look, data, "process", batch_size=10).values() == expected
