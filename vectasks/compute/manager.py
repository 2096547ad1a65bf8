"""Send batches to workers and results to a handler."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np

from vectasks._util.checks import whole_number
from vectasks.compute.batch_task import Result, Session, Task, require_do
from vectasks.compute.data_batches import batches_of, count_batches, read_only
from vectasks.compute.handlers import ResultsCollector, ResultsHandler
from vectasks.compute.sharing import BatchPacker, Reader, place_of, received, sendable
from vectasks.errors import RemoteError, RemoteTraceback, SetupError
from vectasks.pool.feed import feed
from vectasks.pool.kinds import Kind, checked_kind
from vectasks.pool.pool import WorkerPool
from vectasks.transport.cpu import usable_cores

HandlerT = TypeVar("HandlerT", bound=ResultsHandler[Any])

_AHEAD = 2  # batches at a worker: the next one is there when it has done one
_MOST_COPIED = 0.2  # of an array at a time, if that does not take less than one batch a worker


class TaskManager(Generic[HandlerT]):
    """Runs a task on all batches of some data.

    >>> class Double(Task[list[int], list[int]]):
    ...     def do(self, batch: list[int]) -> list[int]:
    ...         return [2 * number for number in batch]
    >>> TaskManager(Double).submit([1, 2, 3], batch_size=2).values()
    [[2, 4], [6]]

    Args:
        task_cls: makes the task; called without arguments, once in each worker.
        handler: what to do with the results: a class (or whatever makes a handler), of which every
            submit gets a new one, or a handler, which forgets what was before at every submit.
        backend: ``"inline"``: in this process; ``"process"``: in worker processes, which large
            arrays are shared with; ``"ray"``: in Ray actors.
        num_workers: how many (None: one per core).

    Attributes:
        handler: of the last submit; None before the first.

    Raises:
        InvalidArgument: an unknown backend, or fewer than one worker.
    """

    @overload
    def __init__(
        self: TaskManager[ResultsCollector],
        task_cls: Callable[[], Task[Any, Any]],
        *,
        backend: Kind = "inline",
        num_workers: int | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        task_cls: Callable[[], Task[Any, Any]],
        handler: HandlerT | Callable[[], HandlerT],
        backend: Kind = "inline",
        num_workers: int | None = None,
    ) -> None: ...

    def __init__(
        self,
        task_cls: Callable[[], Task[Any, Any]],
        handler: Any = ResultsCollector,
        backend: Kind = "inline",
        num_workers: int | None = None,
    ) -> None:
        if num_workers is not None:
            num_workers = whole_number("num_workers", num_workers, at_least=1)
        self._task_cls = task_cls
        self._handler_source = handler
        self._backend = checked_kind("backend", backend)
        self._num_workers = num_workers
        self.handler: HandlerT | None = None

    def submit(
        self,
        data: Any,
        batch_size: int = 10,
        prebatched: bool = False,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> HandlerT:
        """Run the task on every batch; returns when all are done.

        Args:
            data: a list, an array, or any iterable; of the latter no more is taken than is needed.
            batch_size: how many items a batch has; the last one may have fewer.
            prebatched: ``data`` holds batches already.
            args: further arguments of ``do``, ``setup`` and ``teardown``.
            kwargs: further keywords of them.

        Returns:
            The handler, which got the results in order. A batch that failed, or whose worker died,
            is a result with an error; the others are done all the same.

        Raises:
            NotImplementedError: the task has no ``do``.
            InvalidArgument: the data cannot be made into batches, or not into such of that size.
            Exception: what the data's iterator, the task's constructor or a ``teardown`` raised.
        """
        require_do(self._task_cls)
        if not prebatched:
            batch_size = whole_number("batch_size", batch_size, at_least=1)
        batches = batches_of(data, batch_size, prebatched)
        handler = self.handler = self._new_handler()
        make_seat = functools.partial(Seat, self._task_cls, tuple(args), dict(kwargs or {}))
        if self._backend == "inline":
            results = _run_here(make_seat, batches)
        else:
            count = count_batches(data, batch_size, prebatched)
            num_workers = self._num_workers or usable_cores()
            if count is not None:
                num_workers = max(1, min(num_workers, count))
            ahead = _ahead(data, count, num_workers)
            results = _run_in_workers(make_seat, batches, num_workers, self._backend, ahead)
        with contextlib.closing(results):
            for result in results:
                handler.add_result(result)
        handler.finalize()
        return handler

    submit_tasks = submit

    def _new_handler(self) -> HandlerT:
        handler: HandlerT
        if isinstance(self._handler_source, ResultsHandler):
            handler = cast("HandlerT", self._handler_source)
            handler.reset()
        else:
            handler = self._handler_source()
        return handler


class Seat:
    """The object in a worker: it holds a task, set up when its first batch comes."""

    def __init__(
        self, task_cls: Callable[[], Task[Any, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._session: Session[Any, Any] = Session(task_cls(), args, kwargs)
        self._reader = Reader()

    def run(self, index: int, batch: Any) -> Result[Any]:
        """Process a batch, in whatever form it was sent."""
        return self._session.run(index, read_only(self._reader.unwrap(batch)))

    def value(self, index: int, batch: Any) -> Any:
        """Return the value as it is sent; raise an error, so that it has its traceback."""
        result = self.run(index, batch)
        if result.error is not None:
            raise result.error
        return sendable(result.value)

    def end(self) -> None:
        """Tear down, if anything was set up."""
        self._session.end()

    close = end  # where a worker ends without being asked to, as after an error elsewhere


def _run_here(
    make_seat: Callable[[], Seat], batches: Iterator[Any]
) -> Generator[Result[Any], None, None]:
    with contextlib.closing(make_seat()) as seat:
        for index, batch in enumerate(batches):
            yield seat.run(index, batch)


def _run_in_workers(
    make_seat: Callable[[], Seat],
    batches: Iterator[Any],
    num_workers: int,
    kind: Kind,
    ahead: int,
) -> Generator[Result[Any], None, None]:
    """Run the batches in workers; yield the results in order of index."""
    packer = BatchPacker(num_workers * ahead) if kind == "process" else None
    early: dict[int, Result[Any]] = {}
    next_index = 0
    with WorkerPool(make_seat, num_workers, kind=kind) as pool:

        def calls() -> Iterator[tuple[int, tuple[int, Any]]]:
            for index, batch in enumerate(batches):
                wrapped = sendable(batch) if packer is None else packer.wrap(index, batch)
                yield index, (index, wrapped)

        for index, future in feed(pool, "value", calls(), ahead=ahead):
            if packer is not None:
                packer.done(index)
            early[index] = _result_of(index, future)
            while next_index in early:
                yield early.pop(next_index)
                next_index += 1
        for future in [pool.submit_at(worker, "end") for worker in range(num_workers)]:
            error = _result_of(-1, future).error
            if error is not None:
                raise error


def _ahead(data: Any, num_batches: int | None, num_workers: int) -> int:
    """Return how many batches a worker is sent at once: fewer if they are copied and large."""
    if not isinstance(data, np.ndarray) or not num_batches or place_of(data) is not None:
        return _AHEAD
    return _AHEAD if _AHEAD * num_workers <= _MOST_COPIED * num_batches else 1


def _result_of(index: int, future: Future[Any]) -> Result[Any]:
    error = future.exception()
    if error is None:
        return Result(index, received(future.result()))
    if isinstance(error, RemoteError):
        cause = error.__cause__
        if isinstance(cause, Exception) and not isinstance(cause, RemoteTraceback):
            if isinstance(error, SetupError):
                raise cause  # the task cannot be made
            return Result(index, None, cause)
        if isinstance(error, SetupError):
            raise error
    assert isinstance(error, Exception)
    return Result(index, None, error)
