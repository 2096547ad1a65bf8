"""Pools of Things, closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pool_things import Thing

from vectasks.pool.pool import WorkerPool


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., WorkerPool]]:
    """Makes pools of Things, which are closed after the test."""
    pools = []

    def make_pool(num_workers: int = 2, **options: Any) -> WorkerPool:
        options.setdefault("make_object", lambda: Thing(tmp_path))
        pools.append(WorkerPool(num_workers=num_workers, **options))
        return pools[-1]

    yield make_pool
    for pool in pools:
        pool.close()


@pytest.fixture(params=["process", "inline"])
def pool(request: pytest.FixtureRequest, make: Callable[..., WorkerPool]) -> WorkerPool:
    return make(kind=request.param)


@pytest.fixture
def processes(make: Callable[..., WorkerPool]) -> WorkerPool:
    return make(close_grace_s=1.0)
