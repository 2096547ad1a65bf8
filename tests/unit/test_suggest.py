"""The model is tested without timing; what is measured is only held against what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from vectasks import InvalidArgument, SetupError, suggest_max_processes
from vectasks.suggest import recommend
from vectasks.testing.toys import RandomWalk, ToySampler


def test_tasks_that_cost_nothing_stay_in_one_process() -> None:
    suggestion = recommend(1e-6, 1.0, num_samplers=32, num_cores=2)
    assert suggestion.max_processes == 0
    assert "twin" in suggestion.reason


def test_tasks_that_compute_get_a_process_a_core() -> None:
    assert recommend(2e-3, 1.0, num_samplers=32, num_cores=2).max_processes == 2
    assert recommend(2e-3, 1.0, num_samplers=32, num_cores=8).max_processes == 8


def test_tasks_that_wait_get_more_processes_than_cores() -> None:
    assert recommend(20e-3, 0.01, num_samplers=16, num_cores=2).max_processes == 16


def test_there_are_never_more_processes_than_samplers() -> None:
    suggestion = recommend(1.0, 1.0, num_samplers=3, num_cores=64)
    assert suggestion.max_processes == 3
    assert sorted(suggestion.predictions) == [0, 1, 2, 3]


def test_it_measures_in_a_process_of_its_own() -> None:
    made_here = []

    def make(mp_ctx: Any) -> ToySampler:
        assert mp_ctx is not None
        made_here.append("a sampler")
        return ToySampler(RandomWalk)

    suggestion = suggest_max_processes(make, [{}] * 4, budget_s=0.05)
    assert made_here == []
    assert suggestion.step_s > 0
    assert 0 <= suggestion.cpu_share <= 1
    assert set(suggestion.predictions) == {0, 1, 2, 3, 4}
    assert suggestion.max_processes in suggestion.predictions


@pytest.mark.parametrize(
    ("arguments", "budget_s", "error"),
    [([], 1.0, InvalidArgument), ([{}], 0, InvalidArgument), ([{"no": 1}], 1.0, SetupError)],
)
def test_bad_input(arguments: Any, budget_s: float, error: type[Exception]) -> None:
    with pytest.raises(error):
        suggest_max_processes(lambda: ToySampler(RandomWalk), arguments, budget_s=budget_s)
