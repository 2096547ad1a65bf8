"""docs/reliability.md says what the tests hold: no row without a test, no fault without a row."""

from __future__ import annotations

import re

import pytest
from held_tables import HELD_BY, assert_held, names_of_tests, read_page, rows

from vectasks import errors
from vectasks.testing.faults import ACTIONS, CORRUPTIONS

PAGE = read_page("reliability.md")
COLUMNS = ["id", "what happens", "fault", "you see", "what survives", HELD_BY]
ROWS = rows(PAGE, COLUMNS)


def test_every_table_is_read():
    assert len(ROWS) > 30
    assert PAGE.count("| " + " | ".join(COLUMNS) + " |") == len(re.findall(r"\|---", PAGE)) / 6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_every_row_is_held_by_tests_that_exist(row):
    assert_held(row)
    for word in re.findall(r"`(\w*(?:Error|Died|Timeout))`", row["you see"]):
        assert hasattr(errors, word) or word == "MemoryError", f"there is no error {word}"


def test_every_fault_has_a_row():
    told = " ".join(row["fault"] for row in ROWS)
    calls = set(re.findall(r"\b(\w+)\(", told))
    arguments = set(re.findall(r"\bcorrupt\((\w+)\)", told))
    assert calls == {action.__name__ for action in ACTIONS}
    assert arguments == {change.__name__ for change in CORRUPTIONS}


@pytest.mark.parametrize("module", ["test_deaths", "test_worker_restarts", "test_task_errors"])
def test_every_test_of_faults_holds_a_row(module):
    names = names_of_tests(f"{module}.py")
    held = set(re.findall(r"`(test_\w+)`", PAGE))
    assert names
    assert names <= held, f"no row speaks of {sorted(names - held)}"
