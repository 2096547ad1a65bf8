"""The command line: what it makes, and how it refuses."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import vectasks
from vectasks.cli import main as cli

av = pytest.importorskip("av", reason="the record command needs the video extra")


def frames(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def record(out: Path, *options: str, env_id: str = "CartPole-v1") -> int:
    sizes = ["--samplers", "3", "--steps", "12", "--seed", "4"]
    return cli.main(["record", env_id, *sizes, "--out", str(out), *options])


@pytest.fixture
def no_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting samplers fails the test: the mistake is to be found before."""

    def refuse(*args: Any) -> None:
        raise AssertionError("samplers were started")

    monkeypatch.setattr(cli, "_start_samplers", refuse)


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory to work in, with a module of policies."""
    (tmp_path / "some_policies.py").write_text(
        "number = 3\n"
        "def left(observations, action_spaces):\n"
        "    assert len(observations) == len(action_spaces) == 3\n"
        "    assert observations[0].shape == (4,)\n"
        "    return [0] * len(observations)\n"
        "def failing(observations, action_spaces): raise KeyError('weights')\n"
        "def too_few(observations, action_spaces): return [0]\n"
        "def nothing(observations, action_spaces): return None\n"
        "def outside(observations, action_spaces): return [7] * len(observations)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "some_policies", raising=False)


def assert_refused(
    code: int, capsys: pytest.CaptureFixture[str], expected: str, nothing_in: Path
) -> None:
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("vectasks: ")
    assert err.count("\n") == 1
    assert expected in err
    assert [path.name for path in nothing_in.rglob("*film*")] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"vectasks {vectasks.__version__}\n"


def test_record_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rollout.mp4"
    assert record(out, "--processes", "0") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: ")
    assert "36 steps" in said
    assert "seed 4" in said
    assert len(frames(out)) >= 12
    assert list(tmp_path.iterdir()) == [out]


def test_the_same_seed_gives_the_same_frames_for_any_number_of_processes(tmp_path: Path) -> None:
    films = []
    for processes in ("0", "1", "2"):
        out = tmp_path / f"{processes}.mp4"
        assert record(out, "--processes", processes, "--steps", "40") == 0
        films.append(np.stack(frames(out)))
    np.testing.assert_array_equal(films[0], films[1])
    np.testing.assert_array_equal(films[0], films[2])
    other = tmp_path / "other.mp4"
    assert record(other, "--processes", "0", "--steps", "40", "--seed", "5") == 0
    assert not np.array_equal(films[0], np.stack(frames(other)))


def test_gif_and_captions(tmp_path: Path) -> None:
    out = tmp_path / "rollout.gif"
    assert record(out, "--processes", "0", "--captions", "--fps", "10") == 0
    assert out.read_bytes()[:3] == b"GIF"


@pytest.mark.usefixtures("policies")
def test_a_policy_of_the_current_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = record(Path("left.mp4"), "--processes", "0", "--policy", "some_policies:left")
    assert code == 0, capsys.readouterr().err
    assert "mean return" in capsys.readouterr().out


@pytest.mark.usefixtures("policies")
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("failing", "the policy raised KeyError: 'weights' (some_policies.py:6)"),
        ("too_few", "1"),
        ("nothing", "actions is None"),
        ("outside", "7"),
    ],
)
def test_a_policy_that_fails_leaves_no_video(
    policy: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = record(Path("film.mp4"), "--processes", "0", "--policy", f"some_policies:{policy}")
    assert_refused(code, capsys, expected, tmp_path)


@pytest.mark.usefixtures("policies")
def test_a_failed_run_keeps_the_older_video(tmp_path: Path) -> None:
    out = tmp_path / "film.mp4"
    out.write_bytes(b"an older one")
    assert record(out, "--processes", "0", "--policy", "some_policies:outside") == 2
    assert out.read_bytes() == b"an older one"


@pytest.mark.usefixtures("policies", "no_samplers")
@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("some_policies", "must be MODULE:FUNCTION"),
        ("no_such_module:left", "No module named 'no_such_module'"),
        ("some_policies:right", "some_policies has no right (it has left, failing"),
        ("some_policies:number", "it is a int, and cannot be called"),
    ],
)
def test_a_policy_that_cannot_be_used(
    policy: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(record(Path("film.mp4"), "--policy", policy), capsys, expected, tmp_path)


@pytest.mark.usefixtures("no_samplers")
@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("CartPol-v1", "Did you mean: `CartPole`?"),
        ("CartPole-v99", "CartPole"),
        ("no_such_module:CartPole-v1", "No module named 'no_such_module'"),
        ("not an id", "not an id"),
        ("Blackjack-v1x", "Blackjack"),
    ],
)
def test_an_unknown_environment(
    env_id: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(record(tmp_path / "film.mp4", env_id=env_id), capsys, expected, tmp_path)


@pytest.mark.usefixtures("no_samplers")
@pytest.mark.parametrize(
    ("module", "env_id", "extra"),
    [
        ("minigrid", "MiniGrid-DoorKey-8x8-v0", "minigrid"),
        ("minigrid", "BabyAI-GoToRedBall-v0", "minigrid"),
        ("ale_py", "ALE/Breakout-v5", "atari"),
        ("ale_py", "PongNoFrameskip-v4", "atari"),
        ("av", "CartPole-v1", "video"),
    ],
)
def test_a_missing_extra(
    module: str,
    env_id: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code = record(tmp_path / "film.mp4", env_id=env_id)
    assert_refused(code, capsys, f'pip install "vectasks[{extra}]"', tmp_path)


@pytest.mark.usefixtures("no_samplers")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("film.txt", "must end in .mp4 or .gif"),
        ("film", "must end in .mp4 or .gif"),
        ("missing/film.mp4", "No such file or directory"),
        ("file/film.mp4", "Not a directory"),
        ("folder.mp4", "a directory has this name"),
    ],
)
def test_an_output_that_cannot_be_written(
    name: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.mp4").mkdir()
    assert_refused(record(tmp_path / name), capsys, expected, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mp4"]


@pytest.mark.usefixtures("no_samplers")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--samplers", "0"], "argument --samplers: must be a whole number of at least 1, got '0'"),
        (["--steps", "many"], "argument --steps: must be a whole number of at least 1, got 'many'"),
        (["--processes", "-1"], "argument --processes"),
        (["--seed", "-1"], "argument --seed"),
        (["--fps", "0"], "argument --fps"),
        (["--colour"], "--colour"),
    ],
)
def test_bad_options(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(record(tmp_path / "film.mp4", *options), capsys, expected, tmp_path)


def test_no_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(cli.main([]), capsys, "Missing command (see vectasks --help)", tmp_path)


def test_an_unknown_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(cli.main(["recrod"]), capsys, "No such command 'recrod'", tmp_path)


@pytest.mark.parametrize("command", [None, *cli.commands.commands])
def test_help_has_an_example(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    name = ["vectasks"] if command is None else ["vectasks", command]
    assert cli.main([*name[1:], "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"Usage: {' '.join(name)} ")
    assert re.search(rf"^  Examples?:\n    {' '.join(name)}\b", out, re.MULTILINE)


@pytest.mark.parametrize("processes", ["0", "2"])
def test_ctrl_c_finishes_the_video(processes: str, tmp_path: Path) -> None:
    out = tmp_path / "film.mp4"
    command = [sys.executable, "-m", "vectasks", "record", "CartPole-v1", "--out", str(out)]
    command += ["--samplers", "2", "--steps", "1000000", "--processes", processes]
    # A session of its own, and a signal to all of it: what a terminal does on Ctrl-C.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
        said, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert said.startswith(f"{out}: ")
    assert len(frames(out)) > 1
    assert list(tmp_path.iterdir()) == [out]


# -- demo ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo_trains_evaluates_and_films(tmp_path, capsys):
    pytest.importorskip("torch")
    out = tmp_path / "demo.mp4"
    assert cli.main(["demo", "--steps", "512", "--out", str(out)]) == 0
    trained, filmed = capsys.readouterr().out.splitlines()
    assert trained.startswith("CartPole-v1: stopped after 512 steps in ")
    low, high = map(
        int, re.search(r"demo.mp4: 16 episodes, return (\d+) to (\d+)", filmed).groups()
    )
    assert 8 <= low <= high <= 500
    assert len(frames(out)) == high + 1  # until the last of them ended
    assert [path.name for path in tmp_path.iterdir()] == ["demo.mp4"]


def test_demo_stops_when_it_is_solved(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    from vectasks.cli import demo

    monkeypatch.setattr(demo, "GOAL", 12.0)
    monkeypatch.setattr(demo, "evaluate", lambda *args: [1.0, 3.0])
    monkeypatch.setattr(cli, "whole_or_nothing", contextlib.nullcontext)
    assert cli.main(["demo", "--out", str(tmp_path / "demo.gif")]) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"solved after \d+ steps in .*, mean return of the last episodes: \d+\.\d", told
    )
    assert "2 episodes, return 1 to 3, mean 2.0" in told


def test_demo_refuses_before_it_trains(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    assert cli.main(["demo", "--out", str(tmp_path / "demo.avi")]) == 2
    assert "must end in .mp4 or .gif" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["demo", "--out", str(tmp_path / "demo.mp4")]) == 2
    assert 'pip install "vectasks[torch]"' in capsys.readouterr().err
