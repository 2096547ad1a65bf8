"""Tables in the documentation whose last column, "held by", names tests."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELD_BY = "held by"


def read_page(name: str) -> str:
    """A page of the documentation."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows(page: str, columns: list[str]) -> list[dict[str, str]]:
    """The rows of all tables, by column; each table has these columns."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        dict(zip(columns, row, strict=True))
        for row in cells
        if row != columns and not set("".join(row)) <= {"-"}
    ]


@functools.cache
def names_of_tests(pattern: str = "test_*.py") -> set[str]:
    """The names of the tests in files of this pattern."""
    return {
        node.name
        for path in (ROOT / "tests").rglob(pattern)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def assert_held(row: dict[str, str]) -> None:
    """The row names tests, nothing else, and all of them exist."""
    named = re.findall(r"`(test_\w+)`", row[HELD_BY])
    assert named, "this row names no test"
    assert re.sub(r"`test_\w+`(, )?", "", row[HELD_BY]) == ""
    assert set(named) <= (tests := names_of_tests()), f"there are no {sorted(set(named) - tests)}"
