"""Actions as a task receives them: the same in nested spaces as in flat ones, on every worker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from gymnasium import spaces

from tests.contract.kinds_of_worker import IN_PROCESS
from vectasks import InvalidAction
from vectasks.spaces import action_batches, prepare_action
from vectasks.testing import assert_identical
from vectasks.testing.toys import ToyTask

PARTS = {
    "choice": spaces.Discrete(4, start=1),
    "force": spaces.Box(-1, 1, (2,), np.float32),
    "level": spaces.Box(0, 255, (1,), np.uint8),
    "pair": spaces.MultiDiscrete([3, 4], dtype=np.int32),
    "keys": spaces.MultiBinary(2),
}
RECEIVED = {
    "choice": 2,
    "force": np.array([0.5, 1.0], np.float32),
    "level": np.array([254], np.uint8),
    "pair": np.array([2, 3], np.int32),
    "keys": np.array([1, 0], np.int8),
}
GIVEN = {
    "choice": [2, 2.0, [2], np.float64(2), np.int8(2), np.array([[2]]), np.array(2)],
    "force": [[0.5, 1], (0.5, 1.0), np.array([0.5, 1.0]), np.array([0.5, 1.0], np.float16)],
    "level": [[254], [254.0], np.array([254]), np.array([254], np.uint8)],
    "pair": [[2, 3], (2.0, 3.0), np.array([2, 3]), np.array([2, 3], np.uint8)],
    "keys": [[1, 0], [True, False], np.array([1.0, 0.0]), np.array([1, 0])],
}
EACH = [(name, given) for name, many in GIVEN.items() for given in many]
OUTSIDE = [
    ("choice", 2.5),
    ("choice", [2, 2]),
    ("choice", 5),
    ("choice", "2"),
    ("choice", np.nan),
    ("choice", np.inf),
    ("force", [0.5, 2.0]),
    ("force", [0.5]),
    ("level", [510]),  # 254 in a byte
    ("level", [-2]),
    ("level", [1.5]),
    ("level", [np.nan]),
    ("pair", [2, 4]),
    ("pair", [2, 2**32]),
    ("pair", None),
    ("keys", [2, 0]),
    ("keys", [256, 0]),
]


class Two(NamedTuple):
    """A pair of actions."""

    first: Any
    second: Any


class ReceivingTask(ToyTask):
    """Tells what it received, in a nested space."""

    actions: ClassVar[Any] = spaces.Tuple((spaces.Dict(PARTS), spaces.Discrete(3)))

    def reward(self, action: Any) -> float:
        return 0.0

    def info(self) -> Any:
        return {"received": self.last_action}


@pytest.mark.parametrize(("name", "given"), EACH, ids=repr)
def test_nested_and_flat_actions_are_converted_alike(name: str, given: Any) -> None:
    space = PARTS[name]
    received = RECEIVED[name]
    assert_identical(prepare_action(space, given, 0, check=True), received)
    nested = spaces.Dict({"a": spaces.Tuple((space, spaces.Discrete(2)))})
    action = MappingProxyType({"a": [given, np.array([1])]})
    assert_identical(prepare_action(nested, action, 0, check=True), {"a": (received, 1)})
    batch = action_batches(space, True).array([given, given], 2)
    if batch is not None:
        assert_identical(batch, np.stack([received, received]))


@pytest.mark.parametrize(("name", "given"), OUTSIDE, ids=repr)
def test_what_is_outside(name: str, given: Any) -> None:
    for space, action in ((PARTS[name], given), (spaces.Tuple((PARTS[name],)), (given,))):
        with pytest.raises(InvalidAction, match="sampler 3"):
            prepare_action(space, action, 3, check=True)
    assert action_batches(PARTS[name], True).array([given, given], 2) is None


@pytest.mark.parametrize("given", [[510], [-2], [1.5], [np.nan]])
def test_integers_are_never_changed(given: Any) -> None:
    space = PARTS["level"]
    with pytest.raises(InvalidAction, match="uint8 can hold"):
        prepare_action(space, given, 0, check=False)
    assert action_batches(space, False).array([given], 1) is None


def test_what_tasks_receive(kind: Any) -> None:
    pytest.importorskip("torch")
    import torch

    first = {name: many[-1] for name, many in GIVEN.items()}
    second = OrderedDict((name, many[1]) for name, many in reversed(GIVEN.items()))
    third = {**first, "force": torch.tensor([0.5, 1.0]), "choice": torch.tensor([2])}
    with kind.toys(ReceivingTask, count=4, max_steps=9) as tasks:
        for step in (tasks.step, lambda a: [tasks.step_at(i, a[i])[0] for i in range(4)]):
            results = step([(first, 0), [second, 0.0], (OrderedDict(third), [0]), Two(first, 0)])
            for result in results:
                assert_identical(_sorted(result.info["received"][0]), _sorted(RECEIVED))
                assert type(result.info["received"][1]) is int
            kinds = [type(result.info["received"]) for result in results]
            assert kinds == [tuple, tuple, tuple, Two]
        columns = ({name: [many[0]] * 4 for name, many in GIVEN.items()}, np.zeros(4))
        for info in tasks.step_batch(columns).infos:
            assert_identical(_sorted(info["received"][0]), _sorted(RECEIVED))


def test_a_task_may_write_into_its_action() -> None:
    action = {name: many[-1] for name, many in GIVEN.items()}
    with IN_PROCESS.toys(ReceivingTask, count=1, max_steps=9) as tasks:
        (result,) = tasks.step([(action, 0)])
        (seen,) = tasks.attr("last_action")
        assert not any(np.shares_memory(seen[0][name], action[name]) for name in PARTS)
        assert result.info["received"][0]["force"].tolist() == [0.5, 1.0]


def _sorted(received: Mapping[str, Any]) -> dict[str, Any]:
    return {name: received[name] for name in sorted(received)}
