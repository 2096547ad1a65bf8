"""The first hour: every command, file and change of docs/first-hour.md, in turn."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(console|python|diff)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
INSTALLS = ("python3 -m venv", "source ")


def _change(diff: str, folder: Path) -> None:
    """Make a change in the one file that has what it takes away."""
    old, new = ("".join(re.findall(rf"^[{sign}](.*\n)", diff, re.MULTILINE)) for sign in ("-", "+"))
    assert old
    assert new
    changed = [path for path in folder.glob("*.py") if old in path.read_text("utf-8")]
    assert len(changed) == 1, f"{old!r} is in {changed}"
    changed[0].write_text(changed[0].read_text("utf-8").replace(old, new), "utf-8")


def _commands(session: str) -> list[tuple[str, str]]:
    """Each command of a console block and what the page shows of its output."""
    command, *rest = re.split(r"^\$ (.*)\n", session, flags=re.MULTILINE)
    assert not command, "a console block begins with a command"
    return list(zip(rest[::2], rest[1::2], strict=True))


def _run(command: str, shown: str, folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    told = done.stdout + done.stderr
    exit_code = re.search(r"^\(exit code (\d)\)$", shown, re.MULTILINE)
    assert done.returncode == (int(exit_code[1]) if exit_code else 0), told
    for line in shown.splitlines():
        if line.strip() != "..." and not line.startswith("(exit code") and "File" not in line:
            assert _without_numbers(line) in _without_numbers(told), told


def _without_numbers(text: str) -> str:
    """Times, rates and steps differ; dashes are as wide as a table of numbers is."""
    return re.sub(r"[ -]*(?:\d[\d,.]*[ %]*)+[ -]*|-{3,}| {3,}", "#", text)


@pytest.mark.slow
def test_the_first_hour(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3", reason="the page trains with it")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for kind, block in BLOCKS:
        if kind == "diff":
            _change(block, tmp_path)
        elif kind == "python":
            (tmp_path / block.split()[1]).write_text(block, encoding="utf-8")
        else:
            for command, shown in _commands(block):
                if not command.startswith(INSTALLS):
                    _run(command, shown, tmp_path)
