"""From a failure that travelled to the cause of the error that tells of it."""

from __future__ import annotations

from typing import TypeVar

from vectasks.errors import RemoteError, RemoteTraceback
from vectasks.messages import Failure

Error = TypeVar("Error", bound=RemoteError)


def with_cause(error: Error, failure: Failure) -> Error:
    """``error``, caused by the original exception where that travelled, else by its traceback."""
    remote = RemoteTraceback(failure.traceback_text)
    original = failure.exception()
    if original is None:
        error.__cause__ = remote
    else:
        original.__cause__ = remote
        error.__cause__ = original
    return error
