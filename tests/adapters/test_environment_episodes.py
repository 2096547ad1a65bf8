"""Episodes by themselves: what they hand out is theirs no more, and what they keep is bounded."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from vectasks.adapters.environment_episodes import Episodes
from vectasks.protocol import StepOutcome


class ReusingEnv(gymnasium.Env[Any, Any]):
    """Writes into the same objects again and again; its episodes take two steps."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(10**6)

    def __init__(self) -> None:
        self.observation = np.zeros(1, np.float32)
        self.info: dict[str, Any] = {"array": np.zeros(1)}
        self.t = 0
        self.actions: list[Any] = []
        self.fails = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        if self.fails:
            self.fails = False
            raise ConnectionError("no simulator")
        self.t += 50
        self.t -= self.t % 10
        return self._told()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, Any]:
        self.t += 1
        self.actions.append(action)
        observation, info = self._told()
        return observation, 1.0, self.t % 10 == 2, False, info

    def _told(self) -> tuple[Any, Any]:
        self.observation[:] = self.t
        self.info["array"][:] = self.t
        return self.observation, self.info


@pytest.fixture
def episodes() -> Any:
    begun = Episodes(ReusingEnv, same_step=True)
    begun.next_task({})
    yield begun
    begun.close()


def test_an_end_is_the_outcome_that_a_host_would_make(episodes: Any) -> None:
    episodes.step(0)
    outcome = episodes.step(0)
    assert type(outcome) is StepOutcome
    last = outcome.info["final_observation"].copy(), outcome.info["__ENDED__"]["array"].copy()
    first = outcome.info["__BEGUN__"]["array"].copy()
    assert (last, first) == (([52], [52]), [100])
    assert outcome.observation.tolist() == [100]
    assert outcome[1:3] == (1.0, True)
    assert outcome[4:] == (True, False, False)
    for _ in range(3):  # writes over everything
        episodes.step(0)
    assert (outcome.info["final_observation"], outcome.info["__ENDED__"]["array"]) == last
    assert outcome.info["__BEGUN__"]["array"] == first


def test_a_reset_that_fails_is_made_again(episodes: Any) -> None:
    episodes.step(0)
    episodes.env.fails = True
    with pytest.raises(ConnectionError, match="no simulator"):
        episodes.step(0)
    result = episodes.step(0)  # begins the next episode
    assert (result.observation.tolist(), result.reward, result.done) == ([100], 0.0, False)
    assert episodes.step(0)[0].tolist() == [101]


def test_actions_are_numpys_integers_of_which_some_are_kept(episodes: Any) -> None:
    for action in range(3_000):
        episodes.step(action)
    assert episodes.env.actions == list(range(3_000))
    assert {type(action) for action in episodes.env.actions} == {np.int64}
    assert len(episodes._scalars) <= 1_024
