"""The content of a StepBatch, the owner of its arrays, and batches in lockstep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vectasks import SamplerState, SamplerUnavailable, StepBatch, TaskError
from vectasks.testing import ToySampler, assert_identical, toy_args
from vectasks.testing.faults import Fault, fail, with_faults
from vectasks.testing.toys import (
    CountingTask,
    GraphTask,
    InfoTask,
    LargeTask,
    NestedTask,
    RandomWalk,
    ReusingTask,
    TextTask,
    ToyTask,
)
from vectasks.transport import compiled


class WideTask(ToyTask):
    """Its counts, and zeros: so many that batches of them are handed out without a copy."""

    space = spaces.Box(0, 2**31 - 1, (512,), np.int32)

    def get_observations(self) -> Any:
        counts = self.counts()
        return np.array([*counts, *[0] * (512 - len(counts))], np.int32)


ARRAYS = ("samplers", "reward", "terminated", "truncated", "done", "exhausted")


def arrays_of(batch: StepBatch) -> dict[str, Any]:
    """Every array in a batch, by name."""
    found = {name: getattr(batch, name) for name in ARRAYS}

    def add(value: Any, name: str) -> None:
        if isinstance(value, np.ndarray):
            found[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                add(item, f"{name}[{key!r}]")
        elif isinstance(value, tuple):
            for key, item in enumerate(value):
                add(item, f"{name}[{key}]")

    add(batch.observation, "observation")
    return found


def stacked(space: Any, observations: list[Any]) -> Any:
    """Observations as a batch has them."""
    if isinstance(space, spaces.Dict):
        return {key: stacked(sub, [o[key] for o in observations]) for key, sub in space.items()}
    if isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
        return tuple(stacked(sub, [o[i] for o in observations]) for i, sub in parts)
    return np.stack([np.asarray(o, space.dtype) for o in observations])


# -- what a batch is -------------------------------------------------------------------------------


@pytest.mark.guarantee("results-in-order")
def test_a_batch_is_the_results_as_arrays(every_kind: Any) -> None:
    with (
        every_kind.toys(max_steps=[2, 3, 9, 9]) as listed,
        every_kind.toys(max_steps=[2, 3, 9, 9]) as batched,
    ):
        for number in range(7):
            results = listed.step([number % 4] * 4)
            batch = batched.step_batch([number % 4] * 4)
            assert isinstance(batch, StepBatch)
            assert_identical(batch.samplers, np.arange(4))
            observations = [r.observation for r in results]
            assert_identical(batch.observation, np.stack(observations))
            assert_identical(batch.reward, np.array([r.reward for r in results], np.float32))
            assert_identical(batch.done, np.array([r.done for r in results]))
            assert_identical(batch.infos, [r.info for r in results])
            assert_identical(batch.truncated, batch.done)
            assert not batch.terminated.any()
            assert not batch.exhausted.any()


@pytest.mark.guarantee("batch-dtypes")
def test_dtypes_and_shapes(make: Any) -> None:
    tasks = make(NestedTask, count=3)
    actions = [tasks.action_spaces[0].sample() for _ in range(3)]
    batch = tasks.step_batch(actions)
    found = {name: (a.dtype.name, a.shape) for name, a in arrays_of(batch).items()}
    assert found == {
        "samplers": ("int64", (3,)),
        "reward": ("float32", (3,)),
        **dict.fromkeys(("terminated", "truncated", "done", "exhausted"), ("bool", (3,))),
        "observation['rgb']": ("uint8", (3, 6, 5, 3)),
        "observation['pose'][0]": ("float64", (3, 3)),
        "observation['pose'][1]": ("int64", (3,)),
        "observation['flags']": ("int8", (3, 4)),
        "observation['choice']": ("int64", (3, 2)),
    }
    assert type(batch.observation) is dict
    assert type(batch.observation["pose"]) is tuple
    expected = stacked(tasks.observation_space, tasks.get_observations())
    for key, part in expected.items():
        assert_identical(batch.observation[key], part)


def test_frames_come_with_the_infos_of_whom_they_are_asked(make: Any) -> None:
    class UsualTask(CountingTask):
        def _step(self, action: Any) -> Any:
            return super()._step(action)._replace(info={})

    tasks = make(UsualTask, count=3, max_steps=3)
    tasks.command("keep_frames", ["all", "final", "none"])
    for number in (1, 2):
        of_all, of_final, of_none = tasks.step_batch([0] * 3).infos
        assert of_all.keys() == {"frame"}
        assert_identical(of_all["frame"], tasks.command_at(0, "render"))
        assert of_all["frame"][0, 0].tolist() == [0, 0, 20 * number]
        assert of_final == of_none == {}
    of_all, of_final, of_none = tasks.step_batch([0] * 3).infos
    assert of_all["final_frame"][0, 0].tolist() == [0, 0, 60]
    assert of_final["final_frame"][0, 0].tolist() == [20, 0, 60]
    assert "final_frame" not in of_none
    tasks.command("keep_frames", ["none"] * 3)
    assert tasks.step_batch([0] * 3).infos == [{}] * 3


@pytest.mark.guarantee("truncation")
def test_terminated_and_truncated(make: Any) -> None:
    tasks = make(RandomWalk, count=4, max_steps=6, limit=2.0)
    seen = set()
    for _ in range(40):
        batch = tasks.step_batch(np.full((4, 2), 0.2, np.float32))
        assert (batch.done == (batch.terminated | batch.truncated)).all()
        assert not (batch.terminated & batch.truncated).any()
        seen |= set(zip(batch.terminated.tolist(), batch.truncated.tolist(), strict=True))
        for k in np.flatnonzero(batch.done):
            length = batch.infos[k]["__AFTER_TASK_METRICS__"]["ep_length"]
            assert batch.truncated[k] <= (length == 6)
            assert batch.infos[k]["final_observation"].shape == (2,)
    assert seen == {(False, False), (True, False), (False, True)}


def test_infos_are_dicts(make: Any) -> None:
    tasks = make(InfoTask, count=4, max_steps=9, step_info=[None, {}, {"a": 1}, None])
    assert tasks.step_batch([0] * 4).infos == [{}, {}, {"a": 1}, {}]
    infos = tasks.step_batch([0] * 4).infos
    infos[0]["mine"] = 1
    assert tasks.step_batch([0] * 4).infos[0] == {}


def test_unshaped_leaves_are_lists(make: Any) -> None:
    batch = make(TextTask, count=3).step_batch([0] * 3)
    assert batch.observation["words"] == ["s0e0tx", "s1e0tx", "s2e0tx"]
    assert_identical(batch.observation["number"], np.ones((3, 1), np.int64))
    graphs = make(GraphTask, count=2).step_batch([0] * 2).observation
    assert [graph.nodes.shape for graph in graphs] == [(3, 2)] * 2


@pytest.mark.guarantee("exhausted-rows")
def test_exhausted_rows_are_zero(every_kind: Any) -> None:
    with every_kind.toys(max_steps=[1, 9, 1, 9], num_tasks=[1, 1, 2, 1]) as tasks:
        batch = tasks.step_batch([1] * 4)
        assert batch.exhausted.tolist() == [True, False, False, False]
        assert batch.done.tolist() == [True, False, True, False]
        assert batch.observation.tolist() == [[0, 0, 0], [1, 0, 1], [2, 1, 0], [3, 0, 1]]
        assert batch.reward.tolist() == [1.125] * 4
        assert batch.infos[0]["final_observation"].tolist() == [0, 0, 1]
        assert tasks.sampler_states[0] is SamplerState.EXHAUSTED
        with pytest.raises(SamplerUnavailable, match="sampler 0 is EXHAUSTED"):
            tasks.step_batch([1] * 4)
        tasks.pause_at(0)
        batch = tasks.step_batch([1] * 3)
        assert batch.samplers.tolist() == [1, 2, 3]
        assert batch.exhausted.tolist() == [False, True, False]
        assert batch.observation.tolist() == [[1, 0, 2], [0, 0, 0], [3, 0, 2]]
        tasks.resume_all()
        tasks.reset_all()
        assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [0, 1, 0, 1]


@pytest.mark.guarantee("exhausted-rows")
def test_exhausted_rows_of_nested_and_unshaped_observations(make: Any) -> None:
    tasks = make(TextTask, count=2, max_steps=[1, 9], num_tasks=1)
    batch = tasks.step_batch([0] * 2)
    assert batch.exhausted.tolist() == [True, False]
    assert batch.observation["number"].tolist() == [[0], [1]]
    assert batch.observation["words"] == [None, "s1e0tx"]


def test_paused_samplers_are_left_out(every_kind: Any) -> None:
    with every_kind.toys(max_steps=9) as tasks:
        tasks.pause_at(1)
        batch = tasks.step_batch([0, 2, 3])
        assert batch.samplers.tolist() == [0, 2, 3]
        assert batch.observation.tolist() == [[0, 0, 1], [2, 0, 1], [3, 0, 1]]
        assert batch.reward.tolist() == [0.125, 2.125, 3.125]
        tasks.resume_all()
        assert tasks.step_batch([0] * 4).observation[:, 2].tolist() == [2, 1, 2, 2]
        for _ in range(4):
            tasks.pause_at(0)
        empty = tasks.step_batch([])
        assert {name: len(array) for name, array in arrays_of(empty).items()} == dict.fromkeys(
            [*ARRAYS, "observation"], 0
        )
        assert empty.observation.shape == (0, 3)
        assert empty.infos == []


@pytest.mark.guarantee("results-in-order")
def test_batches_and_lists_in_turn(every_kind: Any) -> None:
    with every_kind.toys(max_steps=5) as tasks:
        for number in range(1, 13):
            if number % 3 == 0:
                got = [r.observation.tolist() for r in tasks.step([0] * 4)]
            elif number % 3 == 1:
                got = tasks.step_batch([0] * 4).observation.tolist()
            else:
                tasks.send([0] * 4)
                got = tasks.recv().observation.tolist()
            assert got == [[i, number // 5, number % 5] for i in range(4)]


@pytest.mark.guarantee("same-transports")
@pytest.mark.parametrize("transport", ["auto", "slab", "pipe"])
def test_every_transport_gives_the_same(processes: Any, transport: str) -> None:
    with processes.toys(
        RandomWalk, seed=[1, 2, 3, 4], vector={"observation_transport": transport}
    ) as tasks:
        actions = np.full((4, 2), 0.25, np.float32)
        batches = [tasks.step_batch(actions) for _ in range(9)]
    with processes.toys(RandomWalk, seed=[1, 2, 3, 4]) as others:
        assert_identical(batches, [others.step_batch(actions) for _ in range(9)])


def test_counts(make: Any) -> None:
    tasks = make(max_steps=3)
    for _ in range(4):
        tasks.step_batch([0] * 4)
    tasks.send([0] * 2, samplers=[0, 1])
    tasks.recv()
    assert tasks.stats() == {"steps": 18, "episodes": 4, "restarts": 0, "core": compiled.kind()}


# -- who owns the arrays ---------------------------------------------------------------------------


class PlainTask(CountingTask):
    """Its counts, and nothing in its infos."""

    def info(self) -> Any:
        return {}


class PlainNestedTask(PlainTask):
    """The same, nested."""

    space = spaces.Dict(once=CountingTask.space, more=spaces.Tuple([CountingTask.space]))

    def get_observations(self) -> Any:
        counts = super().get_observations()
        return {"once": counts, "more": (2 * counts,)}


@pytest.mark.parametrize("task_class", [PlainTask, PlainNestedTask])
def test_steps_that_give_nothing_but_arrays(every_kind: Any, task_class: Any) -> None:
    # The in-process vector makes batches of such steps in a shorter way.
    with every_kind.toys(task_class, max_steps=9) as tasks:
        for number in range(1, 4):
            batch = tasks.step_batch([3, 2, 1, 0])
            assert batch.reward.tolist() == [
                3 + number / 8,
                2 + number / 8,
                1 + number / 8,
                number / 8,
            ]
            expected = stacked(tasks.observation_space, tasks.get_observations())
            assert_identical(batch.observation, expected)
            assert batch.samplers.tolist() == [0, 1, 2, 3]
            assert batch.infos == [{}] * 4
            for name in ("terminated", "truncated", "done", "exhausted"):
                assert not getattr(batch, name).any()
        assert tasks.stats()["steps"] == 3 * 4


@pytest.mark.guarantee("results-are-yours")
@pytest.mark.parametrize(
    "task_class", [CountingTask, ReusingTask, WideTask, PlainTask, PlainNestedTask]
)
def test_batches_never_alias(every_kind: Any, task_class: Any) -> None:
    with every_kind.toys(task_class, max_steps=3) as tasks:
        kept, copies = [], []
        for number in range(8):
            if number == 5:
                tasks.pause_at(0)
            batch = tasks.step_batch([0] * tasks.num_unpaused_tasks)
            kept.append(batch)
            copies.append(
                (
                    {k: a.copy() for k, a in arrays_of(batch).items()},
                    [{k: repr(v) for k, v in info.items()} for info in batch.infos],
                )
            )
        tasks.resume_all()
        tasks.send([0] * 4)
        kept.append(tasks.recv(4))
        tasks.step_batch([0] * 4)
        for batch, (arrays, infos) in zip(kept, copies, strict=False):
            assert_identical(arrays_of(batch), arrays)
            assert [{k: repr(v) for k, v in info.items()} for info in batch.infos] == infos
        every = [array for batch in kept for array in arrays_of(batch).values()]
        for position, one in enumerate(every):
            assert one.flags.writeable
            for other in every[position + 1 :]:
                assert not np.shares_memory(one, other)


@pytest.mark.guarantee("out")
def test_out_is_written_into(every_kind: Any) -> None:
    with every_kind.toys(max_steps=3) as tasks, every_kind.toys(max_steps=3) as others:
        out = tasks.step_batch([0] * 4)
        others.step_batch([0] * 4)
        arrays = arrays_of(out)
        for number in range(5):
            got = tasks.step_batch([number % 4] * 4, out=out)
            expected = others.step_batch([number % 4] * 4)
            assert_identical(got, expected)
            for name, array in arrays_of(got).items():
                assert array is arrays[name], name


def test_out_for_nested_observations(make: Any) -> None:
    tasks, others = make(NestedTask, count=3), make(NestedTask, count=3)
    actions = [tasks.action_spaces[0].sample() for _ in range(3)]
    out = tasks.step_batch(actions)
    others.step_batch(actions)
    arrays = arrays_of(out)
    got = tasks.step_batch(actions, out=out)
    assert_identical(got, others.step_batch(actions))
    assert all(array is arrays[name] for name, array in arrays_of(got).items())


@pytest.mark.guarantee("out")
@pytest.mark.parametrize("paused", [1, 3])
def test_out_of_another_size_is_refused_before_anything_is_sent(make: Any, paused: int) -> None:
    tasks = make(max_steps=9)
    out = tasks.step_batch([0] * 4)
    for _ in range(paused):
        tasks.pause_at(0)
    left = 4 - paused
    with pytest.raises(ValueError, match="out"):
        tasks.step_batch([0] * left, out=out)
    assert tasks.step_batch([0] * left).observation[:, 2].tolist() == [2] * left


@pytest.mark.guarantee("views")
@pytest.mark.parametrize("task_class", [CountingTask, WideTask])
def test_views_stay_valid_until_the_second_following_step(every_kind: Any, task_class: Any) -> None:
    with every_kind.toys(task_class, max_steps=100) as tasks:
        previous: Any = None
        for number in range(1, 12):
            batch = tasks.step_batch([0] * 4, copy=False)
            assert batch.observation[:, 2].tolist() == [number] * 4
            if previous is not None:  # one step has followed
                assert previous.observation[:, 2].tolist() == [number - 1] * 4
                assert previous.reward.tolist() == [(number - 1) / 8] * 4
            previous = batch


@pytest.mark.guarantee("views")
@pytest.mark.parametrize("following", ["step", "step_at", "step_batch", "send"])
def test_views_survive_one_following_step_of_any_kind(make: Any, following: str) -> None:
    tasks = make(WideTask, max_steps=100)
    for _ in range(2):
        batch = tasks.step_batch([0] * 4, copy=False)
        expected = batch.observation.copy()
        if following == "send":
            tasks.send([0] * 4)
            tasks.recv()
        elif following == "step_at":
            tasks.step_at(2, 0)
        else:
            getattr(tasks, following)([0] * 4)
        assert_identical(batch.observation, expected)


@pytest.mark.guarantee("views")
def test_views_are_views(make: Any) -> None:
    tasks = make(WideTask, max_steps=100)
    one = tasks.step_batch([0] * 4, copy=False)
    tasks.step_batch([0] * 4, copy=False)
    three = tasks.step_batch([0] * 4, copy=False)
    assert np.shares_memory(one.observation, three.observation)
    copied = tasks.step_batch([0] * 4)
    assert not np.shares_memory(copied.observation, one.observation)


@pytest.mark.guarantee("arrays-outlive")
@pytest.mark.parametrize("task_class", [CountingTask, WideTask])
def test_batches_outlive_the_vector(make: Any, task_class: Any) -> None:
    tasks = make(task_class, max_steps=100)
    batches = [tasks.step_batch([0] * 4), tasks.step_batch([0] * 4, copy=False)]
    tasks.close()
    assert [b.observation[:, 2].tolist() for b in batches] == [[1] * 4, [2] * 4]


# -- lockstep --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_class", [CountingTask, LargeTask])
def test_batches_in_lockstep(every_kind: Any, task_class: Any) -> None:
    vector = {"auto_resample_when_done": False}
    with every_kind.toys(task_class, max_steps=[1, 2, 3, 3], vector=vector) as tasks:
        batches = [tasks.step_batch([2] * 4) for _ in range(4)]
        with every_kind.toys(task_class, max_steps=[1, 2, 3, 3], vector=vector) as others:
            for batch in batches:
                results = others.step([2] * 4)
                assert_identical(
                    batch.observation,
                    stacked(task_class.space, [r.observation for r in results]),
                )
                rewards = np.array([r.reward for r in results], np.float32)
                assert_identical(batch.reward, rewards)
                assert_identical(batch.done, np.array([r.done for r in results]))
                assert_identical(batch.infos, [r.info for r in results])
        assert [b.done.tolist() for b in batches] == [
            [True, False, False, False],
            [True, True, False, False],
            [True] * 4,
            [True, False, False, False],
        ]
        assert [b.truncated.tolist() for b in batches] == [b.done.tolist() for b in batches]
        assert [info.get("waiting") for info in batches[1].infos] == [True, None, None, None]
        assert all(info["resampled"] for info in batches[2].infos)
        assert tasks.stats()["steps"] == 1 + 2 + 3 + 3 + 4


def test_lockstep_batches_until_exhausted(make: Any) -> None:
    tasks = make(
        count=3, max_steps=[1, 2, 2], num_tasks=[1, 2, 2], vector={"auto_resample_when_done": False}
    )
    tasks.step_batch([0] * 3)
    batch = tasks.step_batch([0] * 3)
    assert batch.exhausted.tolist() == [True, False, False]
    assert batch.observation.tolist() == [[0, 0, 0], [1, 1, 0], [2, 1, 0]]
    assert batch.infos[0]["final_observation"].tolist() == [0, 0, 1]
    with pytest.raises(SamplerUnavailable, match="EXHAUSTED"):
        tasks.step_batch([0] * 3)


@pytest.mark.parametrize("option", [{"out": True}, {"copy": False}])
def test_lockstep_batches_with_out_and_views(make: Any, option: dict[str, Any]) -> None:
    tasks = make(max_steps=[2, 3, 3, 3], vector={"auto_resample_when_done": False})
    others = make(max_steps=[2, 3, 3, 3], vector={"auto_resample_when_done": False})
    batch = tasks.step_batch([1] * 4)
    assert_identical(batch, others.step_batch([1] * 4))
    for _ in range(6):
        batch = tasks.step_batch([1] * 4, **({"out": batch} if "out" in option else option))
        assert_identical(batch, others.step_batch([1] * 4))


class DiscreteTask(CountingTask):
    """Observes a number, as a plain int."""

    space = spaces.Discrete(99)

    def get_observations(self) -> Any:
        return self.step_number


def test_what_mates_of_a_failed_step_gave_has_the_form_of_the_batch(every_lane: Any) -> None:
    make, args = with_faults(
        ToySampler, toy_args(DiscreteTask, 4, max_steps=9), [Fault(fail(), sampler=1, call=2)]
    )
    with every_lane.make(make, args) as tasks:
        tasks.step_batch([0] * 4)
        with pytest.raises(TaskError) as caught:
            tasks.step_batch([0] * 4)
        for i in (0, 2, 3):
            assert_identical(caught.value.results[i].observation, np.array(2))
