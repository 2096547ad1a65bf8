"""``collect(ready_first=True)``: each sampler fills its column at its own pace."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from collect_helpers import InPlace, NestedObservations, first_leaf
from kinds_of_worker import Kind

from vectasks import InvalidArgument, SamplerUnavailable, TaskError, WaitTimeout
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.testing import assert_identical
from vectasks.testing.toys import CountingTask, FailingTask, ToyTask


class Streams:
    """A policy with a random stream for each sampler; what it gives depends on its row alone."""

    def __init__(self, count: int = 4, memory: bool = False) -> None:
        self.streams = [np.random.default_rng([3, i]) for i in range(count)]
        self.has_memory = memory
        self.sizes: list[int] = []

    def __call__(
        self, observation: Any, memory: Any = None, *, sampler_ids: list[int]
    ) -> dict[str, Any]:
        seen = first_leaf(observation)
        assert len(seen) == len(sampler_ids)
        self.sizes.append(len(sampler_ids))
        drawn = np.array([self.streams[i].integers(4) for i in sampler_ids])
        given = {
            "action": drawn,
            "value": self.value(observation),
            "drawn": drawn / 7,
            "who": np.array(sampler_ids),
        }
        if self.has_memory:
            given["memory"] = memory + 1 + drawn[:, None]
        return given

    def value(self, observation: Any, memory: Any = None) -> Any:
        seen = np.asarray(first_leaf(observation), np.float64)
        total = seen.reshape(len(seen), -1).sum(axis=1) / 8
        return total if memory is None else total + memory[:, 0]


class NestedStreams(Streams):
    """Gives actions of two numbers."""

    def __call__(self, *args: Any, sampler_ids: list[int]) -> dict[str, Any]:
        given = super().__call__(*args, sampler_ids=sampler_ids)
        return {**given, "action": np.stack([given["action"] % 3, given["action"]], axis=1)}


def rollouts(tasks: Any, policy: Any, count: int = 3, **options: Any) -> list[Any]:
    """Everything that is in a buffer after each rollout."""
    memory_shape = (2,) if policy.has_memory else None
    buffer = RolloutBuffer(tasks, horizon=9, memory_shape=memory_shape)
    seen = []
    for _ in range(count):
        ends = collect(tasks, policy, buffer, **options)
        returns, advantages = buffer.returns_and_advantages()
        arrays = [
            buffer.observations,
            buffer.last_observation,
            buffer.actions,
            buffer.rewards,
            buffer.dones,
            buffer.terminated,
            buffer.truncated,
            buffer.episode_starts,
            buffer["value"],
            buffer["drawn"],
            buffer["who"],
            returns,
            advantages,
        ]
        batches = [batch[:4] for batch in buffer.minibatches(5, rng=0)]
        memory = None if buffer.memory is None else buffer.memory.copy()
        seen.append(_copied([arrays, [(e.step, e.sampler, e.info) for e in ends], batches, memory]))
    return seen


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("task_class", [CountingTask, NestedObservations, InPlace])
@pytest.mark.parametrize("options", [{}, {"min_batch": 1}, {"min_batch": 3, "max_wait_s": 0.0}])
def test_what_each_sampler_alone_would_have_given(
    quick_lane: Any, task_class: Any, options: Any, memory: bool
) -> None:
    kind = NestedStreams if task_class is NestedObservations else Streams
    settings: dict[str, Any] = {"max_steps": [2, 3, 5, 4]}
    with Kind().toys(task_class, **settings) as tasks:
        expected = rollouts(tasks, kind(memory=memory))
    with quick_lane.toys(task_class, **settings) as tasks:
        got = rollouts(tasks, kind(memory=memory), ready_first=True, **options)
    assert_identical(expected, got)


def test_prepared_tasks_too(quick_lane: Any) -> None:
    from test_next_tasks import NamedSampler

    from vectasks.testing import toy_args

    def collected(kind: Any, **vector: Any) -> list[Any]:
        arguments = toy_args(CountingTask, 4, max_steps=[2, 3, 5, 4])
        with kind.make(NamedSampler, arguments, seed=3, **vector) as tasks:
            ready_first = bool(vector)
            return rollouts(tasks, Streams(), ready_first=ready_first)

    assert_identical(collected(Kind()), collected(quick_lane, prepared_tasks=2))


def test_truncated_episodes_are_bootstrapped_by_their_final_observation(quick_lane: Any) -> None:
    class Cut(CountingTask):
        def info(self) -> Any:
            return {"truncated": True} if self.step_number >= self.max_steps else {}

    settings: dict[str, Any] = {"max_steps": [2, 3, 5, 4]}
    with Kind().toys(Cut, **settings) as tasks:
        expected = rollouts(tasks, Streams(memory=True))
    with quick_lane.toys(Cut, **settings) as tasks:
        got = rollouts(tasks, Streams(memory=True), ready_first=True, min_batch=1)
    assert_identical(expected, got)
    assert expected[0][0][6].any()


class GatedTask(ToyTask):
    """Sampler 0's steps wait for a file."""

    def move(self, action: Any) -> None:
        while self.env.sampler == 0 and not Path(self.options.gate).exists():
            time.sleep(0.001)


class Opens(Streams):
    """Opens the gate once all other columns are full."""

    def __init__(self, gate: Path, tasks: Any) -> None:
        super().__init__()
        self._gate = gate
        self._steps = 0

    def __call__(self, *args: Any, sampler_ids: list[int]) -> dict[str, Any]:
        self._steps += sum(i != 0 for i in sampler_ids)
        if self._steps == 3 * 6:
            self._gate.touch()
        return super().__call__(*args, sampler_ids=sampler_ids)


def test_nobody_waits_for_the_slowest(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Kind("forkserver").toys(GatedTask, gate=str(gate), max_steps=99) as tasks:
        buffer = RolloutBuffer(tasks, horizon=6)
        policy = Opens(gate, tasks)
        # In lockstep the gate would never open.
        collect(tasks, policy, buffer, ready_first=True, min_batch=1)
        assert buffer.observations[:, :, 2].tolist() == [[t] * 4 for t in range(6)]
        assert tasks.call("num_steps_taken") == [6] * 4


def test_a_deadline_asks_for_whoever_is_there(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Kind("forkserver").toys(GatedTask, gate=str(gate), max_steps=99) as tasks:
        buffer = RolloutBuffer(tasks, horizon=6)
        collect(tasks, Opens(gate, tasks), buffer, ready_first=True, min_batch=4, max_wait_s=0.01)
        assert tasks.call("num_steps_taken") == [6] * 4


def test_a_failed_step_leaves_nothing_out(quick_lane: Any) -> None:
    with quick_lane.toys(FailingTask, fail_at="step", max_steps=9) as tasks:
        buffer = RolloutBuffer(tasks, horizon=8)
        with pytest.raises(TaskError):
            collect(tasks, Streams(), buffer, ready_first=True, min_batch=1)
        tasks.reset_all()
        with pytest.raises(InvalidArgument, match="no whole rollout"):
            buffer.returns_and_advantages()
        tasks.step([0] * 4)


def test_what_the_policy_raises_leaves_nothing_out(quick_lane: Any) -> None:
    class Tired(Streams):
        def __call__(self, *args: Any, sampler_ids: list[int]) -> dict[str, Any]:
            if len(self.sizes) == 5:
                raise KeyError("tired")
            return super().__call__(*args, sampler_ids=sampler_ids)

    with quick_lane.toys(max_steps=9) as tasks:
        buffer = RolloutBuffer(tasks, horizon=8)
        with pytest.raises(KeyError, match="tired"):
            collect(tasks, Tired(), buffer, ready_first=True, min_batch=1)
        tasks.step([0] * 4)
        collect(tasks, Streams(), buffer, ready_first=True)


def test_a_late_step_is_an_error(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    kind = Kind("forkserver")
    with kind.toys(GatedTask, gate=str(gate), vector={"read_timeout": 0.3}) as tasks:
        buffer = RolloutBuffer(tasks, horizon=6)
        with pytest.raises(WaitTimeout, match="sampler 0"):
            collect(tasks, Streams(), buffer, ready_first=True)
        gate.touch()
        tasks.read_timeout = 60
        tasks.wait_step()
        tasks.step([0] * 4)


def test_a_worker_that_dies_is_restarted(quick_lane: Any) -> None:
    if quick_lane.is_in_process:
        pytest.skip("nobody dies here")
    import os
    import signal

    with quick_lane.toys(max_steps=99, vector={"on_worker_death": "restart"}) as tasks:
        buffer = RolloutBuffer(tasks, horizon=8)
        collect(tasks, Streams(), buffer, ready_first=True)
        os.kill(tasks.call("pid")[0], signal.SIGKILL)
        ends = collect(tasks, Streams(), buffer, ready_first=True, min_batch=1)
        assert {end.sampler for end in ends} >= {0}
        assert all("worker_restarted" in end.info for end in ends)
        collect(tasks, Streams(), buffer, ready_first=True)


def test_misuse(kind: Any) -> None:
    with kind.toys(max_steps=9) as tasks:
        buffer = RolloutBuffer(tasks, horizon=3)
        for options, told in (
            ({"ready_first": True, "num_splits": 2}, "cannot go together"),
            ({"min_batch": 2}, "give ready_first=True"),
            ({"max_wait_s": 2}, "give ready_first=True"),
            ({"ready_first": True, "min_batch": 0}, "min_batch must be"),
            ({"ready_first": True, "min_batch": 5}, "min_batch must be"),
            ({"ready_first": True, "min_batch": True}, "min_batch must be"),
            ({"ready_first": True, "max_wait_s": -1}, "max_wait_s must be"),
        ):
            with pytest.raises(InvalidArgument, match=told):
                collect(tasks, Streams(), buffer, **options)
        tasks.pause_at(1)
        with pytest.raises(SamplerUnavailable, match="paused"):
            collect(tasks, Streams(), buffer, ready_first=True)
        tasks.resume_all()
        collect(tasks, Streams(), buffer, ready_first=True)


def test_tensors(kind: Any) -> None:
    torch = pytest.importorskip("torch")

    class Tensors(Streams):
        def __call__(self, *args: Any, sampler_ids: list[int]) -> dict[str, Any]:
            assert all(isinstance(arg, torch.Tensor) for arg in args)
            arrays = [arg.numpy() for arg in args]
            given = super().__call__(*arrays, sampler_ids=sampler_ids)
            return {name: torch.as_tensor(value) for name, value in given.items()}

        def value(self, observation: Any, memory: Any = None) -> Any:
            parts = [observation, *([] if memory is None else [memory])]
            return super().value(*(np.asarray(part) for part in parts))

    def filled(tasks: Any, policy: Any, device: Any, **options: Any) -> Any:
        buffer = RolloutBuffer(tasks, horizon=9, memory_shape=(2,), device=device)
        collect(tasks, policy, buffer, **options)
        return [
            np.asarray(part)
            for part in (buffer.observations, buffer.actions, buffer["drawn"], buffer.memory)
        ]

    with Kind().toys(max_steps=[2, 3, 5, 4]) as tasks:
        expected = filled(tasks, Streams(memory=True), None)
    with kind.toys(max_steps=[2, 3, 5, 4]) as tasks:
        got = filled(tasks, Tensors(memory=True), "cpu", ready_first=True, min_batch=1)
    assert_identical(expected, got)
