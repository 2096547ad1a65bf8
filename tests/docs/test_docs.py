"""The documentation runs: the Python blocks of README.md and docs/, each page as one script."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from on_ray import run_on_ray

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SLOW = {
    "cleanrl_style.py",
    "ppo.py",
    "ray_ppo.py",
    "recurrent_ppo.py",
    "scale-out.md",
    "sb3_ppo.py",
    "sweep.py",
    "torchrl_ppo.py",
    "trainers.md",
}


def _script(page: Path) -> str:
    """The Python blocks of a page, on the lines they have there: tracebacks point into the page."""
    lines, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if re.match(r"```", line):
            inside = line.strip() == "```python"
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines) + "\n"


PAGES = [
    page
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    if _script(page).strip() and page.name != "first-hour.md"  # which has a test of its own
]


def _skip_without_libraries(script: Path) -> None:
    """Skip what is built on a library that is not installed here."""
    for name in ("ray", "stable_baselines3", "torch", "torchrl"):
        if re.search(rf"^(from|import) {name}\b", script.read_text("utf-8"), re.MULTILINE):
            pytest.importorskip(name, reason=f"the script needs {name}")


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _some_slowly(paths: list[Path]) -> list[Any]:
    """Those that train an agent or start Ray are left to the slow run."""
    return [
        pytest.param(path, marks=pytest.mark.slow) if path.name in SLOW else path for path in paths
    ]


@pytest.mark.parametrize("page", _some_slowly(PAGES), ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text(_script(page), encoding="utf-8")
    _skip_without_libraries(script)
    if 'backend="ray"' in script.read_text("utf-8"):
        pytest.importorskip("ray", reason="the page needs Ray")
        run_on_ray(script, tmp_path, tmp_path / "output", timeout_s=100)
    else:
        _run(script, cwd=tmp_path)


@pytest.mark.parametrize("example", _some_slowly(EXAMPLES), ids=lambda example: example.name)
def test_example_runs(example, tmp_path):
    _skip_without_libraries(example)
    takes_steps = '"--steps"' in example.read_text("utf-8")
    assert _run(example, *(["--steps", "1024"] if takes_steps else []), cwd=tmp_path)


def test_custom_task_keeps_the_contract(tmp_path):
    example = ROOT / "examples" / "custom_task.py"
    told = _run(
        "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path, example, cwd=tmp_path
    )
    assert "passed" in told


def test_table_of_methods_is_up_to_date(tmp_path):
    _run(ROOT / "docs" / "make_methods.py", "--check", cwd=tmp_path)


def test_the_tests_of_guarantees_are_up_to_date(tmp_path):
    _run(ROOT / "docs" / "make_guarantees.py", "--check", cwd=tmp_path)


def test_quick_start_is_fifteen_lines():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks[0].strip().splitlines()) <= 15
