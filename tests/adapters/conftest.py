"""Gymnasium's vectors, which are closed when a test is over."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vectasks.adapters.gymnasium import VectorEnv


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """Opens vectors, and closes them at the end."""
    vectors: list[Any] = []

    def open_one(kind: Any, *args: Any, **kwargs: Any) -> Any:
        vectors.append(kind(*args, **kwargs))
        return vectors[-1]

    yield open_one
    while vectors:
        vectors.pop().close()


@pytest.fixture
def in_process(opened: Callable[..., Any]) -> Callable[..., VectorEnv]:
    return functools.partial(opened, VectorEnv, max_processes=0)
