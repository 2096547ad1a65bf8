"""Which batches are timed: all that are long, and of short ones so few that it costs little."""

from __future__ import annotations

import pytest

from vectasks.monitoring.timed_steps import stride


@pytest.mark.parametrize("batch_s", [1e-5, 3e-5, 2e-4, 1e-3])
@pytest.mark.parametrize("num_samplers", [1, 8, 64])
def test_short_batches_cost_a_two_hundredth(batch_s: float, num_samplers: int) -> None:
    cost_s = 16e-6 + num_samplers * 0.5e-6
    chances = [k / 1000 for k in range(1000)]
    chosen = [stride(batch_s, num_samplers, chance) for chance in chances]
    usual = sum(chosen) / len(chosen)
    assert cost_s / (usual * batch_s) == pytest.approx(0.005, rel=0.05)
    assert max(chosen) > 2 * min(chosen)  # no period of a task's is met


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_long_batches_are_all_timed(chance: float) -> None:
    assert stride(5e-3, 8, chance) == 1
    assert stride(10.0, 8, chance) == 1
    assert stride(0.1, 500, chance) == 1


@pytest.mark.parametrize("batch_s", [0.0, -1.0])
def test_a_clock_that_stands_still_does_no_harm(batch_s: float) -> None:
    assert 1 <= stride(batch_s, 8, 0.5) < 10_000
