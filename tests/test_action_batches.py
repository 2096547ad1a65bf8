"""Actions that are looked at all together, and those that are left to be looked at one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete

from vectasks.spaces import action_batches


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "actions",
    [[2, 0, 1], (2, 0, 1), *(np.array([2, 0, 1], kind) for kind in ("i8", ">i8", "u1", "i4"))],
)
def test_integers_are_taken_together(actions: Any, check: bool) -> None:
    array = action_batches(Discrete(3), check).array(actions, 3)
    assert array is not None
    assert array.dtype == np.int64
    assert array.tolist() == [2, 0, 1]
    assert array is not actions


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "actions",
    [
        [2, 0],
        [[2], [0], [1]],
        np.zeros((3, 1), np.int64),
        np.zeros((3, 0), np.int64),
        np.int64(2),
        np.array([2.0, 0.0, 1.0]),
        np.array([True, False, True]),
        np.array([2, 0, None], object),
        np.array([2, 0, 1], object),
        [2, 0, "1"],
        [2, [0], 1],
        None,
    ],
)
def test_all_else_is_not(actions: Any, check: bool) -> None:
    assert action_batches(Discrete(3), check).array(actions, 3) is None


@pytest.mark.parametrize("actions", [[3, 0, 1], [0, -1, 0]])
def test_integers_outside_the_space_are_taken_if_nobody_checks(actions: list[int]) -> None:
    assert action_batches(Discrete(3), True).array(actions, 3) is None
    assert taken(Discrete(3), False, actions) == actions
    assert taken(Discrete(3, start=-1), True, [-1, 0, 1]) == [-1, 0, 1]


def taken(space: Discrete, check: bool, actions: Any) -> Any:
    array = action_batches(space, check).array(actions, 3)
    return None if array is None else array.tolist()
