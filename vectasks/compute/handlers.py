"""Handlers of results: collect, average or sum them, and save them if wished."""

from __future__ import annotations

import abc
import logging
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from vectasks._util.checks import whole_number
from vectasks.compute.batch_task import Result
from vectasks.compute.savers import Saver, unmasked
from vectasks.errors import InvalidArgument

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("vectasks.compute")


class MeanResult(NamedTuple):
    """A mean, and over how many it was taken."""

    mean: Any
    n: int


class ResultsHandler(abc.ABC, Generic[T]):
    """Base of handlers: receives results in whatever order they come.

    Args:
        saver: writes values to a file.
    """

    def __init__(self, saver: Saver | None = None) -> None:
        self._saver = saver
        self.reset()

    def reset(self) -> None:
        """Forget everything; a manager does this before it submits."""
        self._indices: set[int] = set()
        self._errors: dict[int, Result[Any]] = {}

    @property
    def errors(self) -> list[Result[Any]]:
        """The results that are errors, in order of index."""
        return [self._errors[index] for index in sorted(self._errors)]

    def add_result(self, result: Result[Any]) -> None:
        """Add one result.

        Raises:
            InvalidArgument: there was one of this index; nothing changed.
        """
        if result.index in self._indices:
            raise InvalidArgument(
                f"add_result: there is a result of index {result.index} already; each batch has "
                "one. (reset() forgets them.)"
            )
        if result.error is None:
            self._add_value(result)
        else:
            self._errors[result.index] = result
        self._indices.add(result.index)

    @abc.abstractmethod
    def _add_value(self, result: Result[Any]) -> None:
        """Add a result that is no error."""

    @abc.abstractmethod
    def get(self) -> T:
        """Return what the results add up to."""

    def finalize(self) -> None:
        """Save what is still to be saved, when all results have come."""

    def _raise_errors(self) -> None:
        """Raise the first error: what is computed without its batch would be wrong."""
        if self._errors:
            first = self.errors[0].error
            assert first is not None
            raise first


class ResultsCollector(ResultsHandler[list[Result[Any]]]):
    """Keeps every result.

    With a saver, values are written in order of index, each batch's rows below those of the batch
    before it; a value that is no array is one row. A batch that failed has no rows.

    Args:
        saver: writes the values.
        save_interval: so many batches are written together.
    """

    def __init__(self, saver: Saver | None = None, save_interval: int = 1) -> None:
        self._save_interval = whole_number("save_interval", save_interval, at_least=1)
        super().__init__(saver)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._results: dict[int, Result[Any]] = {}
        self._num_saved = 0  # batches; all before this index are saved or failed
        self._num_rows = 0

    def add_result(self, result: Result[Any]) -> None:
        """Add one result, and save those that are due."""
        super().add_result(result)
        self._results[result.index] = result
        if self._saver is not None:
            self._save(self._save_interval)

    def _add_value(self, result: Result[Any]) -> None:
        pass  # errors are kept in the same place

    def get(self) -> list[Result[Any]]:
        """Return all results, in order of index."""
        return [self._results[index] for index in sorted(self._results)]

    def values(self) -> list[Any]:
        """Return the values, in order of index.

        Raises:
            Exception: the first error, if there was one.
        """
        self._raise_errors()
        return [result.value for result in self.get()]

    def finalize(self) -> None:
        """Save what is left."""
        if self._saver is not None:
            self._save(1)
            if self._errors:
                logger.warning("%d batches failed and were not saved", len(self._errors))

    def _save(self, at_least: int) -> None:
        """Save the batches that follow the saved ones without a gap, if there are enough."""
        end = self._num_saved
        while end in self._results:
            end += 1
        if end - self._num_saved < at_least:
            return
        batches = [
            np.atleast_1d(unmasked(self._results[index].value))
            for index in range(self._num_saved, end)
            if index not in self._errors
        ]
        self._num_saved = end
        if batches:
            rows = np.concatenate(batches)
            assert self._saver is not None
            self._saver.save(rows, indices=range(self._num_rows, self._num_rows + len(rows)))
            self._num_rows += len(rows)


class _Reduction(ResultsHandler[T]):
    """Base of handlers that reduce all values to one, and save that when all results are in."""

    _name: ClassVar[str]

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._reduced: Any = None
        self._n = 0

    def get(self) -> Any:
        """Return what the values are reduced to.

        Raises:
            Exception: the first error, if a batch failed.
            InvalidArgument: nothing came in, or empty batches only.
        """
        self._raise_errors()
        if self._n == 0:
            raise InvalidArgument(
                f"the {self._name} of nothing is not defined: no batch had a value."
            )
        return self._reduced

    def finalize(self) -> None:
        """Save what the values are reduced to."""
        if self._saver is not None and self._n and not self._errors:
            self._saver.save(np.atleast_1d(self._reduced))


class OnlineMeanResultsHandler(_Reduction[MeanResult]):
    """The mean over all batches, of each batch's own (mean, n): a running mean, no sum.

    >>> handler = OnlineMeanResultsHandler()
    >>> handler.add_result(Result(0, (10.0, 5)))
    >>> handler.add_result(Result(1, (20.0, 15)))
    >>> handler.get()
    MeanResult(mean=17.5, n=20)

    Args:
        saver: writes the mean, when all results are in.
    """

    _name = "mean"

    def _add_value(self, result: Result[Any]) -> None:
        try:
            mean, n = result.value  # type: ignore[misc]
            n = int(n)
        except (TypeError, ValueError):
            raise InvalidArgument(
                f"the batch of index {result.index} gave {result.value!r:.80}; do() must return "
                "(mean, n): the mean over the batch and how many it is of."
            ) from None
        if n < 0:
            raise InvalidArgument(f"the batch of index {result.index} gave a mean of {n} values.")
        if n == 0:
            return
        self._n += n
        if self._reduced is None:
            # A copy: the batch's own array may be used again.
            self._reduced = np.array(mean, float, subok=True) if np.ndim(mean) else float(mean)
        else:
            self._reduced = self._reduced + (mean - self._reduced) * (n / self._n)

    def get(self) -> MeanResult:
        """Return the mean, and the number of values that it was taken over."""
        return MeanResult(super().get(), self._n)


class SumResultsHandler(_Reduction[Any]):
    """The sum of all values.

    Args:
        saver: writes the sum, when all results are in.
    """

    _name = "sum"

    def _add_value(self, result: Result[Any]) -> None:
        self._reduced = result.value if self._n == 0 else self._reduced + result.value
        self._n += 1
