"""``vectasks jobs``, and what is shown while an experiment waits."""

from __future__ import annotations

import io
import os
import signal

import pytest
from failing import failing
from toy_jobs import After, Fail, Held, Say

from vectasks.cli.main import main
from vectasks.experiment import Job, JobState, experiment, records, tag, view


@pytest.fixture
def jobs(tmp_path, monkeypatch, capsys):
    """Runs the command; gives its exit code and what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*options: str) -> tuple[int, str]:
        code = main(["jobs", str(tmp_path / "work"), *options])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture
def some_jobs(tmp_path):
    with failing(), experiment(tmp_path / "work", "mixed"):
        say = Say(word=tag("hello")).submit()
        fail = Fail(x=1).submit()
        after = After(tasks=[fail]).submit()
    return say.job, fail.job, after.job


def test_jobs_are_listed_with_states_times_and_tags(jobs, some_jobs):
    code, told = jobs()
    assert code == 0
    lines = {line.split()[0]: line for line in told.splitlines()}
    say, fail, after = (lines[str(job)] for job in some_jobs)
    assert say.split()[1] == "done"
    assert "word=hello" in say
    assert " mixed " in say
    assert " s " in say
    assert "failed" in fail
    assert "RuntimeError: x is 1" in fail
    assert f"{some_jobs[1]} failed" in after


def test_only_failed_ones_are_listed(jobs, some_jobs):
    _, told = jobs("--failed")
    assert str(some_jobs[0]) not in told
    assert str(some_jobs[1]) in told
    assert str(some_jobs[2]) in told


def test_a_log_is_shown(jobs, some_jobs):
    for name in (some_jobs[1].identifier[:10], f"toy_jobs.Fail/{some_jobs[1].identifier}"):
        code, told = jobs("--log", name)
        assert code == 0
        assert "\nbefore\n" in told
        assert "RuntimeError: x is 1\n" in told
    assert jobs("--log", "zz") == (2, "vectasks: --log zz: there is no such job\n")
    code, told = jobs("--log", "toy_jobs")
    assert code == 2
    assert all(job.identifier in told for job in some_jobs)


def test_cleaning_removes_failed_and_cancelled_jobs(jobs, some_jobs):
    code, told = jobs("--clean")
    assert code == 0
    assert told.startswith("removed 2 jobs\n")
    say, fail, after = some_jobs
    assert say.path.exists()
    assert not fail.path.exists()
    assert not after.path.exists()
    assert jobs("--clean") == (0, "removed 0 jobs\n")


def test_a_folder_of_none_is_told(jobs, tmp_path):
    code, told = jobs()
    assert code == 2
    assert told == (
        f"vectasks: {tmp_path / 'work'} is no workdir of an experiment: it has no folder jobs.\n"
    )


def test_a_running_job_is_told_from_one_that_died(jobs, meeting, start_script, tmp_path):
    begun, go = meeting("begun"), meeting("go")
    script = start_script(
        "from toy_jobs import *\n"
        "from vectasks.experiment import experiment\n"
        'with experiment("work", "mine"):\n'
        '    Held(begun="begun_", go="go_").submit()\n'.replace("begun_", str(begun)).replace(
            "go_", str(go)
        )
    )
    pid = int(begun.read_text())
    assert jobs()[1].splitlines()[-1].split()[1] == "running"
    script.kill()
    script.wait()
    assert f"its experiment has ended, process {pid} goes on" in jobs()[1]
    assert jobs("--clean")[1].startswith("removed 0")
    job = Job(tmp_path / "work", "toy_jobs.Held", Held(begun=begun, go=go).identifier)
    os.kill(pid, signal.SIGKILL)
    while job.is_locked():  # until the process is gone
        pass
    assert records.read_record(job).state is JobState.FAILED
    assert "its process ended without a word" in jobs("--failed")[1]


# -- while it runs ----------------------------------------------------------------------------


def test_progress_is_shown_when_it_is_wanted(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with experiment(tmp_path / "work", "shown", progress=True):
        Say(word=tag("hello")).submit()
    assert "shown  1 done" in capfd.readouterr().err
    with experiment(tmp_path / "work", "shown"):
        Say(word="quiet").submit()
    assert capfd.readouterr() == ("", "")


def test_progress_tells_states_and_what_runs(tmp_path):
    from rich.console import Console

    jobs = [Job(tmp_path, "toy.Task", f"{i:032}", {"seed": i}) for i in range(20)]
    for i, job in enumerate(jobs):
        job._state = list(JobState)[i % 3] if i < 6 else JobState.RUNNING
    console = Console(file=io.StringIO(), width=120)
    console.print(view._progress("sweep", jobs, {}))
    told = console.file.getvalue()
    assert "2 waiting" in told
    assert "16 running" in told
    assert "2 done" in told
    assert "seed=1" in told
    assert "and 4 more" in told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "-"), (0.25, "0.2 s"), (42.4, "42 s"), (187, "3:07"), (7200, "2:00:00")],
)
def test_durations_are_short(seconds, told):
    assert view.duration(seconds) == told
