"""Observations in other containers than dict and tuple: any mapping for a Dict, any sequence."""

from __future__ import annotations

import warnings
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from batch_helpers import batch_by
from collect_helpers import Dice
from gymnasium import spaces

from tests.contract.kinds_of_worker import IN_PROCESS
from vectasks import LayoutError
from vectasks.rollouts import RolloutBuffer, collect
from vectasks.rollouts.episodes import EpisodeRunner
from vectasks.spaces import copy_arrays
from vectasks.task import RLStepResult
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.toys import ToySampler, ToyTask


class Pair(NamedTuple):
    """A sequence with names."""

    whole: Any
    parts: Any


class OwnDict(dict[str, Any]):
    """A dict of another class."""


class OwnMapping(Mapping[str, Any]):
    """A mapping that is no dict."""

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Frozen(dict[str, Any]):
    """A dict that nobody can fill."""

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("frozen")


def in_a_default(nest: Mapping[str, Any]) -> Any:
    return defaultdict(int, nest)


def with_more(nest: Mapping[str, Any]) -> Any:
    return {"before": "more", **nest, "after": object}


def turned_round(nest: Mapping[str, Any]) -> Any:
    return dict(reversed(nest.items()))


MAPPINGS = (
    dict,
    turned_round,
    OrderedDict,
    MappingProxyType,
    OwnDict,
    OwnMapping,
    UserDict,
    in_a_default,
    with_more,
)
SEQUENCES: tuple[Callable[[Any], Any], ...] = (tuple, list, Pair._make)


class ContainedTask(ToyTask):
    """Its observation is in the containers that its options name, and in one reused array."""

    space: ClassVar[Any] = spaces.Dict(
        {
            "counts": spaces.Box(0, 99, (3,), np.int32),
            "inner": spaces.Tuple((spaces.Discrete(99), spaces.Dict({"x": spaces.Discrete(9)}))),
        }
    )

    def get_observations(self) -> Any:
        self.env.buffer[:] = self.counts()
        mapping, sequence = self.options.mapping, self.options.sequence
        inner = sequence((self.step_number, mapping({"x": self.episode})))
        return mapping({"counts": self.env.buffer, "inner": inner})


class InPlaceTask(ContainedTask):
    """Writes its observations where it is told to."""

    def _step(self, action: Any) -> RLStepResult:
        return super()._step(action)._replace(observation=None)

    def write_observation(self, out: Any) -> None:
        seen = self.get_observations()
        out["counts"][...] = seen["counts"]
        out["inner"][0][...] = seen["inner"][0]
        out["inner"][1]["x"][...] = seen["inner"][1]["x"]


@pytest.fixture(params=MAPPINGS, ids=lambda made: made.__name__)
def mapping(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=SEQUENCES, ids=("tuple", "list", "NamedTuple"))
def sequence(request: pytest.FixtureRequest) -> Any:
    return request.param


def seen(sampler: int, episode: int, step: int, mapping: Any = dict, sequence: Any = tuple) -> Any:
    """Return what a task shows."""
    counts = np.array([sampler, episode, step], np.int32)
    return mapping({"counts": counts, "inner": sequence((step, mapping({"x": episode})))})


def check_steps(tasks: Any, mapping: Any, sequence: Any) -> None:
    """Two episodes of two steps, as lists and as batches."""
    made = {"mapping": mapping, "sequence": sequence}
    assert_identical(tasks.get_observations(), [seen(i, 0, 0, **made) for i in range(2)])
    assert_identical(
        [result.observation for result in tasks.step([0, 1])],
        [seen(i, 0, 1, **made) for i in range(2)],
    )
    kept = tasks.step([0, 1])
    for way in ("step_batch", "recv"):
        batch = batch_by(way, tasks, [0, 1])
        inner = batch.observation["inner"]
        assert set(batch.observation) == {"counts", "inner"}
        assert (type(batch.observation), type(inner), type(inner[1])) == (dict, tuple, dict)
        steps = 1 if way == "step_batch" else 0
        episode = 1 if way == "step_batch" else 2
        expected = [[i, episode, steps] for i in range(2)]
        assert_identical(batch.observation["counts"], np.array(expected, np.int32))
        assert_identical(inner[0], np.array([steps] * 2))
        assert_identical(inner[1]["x"], np.array([episode] * 2))
    # What an ended episode showed last stays as it was, whatever the task has written since.
    for results, episode in ((kept, 0), (batch, 1)):
        infos = results.infos if results is batch else [result.info for result in results]
        for i, info in enumerate(infos):
            assert_identical(info["final_observation"], seen(i, episode, 2, **made))
    for i, result in enumerate(kept):
        assert_identical(result.observation, seen(i, 1, 0, **made))


def test_any_mapping_and_any_sequence(kind: Any, mapping: Any) -> None:
    # Processes take a while to start, so they see each sequence with some mappings only.
    pairs = (
        SEQUENCES if kind.is_in_process else [SEQUENCES[MAPPINGS.index(mapping) % len(SEQUENCES)]]
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "observation left the shared memory", RuntimeWarning)
        for sequence in pairs:
            made = {"mapping": mapping, "sequence": sequence}
            with kind.toys(ContainedTask, count=2, max_steps=2, **made) as tasks:
                check_steps(tasks, **made)


def test_containers_on_every_lane(every_lane: Any) -> None:
    made = {"mapping": OrderedDict, "sequence": Pair._make}
    with every_lane.toys(ContainedTask, count=2, max_steps=2, **made) as tasks:
        check_steps(tasks, **made)


@pytest.mark.parametrize("transport", ["auto", "slab"])
def test_what_can_be_built_again_stays_in_shared_memory(
    processes: Any, sequence: Any, transport: str
) -> None:
    made = {"mapping": OrderedDict, "sequence": sequence, "vector": {}}
    made["vector"]["observation_transport"] = transport
    with (
        warnings.catch_warnings(),
        processes.toys(ContainedTask, count=2, max_steps=9, **made) as tasks,
    ):
        warnings.simplefilter("error")
        for step in range(1, 4):
            for i, result in enumerate(tasks.step([0, 0])):
                assert_identical(result.observation, seen(i, 0, step, OrderedDict, sequence))


def test_a_mapping_may_be_another_one_in_every_step(kind: Any) -> None:
    def either(nest: Mapping[str, Any]) -> Any:
        counts = nest.get("counts", [0, 0, 0])
        return OwnDict(nest) if counts[2] == 2 else OrderedDict(nest)

    made = {"mapping": either, "sequence": tuple}
    with (
        kind.toys(ContainedTask, count=2, max_steps=9, **made) as one,
        kind.toys(ContainedTask, count=2, max_steps=9, **made) as other,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "observation left the shared memory", RuntimeWarning)
        for step in range(1, 4):
            expected = OwnDict if step == 2 else OrderedDict
            for i, result in enumerate(one.step([0, 0])):
                assert type(result.observation) is expected
                assert result.observation["counts"].tolist() == [i, 0, step]
            assert other.step_batch([0, 0]).observation["counts"].tolist() == [
                [i, 0, step] for i in range(2)
            ]


@pytest.mark.parametrize("way", ["step", "step_batch"])
def test_tasks_that_write_in_place(kind: Any, sequence: Any, way: str) -> None:
    made = {"mapping": OrderedDict, "sequence": sequence, "max_steps": 3, "count": 2}
    with kind.toys(ContainedTask, **made) as usual, kind.toys(InPlaceTask, **made) as in_place:
        for _ in range(5):
            assert_identical(batch_by(way, usual, [0, 1]), batch_by(way, in_place, [0, 1]))


@pytest.mark.parametrize("mapping", [OrderedDict, MappingProxyType, with_more])
def test_rollouts(kind: Any, mapping: Any) -> None:
    rollouts = []
    for made in ({"mapping": dict, "sequence": tuple}, {"mapping": mapping, "sequence": list}):
        with kind.toys(ContainedTask, count=2, max_steps=3, **made) as tasks:
            buffer = RolloutBuffer(tasks, 5)
            collect(tasks, Dice(spaces.Discrete(4)), buffer)
            _, advantages = buffer.returns_and_advantages()
            rollouts.append((buffer.observations["counts"], buffer.observations["inner"]))
            rollouts[-1] += (buffer.rewards.copy(), advantages.copy())
    assert_identical(*rollouts)


def test_episodes_of_a_runner(mapping: Any, sequence: Any) -> None:
    def act(observation: Any) -> dict[str, Any]:
        assert observation["inner"][1]["x"].shape == (1,)
        return {"action": observation["inner"][0] % 4}

    (arguments,) = toy_args(ContainedTask, 1, max_steps=3, mapping=mapping, sequence=sequence)
    episode = EpisodeRunner(ToySampler, arguments, policy=act).run()
    assert episode.observations["counts"][:, 2].tolist() == [0, 1, 2, 3]
    assert_identical(episode.observations["inner"][0], np.arange(4))


def test_a_dict_that_nobody_can_fill() -> None:
    array = np.zeros(3)
    copy = copy_arrays(Frozen(array=array))
    array[:] = 1
    assert_identical(copy, {"array": np.zeros(3)})


class Broken(OwnMapping):
    """A mapping that raises what it likes."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    "odd",
    [
        lambda nest: Broken(nest),
        lambda nest: OwnMapping({key: nest[key] for key in list(nest)[1:]}),
        lambda nest: defaultdict(int),
        lambda nest: "counts, inner",
        lambda nest: list(nest),
        lambda nest: {**nest, "inner": "ab"},
        lambda nest: {**nest, "inner": [1]},
        lambda nest: {**nest, "inner": [1, 2, 3]},
        lambda nest: {**nest, "inner": {0: 1, 1: {"x": 1}}},
        lambda nest: {**nest, "inner": [1, 2]},
    ],
)
def test_what_is_nested_otherwise_fails_its_sampler_alone(odd: Any) -> None:
    def made(nest: Mapping[str, Any]) -> Any:
        return odd(nest) if tuple(nest.get("counts", ())) == (1, 0, 2) else nest

    made_of = {"mapping": made, "sequence": tuple}
    with IN_PROCESS.toys(ContainedTask, count=2, max_steps=9, **made_of) as tasks:
        tasks.step_batch([0, 0])
        with pytest.raises(LayoutError, match="sampler 1: the observation is not nested as its"):
            tasks.step_batch([0, 0])
        tasks.pause_at(1)
        assert tasks.step_batch([0]).observation["counts"].tolist() == [[0, 0, 3]]
