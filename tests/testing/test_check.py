"""``vectasks check``: what it finds in good and bad samplers, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vectasks.cli import main as cli
from vectasks.testing.check import check_sampler

MODULE = '''
import os, threading
import numpy as np
from gymnasium import spaces
from vectasks import RLStepResult, Task, TaskSampler

class Walk(Task):
    """Counts to three; `flaw` says what is wrong with it."""

    action_space = spaces.Discrete(2)

    def __init__(self, flaw, rng):
        space = spaces.Box(0, 9, (2,), np.float32)
        super().__init__(None, max_steps=3, observation_space=space)
        self.flaw, self.rng = flaw, rng

    def get_observations(self):
        noise = self.rng.random() if self.flaw == "noise" else 0
        far = 100 if self.flaw == "outside" and self.num_steps_taken() == 2 else 0
        return np.array([self.num_steps_taken() + far, noise], np.float32)

    def _step(self, action):
        if self.flaw == "raises" and self.num_steps_taken() == 1:
            raise ZeroDivisionError("the second step")
        info = {"lock": threading.Lock()} if self.flaw == "lock" else {}
        reward = float(os.getpid()) if self.flaw == "pid" else 1.0
        return RLStepResult(self.get_observations(), reward, False, info)

    def render(self, mode="rgb"):
        if self.flaw == "unseen":
            return super().render(mode)
        return np.zeros((4, 4, 3), np.float32 if self.flaw == "image" else np.uint8)

class Walks(TaskSampler):
    def __init__(self, flaw=""):
        if flaw == "init":
            raise ValueError("no such scene")
        self.flaw, self.rng = flaw, np.random.default_rng()

    def next_task(self, **kwargs):
        return None if self.flaw == "empty" else Walk(self.flaw, self.rng)

    def close(self):
        if self.flaw == "close" and getattr(self, "closed", False):
            raise RuntimeError("closed already")
        self.closed = True

number = 3
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory to work in, with a module of samplers."""
    (tmp_path / "walks_to_check.py").write_text(MODULE)
    (tmp_path / "broken_to_check.py").write_text("import math\nmath.nothing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(entry for entry in sys.path if entry)])
    for name in ("walks_to_check", "broken_to_check"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def outcomes(flaw: str, **options: object) -> dict[str, tuple[str, str]]:
    from walks_to_check import Walks  # type: ignore[import-not-found]

    findings = check_sampler(Walks, {"flaw": flaw}, num_steps=12, **options)  # type: ignore[arg-type]
    return {finding.rule: (finding.outcome, finding.message) for finding in findings}


def broken(found: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {rule: message for rule, (outcome, message) in found.items() if outcome == "failed"}


def test_a_good_sampler_has_no_failure() -> None:
    found = outcomes("")
    assert not broken(found)
    assert len(found) >= 16
    assert found["A worker process gives what this process gives, and ends when it is closed."] == (
        "ok",
        "",
    )


@pytest.mark.parametrize(
    ("flaw", "rule", "message"),
    [
        ("outside", "Every observation", "observation of step 3 is not in"),
        ("noise", "The same seed and the same actions", "two runs with one seed"),
        ("image", "An image is uint8", "must give uint8, got float32"),
        ("close", "Tasks and samplers may be closed twice", "closed already"),
        ("raises", "A step gives", "ZeroDivisionError: the second step (walks_to_check.py:24"),
        ("lock", "make_sampler, its arguments", "the results of steps cannot be pickled"),
        ("pid", "A worker process gives", "a worker's"),
    ],
)
def test_each_flaw_is_found(flaw: str, rule: str, message: str) -> None:
    found = broken(outcomes(flaw))
    (told,) = [text for name, text in found.items() if name.startswith(rule)]
    assert message in told


@pytest.mark.parametrize(
    ("flaw", "message"), [("init", "ValueError: no such scene"), ("empty", "must have a task")]
)
def test_where_no_task_can_be_made_that_is_all_that_is_said(flaw: str, message: str) -> None:
    ((outcome, told),) = outcomes(flaw).values()
    assert outcome == "failed"
    assert message in told


def test_what_does_not_apply_is_skipped() -> None:
    image = "An image is uint8 [height_px, width_px, 3], grey [height_px, width_px] or RGBA."
    seeds = "The same seed and the same actions give the same results, to the last bit."
    last = "`last_sampled_task` is the one that `next_task` gave."
    assert outcomes("unseen")[image][0] == outcomes("")[last][0] == "skipped"
    assert outcomes("image", render_mode=None)[image][0] == "skipped"
    found = outcomes("noise", is_seeded=False)
    assert found[seeds][0] == "skipped"


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "walks_to_check:Walks", "--samplers", "3"]) == 0
    out = capsys.readouterr().out
    assert "walks_to_check:Walks with {}" in out
    assert out.count("  ok  ") >= 14
    assert "Speed, for 3 samplers" in out
    assert out.count("<- suggested") == 1
    assert "A step of one sampler takes" in out


def test_a_failure_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["check", "walks_to_check:Walks", "--args", '{"flaw": "image"}', "--no-speed"]
    assert cli.main(argv) == 1
    out = capsys.readouterr().out
    assert "  failed   An image is uint8" in out
    assert "got float32" in out
    assert "1 failed" in out
    assert "Speed" not in out
    assert cli.main([*argv, "--no-render"]) == 0


def test_the_report_without_rich(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["check", "walks_to_check:Walks", "--no-speed"]
    cli.main(argv)
    rich = capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.console", None)
    cli.main(argv)
    plain = capsys.readouterr().out

    def rules(report: str) -> list[str]:
        return [line[:50] for line in report.splitlines() if line.startswith("  ok")]

    assert rules(plain) == rules(rich) != []


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "MODULE:MAKE_SAMPLER"),
        (["walks_to_check"], "it must be MODULE:MAKE_SAMPLER"),
        ([":Walks"], "it must be MODULE:MAKE_SAMPLER"),
        (["no_such_module:make"], "cannot be imported: ModuleNotFoundError: No module named"),
        (["broken_to_check:make"], "broken_to_check.py:2"),
        (["walks_to_check:make"], "walks_to_check has no make (it has Walk, Walks)"),
        (["walks_to_check:number"], "it is a int, and cannot be called"),
        (["walks_to_check:Walks", "--args", "[1]"], "must be a JSON object"),
        (["walks_to_check:Walks", "--args", "{flaw: 1}"], "it is no JSON"),
        (["walks_to_check:Walks", "--samplers", "0"], "--samplers: must be"),
        (["walks_to_check:Walks", "--steps", "x"], "--steps"),
        (["walks_to_check:Walks", "--seed", "-1"], "--seed: must be a whole number of at least 0"),
    ],
)
def test_bad_use_is_one_line_and_exit_code_2(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vectasks: ")
    assert err.count("\n") == 1
    assert expected in err


def test_as_a_command_in_the_users_directory() -> None:
    """The module is found from where the command is typed, and its samplers run in a worker."""
    done = subprocess.run(
        [sys.executable, "-m", "vectasks", "check", "walks_to_check:Walks", "--no-speed"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
