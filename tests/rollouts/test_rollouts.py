"""Rollout buffers: advantages, memories, minibatches, and what they cost."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray

from vectasks import InvalidArgument, SingleProcessVectorSampledTasks
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.rollouts.gae import estimate_advantages
from vectasks.testing.toys import CountingTask, RandomWalk, ToySampler, toy_args

HORIZON, COUNT = 7, 3
GAMMA, LAM = 0.97, 0.9


def in_process(task_class: Any = CountingTask, count: int = COUNT, **options: Any) -> Any:
    options.setdefault("max_steps", 4)
    return SingleProcessVectorSampledTasks(
        ToySampler, toy_args(task_class, count, **options), should_log=False, seed=0
    )


@pytest.fixture
def tasks() -> Iterator[Any]:
    with in_process() as tasks:
        yield tasks


def act(observation: Any) -> dict[str, Any]:
    """Actions and values that depend on what is seen, which tells sampler, episode and step."""
    observation = np.asarray(observation)
    return {"action": observation[:, 2] % 4, "value": value_of(observation)}


def value_of(observation: Any) -> NDArray[Any]:
    sampler, episode, step = np.asarray(observation, np.float64).T
    return sampler + 10 * episode + step / 4


# -- advantages ------------------------------------------------------------------------------------


def advantages_by_definition(
    rewards: Any, values: Any, last: Any, final: Any, dones: Any, terminated: Any
) -> Any:
    """The sum of discounted errors, written out for every step by itself."""
    horizon, count = rewards.shape
    found = np.zeros((horizon, count))
    for i in range(count):
        for t in range(horizon):
            for k in range(t, horizon):
                if terminated[k, i]:
                    worth = 0.0
                elif dones[k, i]:
                    worth = final[k, i]
                else:
                    worth = last[i] if k == horizon - 1 else values[k + 1, i]
                error = rewards[k, i] + GAMMA * worth - values[k, i]
                found[t, i] += (GAMMA * LAM) ** (k - t) * error
                if dones[k, i]:
                    break
    return found


@pytest.fixture
def rollout() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(5)
    shape = (40, 6)
    dones = rng.random(shape) < 0.2
    return {
        "rewards": rng.normal(size=shape),
        "values": rng.normal(size=shape).astype(np.float32),
        "last_values": rng.normal(size=6).astype(np.float32),
        "final_values": rng.normal(size=shape).astype(np.float32),
        "dones": dones,
        "terminated": dones & (rng.random(shape) < 0.5),
    }


def estimated(rollout: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    out = np.full(rollout["rewards"].shape, np.nan, np.float32)
    estimate_advantages(**rollout, gamma=GAMMA, lam=LAM, out=out)
    return out


def test_advantages_are_what_their_definition_says(rollout):
    expected = advantages_by_definition(*rollout.values())
    np.testing.assert_allclose(estimated(rollout), expected, rtol=1e-5, atol=1e-5)


def test_advantages_equal_those_of_stable_baselines3(rollout):
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    torch = pytest.importorskip("torch")
    horizon, count = rollout["rewards"].shape
    space = spaces.Box(-1, 1, (1,), np.float32)
    theirs = buffers.RolloutBuffer(
        horizon, space, spaces.Discrete(2), "cpu", gae_lambda=LAM, gamma=GAMMA, n_envs=count
    )
    dones, terminated = rollout["dones"], rollout["terminated"]
    start = np.ones(count)
    for t in range(horizon):
        # Its algorithms put the value of a final observation into the reward.
        cut_off = dones[t] & ~terminated[t]
        reward = rollout["rewards"][t] + GAMMA * np.where(cut_off, rollout["final_values"][t], 0)
        value = torch.from_numpy(rollout["values"][t])
        zeros = np.zeros((count, 1))
        theirs.add(zeros, zeros, reward, start, value, torch.zeros(count))
        start = dones[t]
    theirs.compute_returns_and_advantage(torch.from_numpy(rollout["last_values"]), dones[-1])
    ours = estimated(rollout)
    np.testing.assert_allclose(ours, theirs.advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours + rollout["values"], theirs.returns, rtol=1e-4, atol=1e-5)


def test_truncated_episodes_are_bootstrapped_by_their_final_observation(tasks):
    buffer = RolloutBuffer(tasks, HORIZON)
    collect(tasks, act, buffer)
    returns, advantages = buffer.returns_and_advantages(GAMMA, LAM)
    assert buffer.truncated[3].all()  # max_steps=4
    assert not buffer.terminated.any()
    final = np.zeros((HORIZON, COUNT))
    final[3] = value_of([[i, 0, 4] for i in range(COUNT)])
    values = value_of(buffer.observations.reshape(-1, 3)).reshape(HORIZON, COUNT)
    np.testing.assert_array_equal(buffer["value"], values.astype(np.float32))
    expected = advantages_by_definition(
        buffer.rewards,
        values,
        value_of(buffer.last_observation),
        final,
        buffer.dones,
        buffer.terminated,
    )
    np.testing.assert_allclose(advantages, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(returns, expected + values, rtol=1e-5, atol=1e-5)


def test_terminated_episodes_are_not():
    with in_process(RandomWalk, max_steps=50, limit=1.5) as tasks:
        buffer = RolloutBuffer(tasks, 30)
        asked = []

        class Walker:
            def __call__(self, observation: Any) -> dict[str, Any]:
                return {"action": np.clip(observation, -1, 1), "value": np.full(COUNT, 7.0)}

            def value(self, observation: Any) -> Any:
                asked.append(observation)
                return np.full(len(observation), 7.0)

        collect(tasks, Walker(), buffer)
        assert buffer.terminated.any()
        assert not buffer.truncated.any()
        assert len(asked) == 1  # the last observations alone
        _, advantages = buffer.returns_and_advantages(GAMMA, LAM)
        np.testing.assert_allclose(
            advantages[buffer.terminated], buffer.rewards[buffer.terminated] - 7.0, rtol=1e-5
        )


def test_a_policy_may_value_by_a_method_of_its_own(tasks):
    class Both:
        calls = 0

        def __call__(self, observation: Any) -> dict[str, Any]:
            self.calls += 1
            return act(observation)

        value = staticmethod(value_of)

    one, other, policy = RolloutBuffer(tasks, HORIZON), RolloutBuffer(tasks, HORIZON), Both()
    collect(tasks, policy, one)
    assert policy.calls == HORIZON
    tasks.reset_all()
    collect(tasks, act, other)
    np.testing.assert_array_equal(
        one.returns_and_advantages(GAMMA, LAM), other.returns_and_advantages(GAMMA, LAM)
    )


def test_advantages_need_a_rollout_with_values(tasks):
    buffer = RolloutBuffer(tasks, 2)
    for ask in (buffer.returns_and_advantages, lambda: next(buffer.minibatches(2))):
        with pytest.raises(InvalidArgument, match=r"collect\(\) first"):
            ask()
    collect(tasks, lambda observation: {"action": observation[:, 2] % 4}, buffer)
    with pytest.raises(InvalidArgument, match="nothing named 'value'"):
        buffer.returns_and_advantages()


# -- memory ----------------------------------------------------------------------------------------


class Counter:
    """Remembers how many steps of an episode it saw, and the sampler's number."""

    def __init__(self) -> None:
        self.valued: list[tuple[Any, Any]] = []

    def __call__(self, observation: Any, memory: Any) -> dict[str, Any]:
        new = memory + np.array([1.0, 0.0])
        new[:, 1] = observation[:, 0]
        return {"action": [0] * COUNT, "value": memory[:, 0], "memory": new}

    def value(self, observation: Any, memory: Any) -> Any:
        self.valued.append((observation.copy(), memory.copy()))
        return memory[:, 0]


def test_memories_start_from_zero_with_each_episode(tasks):
    buffer, policy = RolloutBuffer(tasks, HORIZON, memory_shape=(2,)), Counter()
    steps = 0
    for _ in range(3):
        collect(tasks, policy, buffer)
        expected = [(steps + t) % 4 for t in range(HORIZON)]
        for i in range(COUNT):
            assert buffer.memory[:, i, 0].tolist() == expected
            assert buffer.memory[:, i, 1].tolist() == [i if step else 0 for step in expected]
            assert buffer.episode_starts[:, i].tolist() == [step == 0 for step in expected]
        steps += HORIZON


def test_final_observations_are_valued_with_the_memory_of_their_episode(tasks):
    buffer, policy = RolloutBuffer(tasks, HORIZON, memory_shape=(2,)), Counter()
    collect(tasks, policy, buffer)
    (last, its_memory), (final, memories) = policy.valued
    assert last.tolist() == [[i, 1, 3] for i in range(COUNT)]
    assert its_memory[:, 0].tolist() == [3.0] * COUNT
    assert final.tolist() == [[i, 0, 4] for i in range(COUNT)]
    assert memories.tolist() == [[4.0, i] for i in range(COUNT)]


def test_sequences_are_whole_columns(tasks):
    buffer = RolloutBuffer(tasks, HORIZON, memory_shape=(2,))
    for _ in range(2):
        collect(tasks, Counter(), buffer)
    buffer.returns_and_advantages()
    batches = list(buffer.sequences(2, rng=0))
    assert [batch.action.shape for batch in batches] == [(HORIZON, 2), (HORIZON, 1)]
    columns = np.concatenate([batch.observation[0, :, 0] for batch in batches])
    assert sorted(columns) == list(range(COUNT))
    for batch in batches:
        ids = batch.observation[0, :, 0]
        assert batch.memory.tolist() == [[3.0, i] for i in ids]
        np.testing.assert_array_equal(batch.observation, buffer.observations[:, ids])
        np.testing.assert_array_equal(batch.episode_start, buffer.episode_starts[:, ids])
        np.testing.assert_array_equal(batch.kept["value"], buffer["value"][:, ids])


# -- minibatches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [None, "cpu"])
def test_minibatches_hold_every_step_once_an_epoch(tasks, device):
    if device is not None:
        pytest.importorskip("torch")
    buffer = RolloutBuffer(tasks, HORIZON, device=device)
    collect(tasks, act, buffer)
    returns, advantages = buffer.returns_and_advantages()
    batches = list(buffer.minibatches(8, epochs=2, rng=0))
    assert [len(batch.action) for batch in batches] == [8, 8, 5] * 2
    expected = {
        tuple(map(int, observation)): (int(action), float(value), float(target), float(advantage))
        for observation, action, value, target, advantage in zip(
            buffer.observations.reshape(-1, 3),
            buffer.actions.reshape(-1),
            buffer["value"].reshape(-1),
            returns.reshape(-1),
            advantages.reshape(-1),
            strict=True,
        )
    }
    for epoch in (batches[:3], batches[3:]):
        found = {}
        for b in epoch:
            rows = (b.observation, b.action, b.kept["value"], b.returns, b.advantage)
            for observation, *rest in zip(*rows, strict=True):
                found[tuple(map(int, observation))] = tuple(float(item) for item in rest)
        assert found == expected
    assert batches[0].observation.tolist() != batches[3].observation.tolist()


@pytest.mark.parametrize("device", [None, "cpu"])
def test_minibatches_without_a_copy_are_in_the_same_arrays(tasks, device):
    if device is not None:
        pytest.importorskip("torch")
    buffer = RolloutBuffer(tasks, HORIZON, device=device)
    collect(tasks, act, buffer)
    buffer.returns_and_advantages()
    owned = [batch.observation.tolist() for batch in buffer.minibatches(7, rng=4)]
    first = next(buffer.minibatches(7, rng=4, copy=False)).observation
    for batch, expected in zip(buffer.minibatches(7, rng=4, copy=False), owned, strict=True):
        assert batch.observation is first
        assert first.tolist() == expected


@pytest.mark.parametrize("size", [0, 22])
def test_minibatches_of_no_possible_size(tasks, size):
    buffer = RolloutBuffer(tasks, HORIZON)
    collect(tasks, act, buffer)
    with pytest.raises(InvalidArgument, match="batch_size must be an integer from 1 to 21"):
        buffer.minibatches(size)
    with pytest.raises(InvalidArgument, match="num_samplers must be an integer from 1 to 3"):
        buffer.sequences(size)


# -- what it costs, and torch ----------------------------------------------------------------------


class BigTask(CountingTask):
    """Observes two hundred thousand bytes, always the same ones."""

    space = spaces.Box(0, 255, (200_000,), np.uint8)
    seen = np.zeros(200_000, np.uint8)

    def get_observations(self) -> Any:
        return self.seen


@pytest.mark.parametrize("splits", [1, 2])
def test_a_rollout_allocates_no_observations(splits):
    with in_process(BigTask, count=2, max_steps=10**6) as tasks:
        buffer = RolloutBuffer(tasks, 8)
        decision = {"action": np.zeros(2, int), "value": np.zeros(2, np.float32)}

        def policy(observation: Any) -> dict[str, Any]:
            return {name: value[: len(observation)] for name, value in decision.items()}

        addresses = set()
        tracemalloc.start()
        for rollout in range(12):
            if rollout == 2:
                gc.collect()
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
            collect(tasks, policy, buffer, num_splits=splits)
            returns, advantages = buffer.returns_and_advantages()
            arrays = (buffer.observations, buffer.rewards, buffer["value"], returns, advantages)
            addresses.add(tuple(array.ctypes.data for array in arrays))
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak - before < 180_000  # less than one observation of one sampler
        # What the journal keeps of 80 steps, within its bound: of each group.
        assert after - before < 60_000 * splits
        assert len(addresses) == 1


def test_tensors_are_over_the_memory_that_is_written_to(tasks):
    torch = pytest.importorskip("torch")
    buffer = RolloutBuffer(tasks, HORIZON, device="cpu")
    inputs = []

    def policy(observation: Any) -> dict[str, Any]:
        assert not torch.is_grad_enabled()
        inputs.append(observation.data_ptr())
        value = torch.ones(COUNT, requires_grad=True) * 2
        return {"action": observation[:, 2] % 4, "value": value}

    collect(tasks, policy, buffer)
    written = buffer._rows.step_buffer["leaf0"]
    assert buffer.observations.data_ptr() == written.ctypes.data
    row_bytes = written[0].nbytes
    rows = [written.ctypes.data + t * row_bytes for t in range(HORIZON + 1)]
    assert inputs[:-1] == rows  # and last, the final observations
    assert buffer.rewards.data_ptr() == buffer._rows.step_buffer["reward"][1:].ctypes.data
    assert buffer.actions[0].tolist() == [0, 0, 0]
    assert buffer["value"].dtype == torch.float32
    returns, advantages = buffer.returns_and_advantages()
    assert returns.tolist() == (advantages + buffer["value"]).tolist()


def test_tensors_of_a_group_are_over_it_too(tasks):
    pytest.importorskip("torch")
    buffer = RolloutBuffer(tasks, HORIZON, device="cpu", memory_shape=(2,))
    inputs = []

    def policy(observation: Any, memory: Any) -> dict[str, Any]:
        inputs.append((observation.data_ptr(), observation.shape, memory.data_ptr()))
        return {"action": observation[:, 2] % 4, "value": memory[:, 0].double(), "memory": memory}

    collect(tasks, policy, buffer, num_splits=2)
    observations, memory = buffer.observations, buffer.memory
    for turn, given in enumerate(inputs[: 2 * HORIZON]):
        t, group = divmod(turn, 2)
        first = observations[t, group].data_ptr(), memory[t, group].data_ptr()
        assert given == (first[0], (2 - group, 3), first[1])


@pytest.mark.parametrize("splits", [1, 2, 3])
def test_a_device_with_its_own_memory_gets_a_mirror(tasks, monkeypatch, splits):
    """As on a GPU; here the mirror is on the CPU, so that it can be looked at anywhere."""
    pytest.importorskip("torch")
    plain = RolloutBuffer(tasks, HORIZON, device="cpu", memory_shape=(2,))
    monkeypatch.setattr("vectasks.rollouts.devices._is_apart", lambda device: device is not None)
    mirrored = RolloutBuffer(tasks, HORIZON, device="cpu", memory_shape=(2,))
    assert mirrored.observations.data_ptr() != mirrored._rows.step_buffer["leaf0"].ctypes.data

    def policy(observation: Any, memory: Any) -> dict[str, Any]:
        return {
            "action": observation[:, 2] % 4,
            "value": observation[:, 2].float(),
            "memory": memory + 1,
        }

    for buffer, groups in ((plain, 1), (mirrored, splits)):
        tasks.reset_all()
        for _ in range(2):
            collect(tasks, policy, buffer, num_splits=groups)
        buffer.returns_and_advantages()
    for name in ("observations", "actions", "rewards", "dones", "truncated", "episode_starts"):
        assert getattr(plain, name).tolist() == getattr(mirrored, name).tolist(), name
    assert plain.memory.tolist() == mirrored.memory.tolist()
    assert plain.last_observation.tolist() == mirrored.last_observation.tolist()
    for one, other in zip(plain.minibatches(7, rng=1), mirrored.minibatches(7, rng=1), strict=True):
        assert one.observation.tolist() == other.observation.tolist()
        assert one.advantage.tolist() == other.advantage.tolist()
        assert one.action.tolist() == other.action.tolist()
