"""Rollouts of groups that take turns: the same as in lockstep, and nothing stays out of step."""

from __future__ import annotations

import fractions
import gc
import math
import signal
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.contract.collect_helpers import Dice, InPlace, NestedObservations, first_leaf
from tests.contract.kinds_of_worker import IN_PROCESS
from tests.contract.test_recordings import assert_replays
from vectasks import (
    AlreadyPending,
    InvalidArgument,
    LayoutError,
    NothingPending,
    SamplerState,
    SamplerUnavailable,
    TaskError,
    VectorClosed,
    VectorState,
    WaitTimeout,
    WorkerDied,
)
from vectasks.debug import Replay
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.spaces import map_leaves
from vectasks.testing import assert_identical
from vectasks.testing.faults import Fault, kill, with_faults
from vectasks.testing.toys import (
    CountingTask,
    FailingTask,
    RandomWalk,
    ReusingTask,
    SlowTask,
    ToyError,
    ToySampler,
    toy_args,
)
from vectasks.vector.port import port_of

HORIZON, COUNT = 7, 5
PATIENCE_S = 20.0


class OddInfos(CountingTask):
    """Its infos are no notes: they go by the channel, ahead of the step that they are of."""

    def info(self) -> Any:
        class Local(fractions.Fraction):  # which plain pickle refuses
            pass

        return {"part": Local(self.step_number, 3)}


class ByRow:
    """Acts by what it sees of each sampler alone, and remembers how often it looked.

    Attributes:
        valued: what it was asked the value of.
    """

    def __init__(self, space: Any) -> None:
        self._space = space
        self.valued: list[Any] = []

    def __call__(self, observation: Any, memory: Any) -> dict[str, Any]:
        seen = self._seen(observation, memory)
        if self._space.dtype.kind == "f":
            action = np.sin(np.stack([seen, 2 * seen], axis=1)).astype(np.float32)
        else:
            most = getattr(self._space, "nvec", None)
            whole = np.abs(seen * 8).astype(np.int64)
            action = whole % 4 if most is None else whole[:, None] % most
        memory = memory + np.array([1.0, 2.0])
        return {"action": action, "value": seen, "twice": 2 * seen, "memory": memory}

    def value(self, observation: Any, memory: Any) -> Any:
        self.valued.append(map_leaves(np.copy, observation))
        return self._seen(observation, memory)

    def _seen(self, observation: Any, memory: Any) -> Any:
        leaf = first_leaf(observation)
        return leaf.reshape(len(leaf), -1).sum(1, dtype=np.float32) + memory[:, 0]


def contents(buffer: RolloutBuffer) -> dict[str, Any]:
    """All that is in it, copied."""
    returns, advantages = buffer.returns_and_advantages()
    names = ("observations", "last_observation", "actions", "rewards", "memory", "episode_starts")
    flags = ("dones", "terminated", "truncated")
    held = {name: getattr(buffer, name) for name in (*names, *flags)}
    held |= {"value": buffer["value"], "twice": buffer["twice"]}
    held |= {"returns": returns, "advantages": advantages}
    return {name: map_leaves(np.copy, value) for name, value in held.items()}


def check_against_lockstep(kind: Any, task_class: Any) -> None:
    options = {"max_steps": [2, 3, 3, 7, 50], "limit": 1.5, "count": COUNT, "vector": {"seed": 1}}
    with (
        kind.toys(task_class, **options) as tasks,
        IN_PROCESS.toys(task_class, **options) as in_process,
    ):
        space = tasks.action_spaces[0]
        ours, theirs = ByRow(space), ByRow(space)
        mine = RolloutBuffer(tasks, HORIZON, memory_shape=(2,))
        other = RolloutBuffer(in_process, HORIZON, memory_shape=(2,))
        with tasks.record_episodes(observations=True) as recorded:
            for splits in (2, 3, COUNT, 1, 2):  # each goes on where the one before ended
                ends = collect(tasks, ours, mine, num_splits=splits)
                expected = collect(in_process, theirs, other)
                assert_identical(contents(mine), contents(other))
                assert_identical([end[:2] for end in ends], [end[:2] for end in expected])
                for end, its in zip(ends, expected, strict=True):
                    assert_identical(_plain(end.info), _plain(its.info))
                assert tasks.stats() == in_process.stats()
        assert len(ours.valued) == len(theirs.valued)
        for asked, its in zip(ours.valued, theirs.valued, strict=True):
            assert_identical(asked, its)
        assert mine.truncated.any()
        assert task_class is not RandomWalk or mine.terminated.any()
        assert len(recorded.recordings) == tasks.stats()["episodes"]
        for recording in recorded.recordings:
            with Replay(recording) as replay:
                outcome = replay.run()
                assert (outcome.error, outcome.divergence) == (None, None)
        # The vector is as it was: other steps go on from here.
        action = [space.sample()] * COUNT
        for result, its in zip(tasks.step(action), in_process.step(action), strict=True):
            assert_identical(_plain(result._asdict()), _plain(its._asdict()))


def _plain(info: dict[str, Any]) -> dict[str, Any]:
    """Fractions as numbers: their class is another in every process."""
    if "part" in info:
        info = {**info, "part": float(info["part"])}
    return info if "info" not in info else {**info, "info": _plain(info["info"])}


@pytest.mark.guarantee("split-rollouts")
def test_groups_that_take_turns_fill_it_as_lockstep_does(every_lane):
    check_against_lockstep(every_lane, RandomWalk)


@pytest.mark.guarantee("split-rollouts")
@pytest.mark.parametrize(
    "task_class",
    [NestedObservations, ReusingTask, InPlace, OddInfos],
    ids=lambda task_class: task_class.__name__,
)
def test_whatever_they_observe_and_however_it_travels(quick_lane, task_class):
    check_against_lockstep(quick_lane, task_class)


def test_each_worker_has_samplers_of_every_group(make):
    tasks = make(count=COUNT, max_steps=3)
    buffer = RolloutBuffer(tasks, 2)
    asked = []

    def policy(observation: NDArray[Any]) -> dict[str, Any]:
        assert np.shares_memory(observation, buffer._rows.step_buffer["leaf0"])
        asked.append(observation[:, [0, 2]].tolist())
        return {"action": np.zeros(len(observation), int), "value": observation[:, 0]}

    collect(tasks, policy, buffer, num_splits=2)
    even, odd = [0, 2, 4], [1, 3]
    turns = [(ids, step) for step in range(2) for ids in (even, odd)]
    assert asked[:-1] == [[[i, step] for i in ids] for ids, step in turns]
    assert asked[-1] == [[i, 2] for i in range(COUNT)]  # the values of all at once


def test_workers_step_while_the_policy_looks_at_others(processes, tmp_path):
    """Here it does not look away before they have."""

    class Leaving(CountingTask):
        def move(self, action: Any) -> None:
            (tmp_path / "{} {} {}".format(*self.counts())).touch()

    policy_of = Dice(Leaving.actions)
    awaited = []

    def policy(observation: NDArray[Any]) -> dict[str, Any]:
        turns = len(awaited)
        if turns:
            # Of the first group it waits for the step before; the second's is a row behind.
            others = [1, 3] if turns % 2 == 0 else [0, 2]
            step = turns // 2 + turns % 2
            until(lambda: all((tmp_path / f"{i} 0 {step}").exists() for i in others))
        awaited.append(turns)
        return policy_of(observation)

    policy.value = policy_of.value
    with processes.toys(Leaving, max_steps=99) as tasks:
        collect(tasks, policy, RolloutBuffer(tasks, HORIZON), num_splits=2)
    assert len(awaited) == 2 * HORIZON


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("given", [0, -1, 5, 1.5, "2", None])
def test_how_many_groups_there_can_be(given):
    with IN_PROCESS.toys() as tasks:
        buffer = RolloutBuffer(tasks, 2)
        told = rf"num_splits must be an integer from 1 to 4, .*, got {given!r}"
        moves = port_of(tasks).moves
        with pytest.raises(InvalidArgument, match=told):
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=given)
        assert port_of(tasks).moves == moves


# -- what goes wrong -------------------------------------------------------------------------------


def check_that_nothing_is_out(tasks: Any, failed: tuple[int, ...] = ()) -> None:
    states = tasks.sampler_states
    assert [i for i, state in states.items() if state is SamplerState.FAILED] == list(failed)
    ready = [i for i, state in states.items() if state is SamplerState.READY]
    assert len(ready) + len(failed) == len(states)
    assert tasks.vector_state is (VectorState.BROKEN if failed else VectorState.IDLE)
    for collect_late in (tasks.wait_step, tasks.recv):
        with pytest.raises(NothingPending):
            collect_late()
    for i in ready:
        assert_replays(tasks, i)


def check_that_it_goes_on(tasks: Any, buffer: RolloutBuffer, num_splits: int = 2) -> None:
    """From what the tasks show now."""
    shown = np.stack(tasks.get_observations())
    collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=num_splits)
    np.testing.assert_array_equal(buffer.observations[0], shown)
    assert buffer.episode_starts[0].all()
    steps = buffer.observations[:, :, 2]
    np.testing.assert_array_equal(steps, steps[0] + np.arange(len(steps))[:, None])
    check_that_nothing_is_out(tasks)


def faulty(kind: Any, faults: list[Fault], count: int = 4, **vector: Any) -> Any:
    make, arguments = with_faults(ToySampler, toy_args(CountingTask, count, max_steps=99), faults)
    return kind.make(make, arguments, **vector)


@pytest.mark.parametrize("sampler", [0, 3])
def test_a_step_that_fails_fails_no_other(quick_lane, sampler):
    """Of the first group and of the last."""
    options = {"fail_sampler": sampler, "fail_step": 3, "max_steps": 99}
    with quick_lane.toys(FailingTask, **options) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        with pytest.raises(TaskError, match=f"sampler {sampler} failed in step") as caught:
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=2)
        check_recordings(caught.value, [sampler])
        check_that_nothing_is_out(tasks, (sampler,))
        tasks.next_task_at(sampler)
        taken = tasks.call("num_steps_taken")
        # The first group was a step ahead when the last one's came in.
        assert taken == ([0, 3, 3, 3] if sampler == 0 else [4, 3, 4, 0])
        assert tasks.stats()["steps"] == sum(taken) + 2
        check_that_it_goes_on(tasks, buffer)


def check_recordings(error: Any, failed: list[int]) -> None:
    """Each failed in its third step, and does so again."""
    assert list(error.recordings) == failed
    for i, recording in error.recordings.items():
        assert (recording.sampler_id, recording.num_steps) == (i, 3)
        with Replay(recording) as replay:
            outcome = replay.run()
        assert isinstance(outcome.error, ToyError)
        assert outcome.divergence is None


@pytest.mark.guarantee("split-rollouts")
def test_steps_of_several_groups_that_fail(quick_lane):
    options = {"fail_sampler": [0, 1, None, 3], "fail_step": 3, "max_steps": 99}
    with quick_lane.toys(FailingTask, **options) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        with pytest.raises(TaskError, match="sampler 0") as caught:
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=2)
        check_recordings(caught.value, [0, 1, 3])
        check_that_nothing_is_out(tasks, (0, 1, 3))
        for i in (0, 1, 3):
            tasks.next_task_at(i)
        check_that_it_goes_on(tasks, buffer)


class Misfit(CountingTask):
    """Sampler 2 observes too much in its second step."""

    def get_observations(self) -> Any:
        too_much = self.counts() == (2, 0, 2)
        return np.zeros((7, 7)) if too_much else super().get_observations()


def test_an_observation_that_does_not_fit(quick_lane):
    with quick_lane.toys(Misfit, max_steps=99) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        with pytest.raises(LayoutError, match="sampler 2") as caught:
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=3)
        assert list(caught.value.recordings) == [2]
        check_that_nothing_is_out(tasks, (2,))
        tasks.restart_at(2)
        check_that_it_goes_on(tasks, RolloutBuffer(tasks, 1), num_splits=3)


class Interrupting:
    """A policy that goes wrong the so many-th time that it is asked."""

    def __init__(self, turn: int, wrong: Callable[[], Any]) -> None:
        self._turn, self._wrong = turn, wrong

    def __call__(self, observation: Any) -> dict[str, Any]:
        self._turn -= 1
        right = {"action": np.zeros(len(observation), int), "value": observation[:, 0]}
        return {**right, **self._wrong()} if self._turn == 0 else right


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.guarantee("split-rollouts")
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda: _raise(ZeroDivisionError("in the policy")), ZeroDivisionError),
        (lambda: _raise(WaitTimeout("", sampler_ids=(), timeout_s=1.0)), WaitTimeout),
        (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt),
        (lambda: _raise(SystemExit(3)), SystemExit),
        (lambda: {"action": np.full(2, 9)}, InvalidArgument),
        (lambda: {"action": np.zeros(4, int)}, LayoutError),
        (lambda: {"value": np.zeros(4)}, LayoutError),
    ],
    ids=["error", "timeout", "ctrl-c", "exit", "action", "count", "value"],
)
@pytest.mark.parametrize("turn", [1, 2, 6])
def test_a_policy_that_goes_wrong_amid_steps(quick_lane, wrong, error, turn):
    with quick_lane.toys(max_steps=99) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        with pytest.raises(error):
            collect(tasks, Interrupting(turn, wrong), buffer, num_splits=2)
        check_that_nothing_is_out(tasks)
        assert tasks.stats()["steps"] == sum(tasks.call("num_steps_taken")) == 2 * (turn - 1)
        check_that_it_goes_on(tasks, buffer)


class InterruptedTask(CountingTask):
    """Ctrl-C comes while sampler 1 takes its second step."""

    def move(self, action: Any) -> None:
        if self.counts() == (1, 0, 2):
            raise KeyboardInterrupt


def test_ctrl_c_in_a_task_of_the_in_process():
    with IN_PROCESS.toys(InterruptedTask, max_steps=99) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        with pytest.raises(KeyboardInterrupt):
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=2)
        check_that_nothing_is_out(tasks, (1, 3))  # sampler 3's step was cut off with it
        assert tasks.call_at(2, "counts") == (2, 0, 2)
        tasks.reset_all()
        short = RolloutBuffer(tasks, 1)
        collect(tasks, Dice(tasks.action_spaces[0]), short, num_splits=2)
        assert short.last_observation.tolist() == [[i, 0, 1] for i in range(4)]


def test_an_error_keeps_no_rollout_alive(quick_lane):
    with quick_lane.toys(max_steps=9) as tasks:
        buffer = RolloutBuffer(tasks, 4)
        rollout_rows = weakref.ref(buffer._rows)
        with pytest.raises(ZeroDivisionError):
            collect(tasks, Interrupting(5, lambda: 1 / 0), buffer, num_splits=2)
        del buffer
        gc.collect()
        assert rollout_rows() is None


def test_a_policy_must_not_meddle_with_the_vector(make):
    tasks = make(max_steps=99)
    buffer = RolloutBuffer(tasks, HORIZON)
    for meddle in (lambda: tasks.step([0] * 4), lambda: tasks.attr("episode")):
        with pytest.raises(AlreadyPending):
            collect(tasks, Interrupting(2, meddle), buffer, num_splits=2)
        check_that_nothing_is_out(tasks)
    with pytest.raises(NothingPending, match=r"the step of samplers \[0, 2\] is not out any more"):
        collect(tasks, Interrupting(2, lambda: tasks.wait_step() and {}), buffer, num_splits=2)
    check_that_it_goes_on(tasks, buffer)
    with pytest.raises(VectorClosed):
        collect(tasks, Interrupting(2, lambda: tasks.close() or {}), buffer, num_splits=2)


@pytest.mark.parametrize("sampler", [0, 3])
def test_a_worker_that_dies_amid_steps(some_process, sampler):
    with faulty(some_process, [Fault(kill(), sampler, call=3)]) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        with pytest.raises(WorkerDied, match="SIGKILL") as caught:
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=2)
        assert sampler in caught.value.recordings
        mates = caught.value.sampler_ids
        check_that_nothing_is_out(tasks, mates)
        tasks.restart_at(sampler)
        check_that_it_goes_on(tasks, buffer)


@pytest.mark.parametrize("sampler", [0, 1])
def test_a_death_that_is_noticed_before_the_next_group_is_sent(some_process, sampler):
    """The other group's samplers, which cannot step any more, are not what is told."""
    with faulty(some_process, [Fault(kill(), sampler, call=2)]) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)

        def notice() -> Any:
            until(lambda: tasks.sampler_states[sampler] is SamplerState.FAILED)
            return {}

        # Asked for this sampler's mate, whose step is in, while the sampler's own is out.
        policy = Interrupting(4 if sampler == 0 else 5, notice)
        with pytest.raises(WorkerDied, match="SIGKILL") as caught:
            collect(tasks, policy, buffer, num_splits=2)
        assert caught.value.recordings[sampler].num_steps == 2
        check_that_nothing_is_out(tasks, caught.value.sampler_ids)
        tasks.restart_at(sampler)
        check_that_it_goes_on(tasks, buffer)


def test_a_worker_that_is_restarted_amid_steps(some_process):
    with faulty(some_process, [Fault(kill(), 1, call=3)], on_worker_death="restart") as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        ends = collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=2)
        assert [end.sampler for end in sorted(ends, key=lambda end: end.sampler)] == [0, 1]
        assert all("SIGKILL" in end.info["worker_restarted"] for end in ends)
        assert buffer.truncated.sum(0).tolist() == [1, 1, 0, 0]
        for i, steps in enumerate(buffer.observations[:, :, 2].T.tolist()):
            cut = next((end.step + 1 for end in ends if end.sampler == i), HORIZON)
            assert steps == [*range(cut), *range(HORIZON - cut)]
        assert tasks.stats()["restarts"] == 1
        collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=2)  # it goes on
        assert not buffer.episode_starts.any()
        check_that_nothing_is_out(tasks)


@pytest.mark.parametrize("transport", ["auto", "pipe"])
@pytest.mark.parametrize("slow_step", [2, HORIZON])
def test_all_that_is_out_after_a_timeout_is_collected(processes, caplog, transport, slow_step):
    """Rows of two groups, of which one is a step ahead; after the last step only one is out."""
    vector = {"read_timeout": 0.3, "observation_transport": transport}
    options = {"delay_s": 1.5, "max_steps": 99, "slow_sampler": 1, "slow_step": slow_step}
    with processes.toys(SlowTask, vector=vector, **options) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        with pytest.raises(WaitTimeout, match="sampler 1"):
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=2)
        assert "stays out" not in caplog.text  # it was not waited for once more
        assert tasks.vector_state is VectorState.STEPPING
        with pytest.raises(AlreadyPending):
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=2)
        del buffer  # its rows stay until what is written to them is read
        gc.collect()
        late = tasks.wait_step(30)
        ahead = [] if slow_step == HORIZON else [[0, 0, 3], [2, 0, 3]]
        behind = [[1, 0, slow_step], [3, 0, slow_step]]
        assert [result.observation.tolist() for result in late] == sorted(ahead + behind)
        assert [result.info["sampler"] for result in late] == [r.observation[0] for r in late]
        tasks.read_timeout = 30
        check_that_it_goes_on(tasks, RolloutBuffer(tasks, 3))


def test_an_error_while_another_group_is_late(processes, caplog):
    with processes.toys(SlowTask, delay_s=1.5, max_steps=9, vector={"read_timeout": 0.3}) as tasks:
        buffer = RolloutBuffer(tasks, 3)
        with pytest.raises(ZeroDivisionError):
            collect(tasks, Interrupting(2, lambda: 1 / 0), buffer, num_splits=2)
        assert "a step of samplers [0, 2] stays out" in caplog.text
        late = tasks.wait_step(30)
        assert [result.observation.tolist() for result in late] == [[0, 0, 1], [2, 0, 1]]
        tasks.read_timeout = 30
        check_that_it_goes_on(tasks, buffer)


def test_no_group_steps_unless_all_can(make):
    tasks = make(num_tasks=[math.inf, 1, math.inf, math.inf], max_steps=3)
    buffer = RolloutBuffer(tasks, 3)
    dice = Dice(tasks.action_spaces[0])
    collect(tasks, dice, buffer, num_splits=2)
    assert tasks.sampler_states[1] is SamplerState.EXHAUSTED
    for error in ("sampler 1 is EXHAUSTED", r"samplers \[1\] are paused"):
        with pytest.raises(SamplerUnavailable, match=error):
            collect(tasks, dice, buffer, num_splits=2)
        assert tasks.stats()["steps"] == 3 * 4
        assert tasks.vector_state is VectorState.IDLE
        tasks.pause_at(1)


def test_a_sampler_that_is_exhausted_amid_steps(quick_lane):
    num_tasks = [math.inf, 1, math.inf, math.inf]
    with quick_lane.toys(num_tasks=num_tasks, max_steps=3) as tasks:
        buffer = RolloutBuffer(tasks, HORIZON)
        with pytest.raises(SamplerUnavailable, match="sampler 1 is EXHAUSTED"):
            collect(tasks, Dice(tasks.action_spaces[0]), buffer, num_splits=2)
        assert tasks.vector_state is VectorState.IDLE
        assert tasks.stats()["steps"] == 4 + 3 + 4 + 3
        tasks.reset_all()
        check_that_it_goes_on(tasks, RolloutBuffer(tasks, 2))
