"""A forked worker leaves alone what it inherits from its parent's heap."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vectasks import VectorSampledTasks
from vectasks.testing import ToySampler, toy_args
from vectasks.testing.toys import CountingTask


class Mourned:
    """Garbage that only the collector finds; tells in which process it did."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.myself = folder, self

    def __del__(self) -> None:
        (self.folder / str(os.getpid())).touch()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is inherited without fork")
def test_the_parents_garbage_is_not_collected_in_a_forked_worker(
    tmp_path: Path, no_collector: None
) -> None:
    Mourned(tmp_path)
    with VectorSampledTasks(
        ToySampler, toy_args(CountingTask, 1), multiprocessing_start_method="fork"
    ) as tasks:
        tasks.step([0])  # after the worker's own collection
        assert list(tmp_path.iterdir()) == []
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]
