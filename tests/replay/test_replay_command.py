"""``vectasks replay`` and the files it reads."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vectasks import RecordingError, SingleProcessVectorSampledTasks, TaskError
from vectasks.cli import main as cli
from vectasks.debug import Recordings, load, read_about
from vectasks.replay.recording import FORMAT_VERSION, RecordedFailure
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, FailingTask, ImageTask, RandomWalk, ToySampler


@pytest.fixture
def failure(tmp_path: Path) -> Path:
    """A file in which sampler 0 raises at its second step."""
    path = tmp_path / "failure.vt"
    with SingleProcessVectorSampledTasks(ToySampler, toy_args(FailingTask, 1)) as tasks:
        tasks.step([1])
        with pytest.raises(TaskError) as caught:
            tasks.step([3])
    caught.value.save(path)
    return path


def recorded(path: Path, task_class: Any, action: Any = 1, **options: Any) -> Path:
    """A file with two steps of an episode that nothing happened in."""
    arguments = toy_args(task_class, 1, max_steps=3, **options)
    with SingleProcessVectorSampledTasks(ToySampler, arguments) as tasks:
        tasks.step([action])
        tasks.step([action])
        tasks.recording_at(0).save(path)
    return path


def command(*arguments: Any, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vectasks", "replay", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


# -- what it shows -----------------------------------------------------------------------------


def test_a_failure_is_had_again(failure: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", str(failure)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{failure}: sampler 0: 2 steps, then ToyError in step: toy failed")
    assert "toys.py" in out
    assert "replay.py" not in out
    assert out.endswith("replayed 2 steps: it failed as recorded\n")


def test_the_debugger_stops_where_it_raised(failure: Path) -> None:
    done = command(failure, "--pdb", stdin="p self.last_action, self.counts()\nq\n")
    assert done.returncode == 0, done.stderr
    assert "-> raise ToyError(" in done.stdout
    assert "(Pdb) (3, (0, 0, 2))" in done.stdout


def test_the_debugger_at_a_terminal(failure: Path) -> None:
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vectasks", "replay", str(failure), "--pdb"],
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    os.write(ours, b"p 6 * self.last_action\nq\n")
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # how Linux tells the end of a terminal
        pass
    os.close(ours)
    assert process.wait(60) == 0
    assert b"18" in shown.split(b"(Pdb)")[1]


def test_an_episode_without_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path / "episode.vt", CountingTask)
    assert cli.main(["replay", str(path)]) == 0
    assert capsys.readouterr().out == (
        f"{path}: sampler 0: 2 steps\nreplayed 2 steps: as recorded\n"
    )


def test_the_debugger_stops_at_the_last_step_of_one(tmp_path: Path) -> None:
    path = recorded(tmp_path / "episode.vt", CountingTask)
    done = command(path, "--pdb", stdin="p action, self.step_number\nc\n")
    assert done.returncode == 0, done.stderr
    assert "(Pdb) (1, 1)" in done.stdout


def test_a_death_is_had_again_or_stopped_before(tmp_path: Path) -> None:
    arguments = toy_args(FailingTask, 2, how="exit", fail_sampler=1)
    with SingleProcessVectorSampledTasks(ToySampler, arguments) as tasks:
        tasks.step([0, 1])
        died = RecordedFailure("step", "WorkerDied", "worker 0 exited with code 7", died=True)
        recordings = Recordings({i: replace(tasks.recording_at(i), failure=died) for i in range(2)})
        for recording in recordings.values():  # the step that was the end of the worker
            recording.calls.append(recording.calls[0]._replace(data=2, reward=None, done=None))
        recordings.save(tmp_path / "death.vt")
    done = command(tmp_path / "death.vt")
    assert done.returncode == 7  # it took this process along, too
    assert "sampler 0: 2 steps, then in step: worker 0 exited with code 7" in done.stdout
    assert "sampler 1: 2 steps" in done.stdout
    one = command(tmp_path / "death.vt", "--sampler", 0)
    assert one.returncode == 1
    assert "it did not fail this time" in one.stdout
    stopped = command(tmp_path / "death.vt", "--sampler", 1, "--pdb", stdin="p action\nq\n")
    assert stopped.returncode == 0, stopped.stderr
    assert "(Pdb) 2" in stopped.stdout


def test_ctrl_c_opens_the_debugger_where_it_hangs(tmp_path: Path) -> None:
    replays, hangs = tmp_path / "replays", tmp_path / "hangs"

    def hang() -> None:
        hangs.touch()
        while True:  # not in a call into the kernel, before which Ctrl-C can be missed
            pass

    class HangingTask(CountingTask):
        def move(self, action: Any) -> None:
            if replays.exists() and self.step_number == 2:
                hang()

    path = recorded(tmp_path / "hang.vt", HangingTask)
    replays.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "vectasks", "replay", str(path), "--pdb"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("c\n")  # it stands before the last step
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while not hangs.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate("w\nq\n", timeout=30)
    assert process.returncode == 1
    assert "interrupted; where it was" in out
    assert "move()\n-> hang()" in out


def test_another_end_than_recorded(
    failure: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FailingTask, "_fail", lambda self, place: None)
    assert cli.main(["replay", str(failure)]) == 1
    assert "it did not fail this time (then: ToyError in step" in capsys.readouterr().out

    def fail(self: Any, place: str) -> None:
        raise KeyError("other")

    monkeypatch.setattr(FailingTask, "_fail", fail)
    assert cli.main(["replay", str(failure)]) == 1
    assert "KeyError: 'other'" in capsys.readouterr().out


def test_a_difference_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorded(tmp_path / "episode.vt", CountingTask)
    monkeypatch.setattr(CountingTask, "reward", lambda self, action: 9.0)
    assert cli.main(["replay", str(path)]) == 1
    assert "step 1 of episode 0: reward was 1.125 and is 9.0\n" in capsys.readouterr().out


def test_a_missing_seed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recorded(tmp_path / "episode.vt", RandomWalk, seed=None, action=[0.5, 0.5])
    assert cli.main(["replay", str(path)]) == 1
    assert "without a seed; make it with seed=" in capsys.readouterr().out


def test_info_executes_nothing(
    failure: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pickle.loads", None)
    assert cli.main(["replay", str(failure), "--info"]) == 0
    out = capsys.readouterr().out
    assert "written by vectasks" in out
    assert "sampler 0: 2 steps, then ToyError in step" in out


def test_the_last_episode_is_filmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av", reason="needs the video extra")
    options = {"height_px": 32, "width_px": 48, "channels": 3}
    arguments = toy_args(ImageTask, 1, max_steps=3, **options)
    with (
        SingleProcessVectorSampledTasks(ToySampler, arguments) as tasks,
        tasks.record_episodes() as recorder,
    ):
        for _ in range(6):
            tasks.step([1])
    recorder.recordings[1].save(tmp_path / "episode.vt")
    film = tmp_path / "film.mp4"
    assert cli.main(["replay", str(tmp_path / "episode.vt"), "--video", str(film)]) == 0
    assert capsys.readouterr().out.endswith(f"{film}: 4 frames\n")
    with av.open(str(film)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 4


# -- refusals ----------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert cli.main(["replay", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vectasks: ")
    assert err.count("\n") == 1
    return err


def rewritten(path: Path, **changes: Any) -> Path:
    """The recording, saying something else about itself."""
    with zipfile.ZipFile(path) as archive:
        about = json.loads(archive.read("about.json")) | changes
        payload = archive.read("recordings.pickle")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("about.json", json.dumps(about))
        archive.writestr("recordings.pickle", payload)
    return path


def test_files_that_are_none(
    failure: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "No such file" in refused(capsys, tmp_path / "missing.vt")
    text = tmp_path / "text.vt"
    text.write_text("hello")
    assert "no recording of vectasks" in refused(capsys, text)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("hello", "world")
    assert "a zip, but no recording" in refused(capsys, other)
    for size in (10, failure.stat().st_size // 2, failure.stat().st_size - 5):
        cut = tmp_path / "cut.vt"
        cut.write_bytes(failure.read_bytes()[:size])
        assert "cut short" in refused(capsys, cut)


def test_files_of_other_versions(failure: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "version 99 of the format" in refused(capsys, rewritten(failure, version=99))
    with pytest.raises(RecordingError, match="99"):
        read_about(failure)
    assert "Python 2.7" in refused(capsys, rewritten(failure, version=FORMAT_VERSION, python="2.7"))


def test_damage_inside_is_found(failure: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(failure.read_bytes())
    data[len(data) // 2] ^= 0xFF
    failure.write_bytes(data)
    assert "cut short" in refused(capsys, failure)


def test_what_cannot_be_imported_here_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "my_tasks_of_today.py"
    module.write_text("from vectasks.testing.toys import ToySampler\nclass Mine(ToySampler): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_tasks_of_today

    arguments = toy_args(CountingTask, 1)
    with SingleProcessVectorSampledTasks(my_tasks_of_today.Mine, arguments) as tasks:
        tasks.recording_at(0).save(tmp_path / "episode.vt")
    assert cli.main(["replay", str(tmp_path / "episode.vt")]) == 0
    capsys.readouterr()
    monkeypatch.undo()
    module.unlink()
    del sys.modules["my_tasks_of_today"]
    assert "my_tasks_of_today" in refused(capsys, tmp_path / "episode.vt")


def test_bad_options(failure: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds samplers 0" in refused(capsys, failure, "--sampler", 3)
    assert cli.main(["replay", str(failure), "--video", str(tmp_path / "film.avi")]) == 2
    assert "must end in .mp4 or .gif" in capsys.readouterr().err


def test_what_cannot_be_pickled_is_named(tmp_path: Path) -> None:
    arguments = toy_args(CountingTask, 1, lock=threading.Lock())
    with (
        SingleProcessVectorSampledTasks(ToySampler, arguments) as tasks,
        pytest.raises(RecordingError, match="cannot be pickled"),
    ):
        tasks.recording_at(0).save(tmp_path / "episode.vt")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_leaves_nothing(failure: Path, tmp_path: Path) -> None:
    (recording,) = load(failure).values()
    (tmp_path / "here").mkdir()
    with pytest.raises(IsADirectoryError):
        recording.save(tmp_path / "here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failure.vt", "here"]
