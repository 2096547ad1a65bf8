"""Tasks on batches, which users write, and the results of batches."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

BatchT = TypeVar("BatchT")
OutT = TypeVar("OutT")


@dataclass(frozen=True)
class Result(Generic[OutT]):
    """The result of one batch: a value, which may be None, or an error.

    Attributes:
        index: which batch, from 0.
        value: what ``do`` returned; None where there is an error.
        error: what was raised or returned instead. From a worker, its cause is the traceback there.
    """

    index: int
    value: OutT | None = None
    error: Exception | None = None

    @property
    def traceback(self) -> str:
        """The error as Python prints it, with the traceback of where it was raised; "" if none."""
        return "" if self.error is None else "".join(traceback.format_exception(self.error))


class Task(Generic[BatchT, OutT]):
    """A computation on batches; users write :meth:`do`, and the other two if they need them.

    >>> class Square(Task[list[int], list[int]]):
    ...     def do(self, batch: list[int]) -> list[int]:
    ...         return [number**2 for number in batch]
    >>> Square().run_batch(0, [1, 2, 3]).value
    [1, 4, 9]
    """

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Prepare a worker, once, before its first batch, with ``do``'s further arguments."""

    def do(self, batch: BatchT, *args: Any, **kwargs: Any) -> OutT | Exception:
        """Process one batch. An exception that is returned counts as raised."""
        raise NotImplementedError(
            f"{type(self).__name__} has no do(): write one that takes a batch and returns a result."
        )

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Clean up a worker; called once, after its last batch, also if there were errors."""

    def run_batch(self, index: int, batch: BatchT, *args: Any, **kwargs: Any) -> Result[OutT]:
        """Set up, process one batch and tear down.

        Returns:
            The result; whatever the three raise is its error.

        Raises:
            NotImplementedError: there is no ``do``.
        """
        session: Session[BatchT, OutT] = Session(self, args, kwargs)
        result = session.run(index, batch)
        try:
            session.end()
        except Exception as error:  # user code
            return Result(index, None, result.error or error)
        return result


class Session(Generic[BatchT, OutT]):
    """A task between its ``setup`` and its ``teardown``.

    Args:
        task: the task.
        args: further arguments of its methods.
        kwargs: further keywords.
    """

    def __init__(
        self, task: Task[BatchT, OutT], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        require_do(type(task))
        self._task = task
        self._args = args
        self._kwargs = kwargs
        self._is_set_up = False
        self._setup_error: Exception | None = None

    def run(self, index: int, batch: BatchT) -> Result[OutT]:
        """Process a batch; a setup that failed fails every batch."""
        if not self._is_set_up:
            self._is_set_up = True
            try:
                self._task.setup(*self._args, **self._kwargs)
            except Exception as error:  # user code
                self._setup_error = error
        if self._setup_error is not None:
            return Result(index, None, self._setup_error)
        try:
            value = self._task.do(batch, *self._args, **self._kwargs)
        except Exception as error:  # user code
            return Result(index, None, error)
        if isinstance(value, Exception):
            return Result(index, None, value)
        return Result(index, value)

    def end(self) -> None:
        """Tear down, if anything was set up."""
        if self._is_set_up:
            self._is_set_up = False
            self._task.teardown(*self._args, **self._kwargs)


def require_do(task_cls: Any) -> None:
    """Refuse a task that cannot do anything.

    Raises:
        NotImplementedError: it has no ``do`` of its own.
    """
    if getattr(task_cls, "do", Task.do) is Task.do:
        name = getattr(task_cls, "__name__", repr(task_cls))
        raise NotImplementedError(
            f"{name} has no do(): write one that takes a batch and returns a result."
        )
