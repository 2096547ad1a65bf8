from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vectasks import FailedExperiment


@contextmanager
def failing(
    match: str | None = None, error: type[BaseException] = FailedExperiment
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Around an experiment that is to fail."""
    with pytest.raises(error, match=match) as caught:
        yield caught
