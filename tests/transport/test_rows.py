"""Rows of the step buffer are written again only when nobody holds them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vectasks.transport.layout import NUM_ROWS, Layout
from vectasks.transport.row_pool import WORKING_ROW, Rows
from vectasks.transport.step_buffer import StepBuffer

SPACE = spaces.Dict({"a": spaces.Box(0, 9, (2, 3), np.float32), "words": spaces.Text(3)})
HANDED_OUT = list(range(1, NUM_ROWS))


@pytest.fixture
def rows() -> Rows:
    layout = Layout.of(SPACE, spaces.Discrete(2), SPACE.sample(), 4, 1)
    return Rows(StepBuffer(layout), shared=True)


def lend(rows: Rows, step: int, as_views: bool = False) -> Any:
    number = rows.next_free(step)
    leaves = rows.lend(number, step, as_views)
    assert leaves[1] is None  # words have no array
    return number, leaves[0]


@pytest.mark.guarantee("memory-reuse")
def test_a_row_that_is_let_go_is_the_next_again(rows: Rows) -> None:
    for step in range(5):
        number, array = lend(rows, step)
        assert number == 1
        assert array.shape == (4, 2, 3)
        del array


@pytest.mark.guarantee("memory-reuse")
def test_held_rows_are_left_alone_and_then_the_working_row_serves(rows: Rows) -> None:
    held = [lend(rows, step) for step in range(len(HANDED_OUT))]
    assert [number for number, _ in held] == HANDED_OUT
    assert rows.next_free(99) == WORKING_ROW
    number, _ = held.pop(1)
    del _
    assert rows.next_free(100) == number


@pytest.mark.guarantee("memory-reuse")
@pytest.mark.parametrize(
    "derive",
    [
        lambda array: array[1:],
        lambda array: array[0, 0],
        lambda array: array.reshape(-1)[2:],
        lambda array: array.T.view(),
        memoryview,
        lambda array: {"deep": [array[..., 0]]},
        np.asarray,
        lambda array: np.frombuffer(array, np.uint8),
    ],
)
def test_whatever_refers_to_a_row_holds_it(rows: Rows, derive: Any) -> None:
    number, array = lend(rows, 0)
    derived = derive(array)
    del array
    assert rows.next_free(1) != number
    del derived
    assert rows.next_free(2) == number


@pytest.mark.guarantee("memory-reuse")
def test_a_tensor_holds_its_row(rows: Rows) -> None:
    torch = pytest.importorskip("torch")
    number, array = lend(rows, 0)
    tensor = torch.from_numpy(array)[1]
    del array
    assert rows.next_free(1) != number
    del tensor
    assert rows.next_free(2) == number


def test_views_are_written_over_in_the_second_following_step(rows: Rows) -> None:
    number, views = lend(rows, 7, as_views=True)
    assert rows.next_free(8) != number
    assert rows.next_free(9) == number
    del views


@pytest.mark.guarantee("memory-reuse")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_what_is_held_when_a_process_forks_is_never_written_again(rows: Rows) -> None:
    number, array = lend(rows, 0)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    del array
    assert rows.next_free(1) not in (number, WORKING_ROW)
