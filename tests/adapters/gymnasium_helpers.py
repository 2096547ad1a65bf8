"""Helpers of the tests of Gymnasium's vector."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from space_env import SpaceEnv

BOX = spaces.Box(-1, 1, (3,), np.float32)
MODES = list(AutoresetMode)
OBJECT = np.dtype(object)


def make_env(space: Any = BOX, **kwargs: Any) -> Callable[[], SpaceEnv]:
    return lambda: SpaceEnv(copy.deepcopy(space), **kwargs)


def envs_of(space: Any = BOX, count: int = 3, **kwargs: Any) -> list[Callable[[], SpaceEnv]]:
    """Environments whose episodes end in different steps."""
    return [make_env(space, first_length=1 + i, **kwargs) for i in range(count)]


def assert_same(expected: Any, got: Any, where: str = "") -> None:
    """Equal in types, dtypes, shapes and values, whatever the nesting."""
    assert type(expected) is type(got), (where, expected, got)
    if isinstance(expected, dict):
        assert set(expected) == set(got), where
        for key, value in expected.items():
            assert_same(value, got[key], f"{where}[{key!r}]")
    elif isinstance(expected, (tuple, list)) or getattr(expected, "dtype", 0) is OBJECT:
        assert len(expected) == len(got), where
        for number, (one, other) in enumerate(zip(expected, got, strict=True)):
            assert_same(one, other, f"{where}[{number}]")
    elif isinstance(expected, np.ndarray):
        assert (expected.dtype, expected.shape) == (got.dtype, got.shape), where
        np.testing.assert_array_equal(expected, got, err_msg=where)
    else:
        assert expected == got, where
