"""Writes which tests hold each guarantee: ``python docs/make_guarantees.py [--check]``.

The tables of ``docs/guarantees.md`` and ``docs/reliability.md`` have a row for each guarantee, with
its id in front. The last column is made from the tests: it names those that are marked with the id,
by ``@pytest.mark.guarantee("results-in-order")`` for instance. With ``--check`` it writes nothing
and exits with 1 where a column is out of date. It always does where no test holds a row, or where
a marker names no row.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs" / name for name in ("guarantees.md", "reliability.md")]
ROW = re.compile(r"^\| `([\w-]+)` (\|.*\|)[^|]*\|$", re.MULTILINE)
MARKER = "pytest.mark.guarantee"


def guarantees_of(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the ids that a test is marked with."""
    return [
        ast.literal_eval(argument)
        for decorator in test.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == MARKER
        for argument in decorator.args
    ]


def tests_by_guarantee() -> dict[str, list[str]]:
    """Return the names of the marked tests by id, in the order of files and lines."""
    held_by: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for guarantee in guarantees_of(node):
                    held_by.setdefault(guarantee, []).append(node.name)
    return held_by


def mistakes(pages: dict[Path, str], held_by: dict[str, list[str]]) -> list[str]:
    """Say which rows and markers have no counterpart, and which ids are no ids."""
    rows = Counter(match[1] for text in pages.values() for match in ROW.finditer(text))
    return [
        *(f"several rows have the id {row}" for row, count in rows.items() if count > 1),
        *(f"no test is marked with {row}" for row in rows if row not in held_by),
        *(
            f"there is no row {guarantee}, with which {tests[0]} is marked"
            for guarantee, tests in held_by.items()
            if guarantee not in rows
        ),
    ]


def with_tests(page: str, held_by: dict[str, list[str]]) -> str:
    """Write the last column of a page's tables."""

    def row(match: re.Match[str]) -> str:
        tests = ", ".join(f"`{name}`" for name in held_by[match[1]])
        return f"| `{match[1]}` {match[2]} {tests} |"

    return ROW.sub(row, page)


def main(arguments: list[str]) -> int:
    """Write the pages, or tell which are out of date."""
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    held_by = tests_by_guarantee()
    if wrong := mistakes(pages, held_by):
        print("\n".join(wrong))
        return 1
    stale = [path for path, text in pages.items() if text != with_tests(text, held_by)]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is out of date: run python docs/make_guarantees.py")
        else:
            path.write_text(with_tests(pages[path], held_by), encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
