"""docs/guarantees.md: no promise without a test that exists."""

from __future__ import annotations

import pytest
from held_tables import HELD_BY, assert_held, read_page, rows

ROWS = rows(read_page("guarantees.md"), ["id", "promise", HELD_BY])


def test_every_table_is_read():
    assert len(ROWS) > 25


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_every_promise_is_held_by_tests_that_exist(row):
    assert_held(row)
