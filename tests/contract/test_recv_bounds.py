"""``recv`` with at least, at most and a deadline."""

from __future__ import annotations

import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from kinds_of_worker import Kind

from vectasks import InvalidArgument, NothingPending, WaitTimeout
from vectasks.testing.toys import ToyTask

BLOCK = 1


class GateTask(ToyTask):
    """Action 1 waits for the file ``gate`` with the sampler's number."""

    actions = spaces.Discrete(2)

    def move(self, action: Any) -> None:
        while action == BLOCK and not Path(f"{self.options.gate}{self.env.sampler}").exists():
            time.sleep(0.001)


class Gates:
    """Samplers that wait until they are told."""

    def __init__(self, folder: Path) -> None:
        self.prefix = str(folder / "gate")

    def open(self, sampler_id: int) -> None:
        Path(f"{self.prefix}{sampler_id}").touch()


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path)


@pytest.fixture(params=["auto", "pipe"])
def gated(request: pytest.FixtureRequest, processes: Any, gates: Gates) -> Any:
    """Four samplers in processes of their own, on either lane."""
    return processes(GateTask, 4, gate=gates.prefix, max_steps=99, transport=request.param)


@pytest.fixture
def processes() -> Any:
    opened: list[Any] = []

    def make(task_class: Any, count: int, transport: str = "auto", **options: Any) -> Any:
        kind = Kind("forkserver", None, transport)
        opened.append(kind.toys(task_class, count, **options))
        return opened[-1]

    yield make
    for tasks in opened:
        tasks.close()


def test_at_most(make: Any) -> None:
    tasks = make(max_steps=9)
    tasks.send([0] * 4)
    tasks.recv(4)
    tasks.send([0] * 4)
    seen: list[int] = []
    while len(seen) < 4:
        batch = tasks.recv(max_samplers=3)
        assert 1 <= len(batch.samplers) <= 3
        seen += batch.samplers.tolist()
    assert sorted(seen) == [0, 1, 2, 3]
    with pytest.raises(NothingPending):
        tasks.recv(max_samplers=1)


def test_at_least_and_at_most(gated: Any, gates: Gates) -> None:
    gated.send([0, 0, BLOCK, BLOCK])
    batch = gated.recv(2, max_samplers=4)
    assert batch.samplers.tolist() == [0, 1]
    gates.open(3)
    assert gated.recv(1, max_samplers=4).samplers.tolist() == [3]
    gates.open(2)
    assert gated.recv(max_samplers=9).samplers.tolist() == [2]


def test_a_deadline(gated: Any, gates: Gates) -> None:
    gated.send([0, BLOCK, BLOCK, BLOCK])
    assert gated.recv(1).samplers.tolist() == [0]
    gated.send([0], samplers=[0])
    batch = gated.recv(3, max_wait_s=1.0)  # far above what one that is not blocked needs
    assert batch.samplers.tolist() == [0]
    batch = gated.recv(max_wait_s=0)
    assert batch.samplers.shape == batch.done.shape == batch.reward.shape == (0,)
    assert batch.observation.shape == (0, 3)
    assert batch.observation.dtype == np.int32
    assert batch.infos == []
    with pytest.raises(WaitTimeout):
        gated.recv(1, 0.01, max_wait_s=60)
    for i in (1, 2, 3):
        gates.open(i)
    assert gated.recv(3, max_wait_s=60).samplers.tolist() == [1, 2, 3]


def test_whoever_is_ready_first_is_first(gated: Any, gates: Gates) -> None:
    """Fast samplers that are sent again and again do not keep a slow one waiting."""
    gated.send([BLOCK, 0, 0, 0])
    order = gated.recv(3).samplers.tolist()
    assert order == [1, 2, 3]
    gated.send([0, 0, 0], samplers=[1, 2, 3])
    assert gated.recv(3, max_samplers=3).samplers.tolist() == [1, 2, 3]
    gates.open(0)
    assert gated.recv(1).samplers.tolist() == [0]  # it is ready before the others are sent again
    gated.send([0, 0, 0, 0])
    gated.recv(4)


def test_everyone_has_a_turn_where_all_are_ready() -> None:
    with Kind().toys(max_steps=99) as tasks:
        _take_turns(tasks)


def _take_turns(tasks: Any) -> None:
    tasks.send([0] * 4)
    turns: Counter[int] = Counter()
    for _ in range(40):
        batch = tasks.recv(max_samplers=1, max_wait_s=60)
        turns.update(batch.samplers.tolist())
        tasks.send([0] * len(batch.samplers), samplers=batch.samplers.tolist())
    assert turns == {0: 10, 1: 10, 2: 10, 3: 10}
    tasks.recv()


def test_no_step_stays_behind(quick_lane: Any) -> None:
    """With prepared tasks too, every step is given once, and ended ones with the next task."""
    options = {"prepared_tasks": 1}
    with quick_lane.toys(max_steps=2, vector=options) as tasks:
        steps: Counter[int] = Counter()
        tasks.send([0] * 4)
        while min(steps[i] for i in range(4)) < 9:
            batch = tasks.recv(2, max_samplers=3, max_wait_s=0.001)
            for k, i in enumerate(batch.samplers.tolist()):
                steps[i] += 1
                assert batch.done[k] == (steps[i] % 2 == 0)
                assert batch.observation[k, 2] == steps[i] % 2
            if len(batch.samplers):
                tasks.send([0] * len(batch.samplers), samplers=batch.samplers.tolist())
        tasks.recv()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_samplers": 0},
        {"max_samplers": -1},
        {"max_samplers": 1, "min_samplers": 2},
        {"max_samplers": True},
        {"max_samplers": 1.5},
        {"max_samplers": "2"},
        {"min_samplers": 5, "max_samplers": 9},
        {"max_wait_s": -0.1},
        {"max_wait_s": math.nan},
        {"max_wait_s": math.inf},
        {"max_wait_s": True},
        {"max_wait_s": "1"},
    ],
)
def test_wrong_bounds(make: Any, wrong: dict[str, Any]) -> None:
    tasks = make(max_steps=9)
    tasks.send([0] * 4)
    with pytest.raises(InvalidArgument, match=r"recv: (min|max)_"):
        tasks.recv(**wrong)
    assert tasks.recv().samplers.tolist() == [0, 1, 2, 3]
