"""Numbers that users pass: Python's or numpy's, and what is said of anything else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vectasks._util.checks import real_number, whole_number
from vectasks.errors import InvalidArgument


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint8(3), np.int64(3)])
def test_integers_of_python_and_numpy_are_whole_numbers(value):
    number = whole_number("count", value, at_least=1)
    assert (number, type(number)) == (3, int)


@pytest.mark.parametrize("value", [True, np.bool_(True), 3.0, np.float64(3), "3", None, 0, -1])
def test_anything_else_is_refused_by_name_value_and_type(value):
    with pytest.raises(InvalidArgument) as caught:
        whole_number("count", value, at_least=1)
    assert str(caught.value) == (
        f"count must be an integer of at least 1, got {value!r} ({type(value).__name__})."
    )


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2)])
def test_numbers_of_python_and_numpy_are_real_numbers(value):
    number = real_number("timeout_s", value)
    assert (number, type(number)) == (2.0, float)


@pytest.mark.parametrize("value", [True, "2", None, -1, math.nan, np.float32("nan"), math.inf])
def test_what_is_no_such_number_is_refused(value):
    with pytest.raises(InvalidArgument, match="timeout_s must be a number of at least 0, got"):
        real_number("timeout_s", value)


def test_zero_and_infinity_where_they_are_wished():
    assert real_number("timeout_s", math.inf, finite=False) == math.inf
    assert real_number("timeout_s", 0) == 0.0
    with pytest.raises(InvalidArgument, match="must be a number above 0, got 0 "):
        real_number("timeout_s", 0, positive=True)
