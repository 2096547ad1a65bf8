"""Several processes on one workdir, and those that are stopped or killed."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from failing import failing
from toy_jobs import Circle, Held, MoreNumbers, Numbers, SwallowsStop, Table, UseTable, count

from vectasks import InvalidArgument
from vectasks.experiment import Job, JobState, LocalLauncher, cache, experiment

SCRIPT = """
from pathlib import Path
from toy_jobs import *
from vectasks.experiment import LocalLauncher, experiment
here = Path({here!r})
with experiment(here / "work", "other", launcher=LocalLauncher(grace_s={grace_s})):
    {task}.submit(timeout_s={timeout_s})
"""


@pytest.fixture
def start_experiment(start_script, tmp_path):
    def start(task: str, grace_s: float = 10.0, timeout_s: float | None = None):
        source = SCRIPT.format(here=str(tmp_path), task=task, grace_s=grace_s, timeout_s=timeout_s)
        return start_script(source)

    return start


@pytest.fixture
def workdir_experiment(tmp_path):
    return lambda **options: experiment(tmp_path / "work", "mine", **options)


HELD = 'Held(begun=here / "begun", go=here / "go", executions=here / "n", cleaned=here / "cleaned")'


@pytest.fixture
def held(meeting, tmp_path):
    return Held(
        begun=meeting("begun"),
        go=meeting("go"),
        executions=tmp_path / "n",
        cleaned=tmp_path / "cleaned",
    )


def folder_of(task, workdir: Path) -> Job:
    return Job(workdir, f"toy_jobs.{type(task).__name__}", task.identifier)


@pytest.fixture
def lock_was_seen(monkeypatch):
    """Set when an experiment of this process finds a job that another process executes."""
    seen, is_locked = threading.Event(), Job.is_locked

    def watched(job: Job) -> bool:
        found = is_locked(job)
        if found:
            seen.set()
        return found

    monkeypatch.setattr(Job, "is_locked", watched)
    return seen


@pytest.mark.guarantee("shared-jobs")
@pytest.mark.parametrize("first_is", ["alive", "killed"])
def test_two_experiments_run_a_job_once(start_experiment, held, tmp_path, lock_was_seen, first_is):
    first = start_experiment(HELD)
    held.begun.read_text()
    with experiment(tmp_path / "work", "mine"):
        held.submit()
        assert lock_was_seen.wait(30)
        if first_is == "killed":
            first.kill()
            first.wait()
        held.go.write_text("go")
    assert held.job.state is JobState.DONE
    assert held.job.status().experiment == "other"
    assert count(tmp_path / "n") == 1
    assert first.wait(30) == (0 if first_is == "alive" else -signal.SIGKILL)


@pytest.mark.guarantee("shared-jobs")
def test_an_experiment_takes_on_the_failure_that_it_waited_for(
    start_experiment, held, tmp_path, lock_was_seen
):
    first = start_experiment(HELD)
    held.begun.read_text()
    with failing("RuntimeError: told to fail"), experiment(tmp_path / "work", "mine"):
        held.submit(max_retries=0)
        assert lock_was_seen.wait(30)
        held.go.write_text("fail")
    assert first.wait(30) == 1
    assert count(tmp_path / "n") == 1


def test_a_job_that_died_with_its_experiment_is_run_again(start_experiment, held, tmp_path):
    first = start_experiment(HELD)
    pid = int(held.begun.read_text())
    first.kill()
    first.wait()
    os.kill(pid, signal.SIGKILL)
    with experiment(tmp_path / "work", "mine"):
        held.submit()
        held.begun.read_text()
        held.go.write_text("go")
    assert held.job.state is JobState.DONE
    assert count(tmp_path / "n") == 2


@pytest.mark.guarantee("job-time-limit")
def test_a_job_whose_experiment_is_gone_keeps_its_time_limit(start_experiment, held, tmp_path):
    first = start_experiment(HELD, timeout_s=1.0)
    held.begun.read_text()
    first.kill()
    first.wait()
    job = folder_of(held, tmp_path / "work")
    with job_unlocked(job):
        assert job.status().reason == "timed out after 1 s"
    assert (tmp_path / "cleaned").exists()


class job_unlocked:
    """Waits until no process executes a job."""

    def __init__(self, job: Job) -> None:
        import filelock

        self._lock = filelock.FileLock(job.lock_path, timeout=30)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.guarantee("stopped-jobs")
@pytest.mark.parametrize(
    ("signum", "exit_code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -signal.SIGINT)],
)
def test_signals_cancel_and_let_clean_up(start_experiment, held, tmp_path, signum, exit_code):
    script = start_experiment(HELD)
    held.begun.read_text()
    script.send_signal(signum)
    assert script.wait(30) == exit_code
    status = folder_of(held, tmp_path / "work").status()
    assert (status.state, status.reason) == (JobState.CANCELLED, "stopped by SIGTERM")
    assert (tmp_path / "cleaned").read_text() == "cleaned up"


@pytest.mark.guarantee("stopped-jobs")
def test_a_job_that_hides_that_it_was_stopped_is_not_done(start_experiment, meeting, tmp_path):
    begun = meeting("begun")
    script = start_experiment('SwallowsStop(begun=here / "begun")')
    begun.read_text()
    script.terminate()
    assert script.wait(30) == 143
    task = SwallowsStop(begun=begun)
    assert folder_of(task, tmp_path / "work").status().state is JobState.CANCELLED


@pytest.mark.guarantee("stopped-jobs")
def test_a_job_that_does_not_stop_is_killed(start_experiment, meeting, tmp_path):
    meeting("begun")
    source = (
        "class Deaf(Held):\n"
        "        def execute(self):\n"
        "            import signal\n"
        "            signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "            super().execute()\n"
        '    Deaf(begun=here / "begun", go=here / "go")'
    )
    meeting("go")
    script = start_experiment(source, grace_s=0.3)
    (tmp_path / "begun").read_text()
    script.terminate()
    assert script.wait(30) == 143
    jobs = (tmp_path / "work" / "jobs").glob("script.Deaf/*")
    (folder,) = [path for path in jobs if path.is_dir()]
    status = Job(tmp_path / "work", "script.Deaf", folder.name).status()
    assert status.state is JobState.CANCELLED
    assert status.reason == "was killed by SIGKILL"


def test_a_second_interrupt_does_not_wait(workdir_experiment, held, monkeypatch):
    # The first one asks the job to end; it does not hear, and there is a second one.
    monkeypatch.setattr(
        "vectasks.experiment.launchers._LocalExecution.cancel",
        lambda self: os.kill(os.getpid(), signal.SIGINT),
    )
    with (
        failing(error=KeyboardInterrupt),
        workdir_experiment(launcher=LocalLauncher(grace_s=60.0)),
    ):
        held.submit()
        held.begun.read_text()
        raise KeyboardInterrupt
    assert held.job.state is JobState.CANCELLED
    assert held.job.reason == "was killed by SIGKILL"


# -- caches -----------------------------------------------------------------------------------


@pytest.mark.guarantee("cached-files")
def test_the_second_call_hits(tmp_path, workdir_experiment):
    table = Table(name="x", made=tmp_path / "made")
    with workdir_experiment():
        assert table.text() == table.text() == "table of x"
        assert Table(name="x", made=tmp_path / "made").text() == "table of x"
        assert count(tmp_path / "made") == 1
        assert Table(name="y", made=tmp_path / "made").text() == "table of y"
    with workdir_experiment():
        assert table.text() == "table of x"
    assert count(tmp_path / "made") == 2
    (path,) = (tmp_path / "work" / "cache").glob(f"toy_jobs.Table/{table.identifier}/table.txt")
    assert path.read_text() == "table of x"


@pytest.mark.guarantee("cached-files")
def test_of_two_processes_at_once_one_makes_it(tmp_path, workdir_experiment, meeting):
    begun, go = [meeting(f"begun{i}") for i in (0, 1)], [meeting(f"go{i}") for i in (0, 1)]
    with workdir_experiment(max_jobs=2):
        tasks = [
            UseTable(
                table=Table(name="x", made=tmp_path / "made"), x=i, begun=begun[i], go=go[i]
            ).submit()
            for i in (0, 1)
        ]
        for path in begun:
            path.read_text()
        for path in go:
            path.write_text("go")
    assert [task.job.stdout.read_text() for task in tasks] == ["table of x\n"] * 2
    assert count(tmp_path / "made") == 1


@pytest.mark.guarantee("cached-files")
def test_what_was_left_half_made_is_made_again(tmp_path, workdir_experiment):
    table = Table(name="x", made=tmp_path / "made", fails=tmp_path / "full")
    with workdir_experiment():
        (tmp_path / "full").touch()
        with pytest.raises(OSError, match="no space left"):
            table.text()
        with pytest.raises(OSError, match="no space left"):
            table.text()
        (tmp_path / "full").unlink()
        assert table.text() == "table of x"


def test_arguments_belong_to_the_key(tmp_path, workdir_experiment):
    numbers = Numbers(made=tmp_path / "made")
    with workdir_experiment():
        assert numbers.scaled(10) == numbers.scaled(by=10) == numbers.scaled(10, shift=0)
        assert numbers.scaled(by=100) == "100 () 0 []"
        assert numbers.scaled(10, 2) == "10 (2,) 0 []"
        assert numbers.scaled(a=1, b=2) == numbers.scaled(1, b=2, a=1)
        assert numbers.scaled() == numbers.scaled(1) == numbers.scaled(by=np.int64(1))
        assert numbers.scaled(1.0) == "1.0 () 0 []"
        assert count(tmp_path / "made") == 6
        with pytest.raises(TypeError, match="missing"):
            numbers.factorial()
        with pytest.raises(InvalidArgument, match=r"Numbers\.scaled: by is a object"):
            numbers.scaled(object())
    with workdir_experiment():
        assert numbers.scaled(by=100) == "100 () 0 []"
    assert count(tmp_path / "made") == 6


def test_cached_methods_call_each_other_and_themselves(tmp_path, workdir_experiment):
    numbers, more = Numbers(made=tmp_path / "made"), MoreNumbers(made=tmp_path / "made")
    with workdir_experiment():
        for _ in range(2):
            assert more.sums() == "more than sums of 2 () 0 []"
            assert numbers.sums() == "sums of 2 () 0 []"
            assert numbers.factorial(5) == "120"
            assert numbers.whole() == "in the making"
            assert numbers.size == "size"
            made = count(tmp_path / "made")
    assert count(tmp_path / "made") == made


def test_who_would_wait_for_each_other_does_not(tmp_path, workdir_experiment):
    circle = Circle(made=tmp_path / "made")
    with workdir_experiment(), ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(method) for method in (circle.one, circle.other)]
        one, other = (future.result(60) for future in futures)
        assert one.startswith("one")
        assert other.startswith("other")
        assert circle.one() == one
        assert circle.other() == other
    assert not list((tmp_path / "work").glob("**/*.waits"))


def test_many_threads_at_once_make_it_once(tmp_path, workdir_experiment):
    numbers = Numbers(made=tmp_path / "made")
    with workdir_experiment(), ThreadPoolExecutor(8) as pool:
        values = set(pool.map(lambda i: numbers.sums() if i % 2 else numbers.scaled(2), range(32)))
    assert values == {"sums of 2 () 0 []", "2 () 0 []"}
    assert count(tmp_path / "made") == 2


@pytest.mark.parametrize("name", ["", "a/b", "..", "/a"])
def test_a_cache_is_a_file_of_its_folder(name):
    with pytest.raises(InvalidArgument, match="no name for a file"):
        cache(name)
