"""docs/reliability.md says what the tests hold: no row without a test, no fault without a row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from vectasks import errors
from vectasks.testing.faults import ACTIONS, CORRUPTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
COLUMNS = ["what happens", "fault", "you see", "what survives", "held by"]


def rows() -> list[dict[str, str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        dict(zip(COLUMNS, row, strict=True))
        for row in cells
        if row != COLUMNS and not set("".join(row)) <= {"-"}
    ]


def names_of_tests(pattern: str) -> set[str]:
    return {
        node.name
        for path in (ROOT / "tests").rglob(pattern)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


ROWS = rows()
TESTS = names_of_tests("test_*.py")


def test_every_table_is_read():
    assert len(ROWS) > 30
    assert PAGE.count("| " + " | ".join(COLUMNS) + " |") == len(re.findall(r"\|---", PAGE)) / 5


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["what happens"][:40])
def test_every_row_is_held_by_tests_that_exist(row):
    named = re.findall(r"`(test_\w+)`", row["held by"])
    assert named, "this row names no test"
    assert set(named) <= TESTS, f"there are no tests {sorted(set(named) - TESTS)}"
    assert re.sub(r"`test_\w+`(, )?", "", row["held by"]) == ""
    for word in re.findall(r"`(\w*(?:Error|Died|Timeout))`", row["you see"]):
        assert hasattr(errors, word) or word == "MemoryError", f"there is no error {word}"


def test_every_fault_has_a_row():
    told = " ".join(row["fault"] for row in ROWS)
    calls = set(re.findall(r"\b(\w+)\(", told))
    arguments = set(re.findall(r"\bcorrupt\((\w+)\)", told))
    assert calls == {action.__name__ for action in ACTIONS}
    assert arguments == {change.__name__ for change in CORRUPTIONS}


@pytest.mark.parametrize("module", ["test_deaths", "test_task_errors"])
def test_every_test_of_faults_holds_a_row(module):
    names = names_of_tests(f"{module}.py")
    held = set(re.findall(r"`(test_\w+)`", PAGE))
    assert names
    assert names <= held, f"no row speaks of {sorted(names - held)}"
