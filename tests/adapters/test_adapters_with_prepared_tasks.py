"""Adapters show the same whether the vector's next tasks are prepared or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium_helpers import assert_same, envs_of

from vectasks import SingleProcessVectorSampledTasks, VectorSampledTasks
from vectasks.adapters.gymnasium import VectorEnv
from vectasks.envs import GymnasiumTaskSampler


def cartpoles(kind: Any = VectorSampledTasks, **options: Any) -> Any:
    """A vector whose episodes are a few dozen steps long."""
    return kind(
        GymnasiumTaskSampler, [{"env": "CartPole-v1"}] * 3, seed=4, should_log=False, **options
    )


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_gymnasium(mode: AutoresetMode) -> None:
    def trace(vector: Any) -> list[Any]:
        envs = VectorEnv(vector, autoreset_mode=mode)
        seen = [envs.reset(seed=3)]
        rng = np.random.default_rng(0)
        for _ in range(120):
            step = envs.step(rng.integers(2, size=3))
            seen.append(step)
            over = step[2] | step[3]
            if mode is AutoresetMode.DISABLED and over.any():
                seen.append(envs.reset(options={"reset_mask": over}))
        envs.close()
        return seen

    expected = trace(cartpoles(SingleProcessVectorSampledTasks))
    assert sum(step[2].sum() for step in expected if len(step) == 5) > 9
    for prepared_tasks in (1, 2):
        assert_same(expected, trace(cartpoles(prepared_tasks=prepared_tasks)))


def test_stable_baselines3() -> None:
    pytest.importorskip("stable_baselines3")
    from vectasks.adapters.sb3 import VecEnv

    def trace(vector: Any) -> list[Any]:
        envs = VecEnv(vector)
        envs.seed(3)
        seen: list[Any] = [envs.reset()]
        rng = np.random.default_rng(0)
        seen += [envs.step(rng.integers(2, size=3)) for _ in range(80)]
        envs.close()
        return seen

    expected = trace(cartpoles(SingleProcessVectorSampledTasks))
    assert_same(expected, trace(cartpoles(prepared_tasks=1)))


def test_functions_that_make_environments_have_nothing_to_prepare() -> None:
    with pytest.raises(ValueError, match=r"prepared_tasks.*GymnasiumTaskSampler"):
        VectorEnv(envs_of(), prepared_tasks=1)
