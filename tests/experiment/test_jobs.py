"""Jobs: what runs, what does not, and what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from failing import failing
from toy_jobs import (
    After,
    Build,
    Concat,
    Count,
    Documents,
    Exits,
    Fail,
    Fold,
    Hangs,
    Held,
    Hooked,
    HookedConfig,
    Index,
    Keep,
    Leaves,
    Nested,
    Read,
    Say,
    ShowTags,
    Stubborn,
    Topics,
    count,
)

from vectasks import FailedExperiment, InvalidArgument, WaitTimeout
from vectasks.experiment import (
    Job,
    JobState,
    LocalLauncher,
    Meta,
    Task,
    experiment,
    submit_hook_decorator,
    tag,
)


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "work"


# -- what runs --------------------------------------------------------------------------------


def test_two_jobs_feed_a_third(workdir):
    with experiment(workdir, "hello"):
        parts = [Say(word="hello").submit(), Say(word="world").submit()]
        concat = Concat(parts=parts).submit()
    assert concat.job.state is JobState.DONE
    assert concat.job.stdout.read_text() == "HELLO WORLD\n"
    assert concat.job.path == workdir / "jobs" / "toy_jobs.Concat" / concat.identifier
    assert concat.job.dependencies == tuple(part.job for part in parts)


@pytest.mark.guarantee("done-jobs")
def test_a_done_job_is_left_alone(workdir, tmp_path):
    seen = []
    for _ in range(2):
        with experiment(workdir, "again"):
            task = Count(executions=tmp_path / "executions", x=1).submit()
        status = task.job.path / "status.json"
        seen.append((status.read_text(), status.stat().st_mtime_ns, status.stat().st_ino))
    assert seen[0] == seen[1]
    assert count(tmp_path / "executions") == 1
    assert task.job.state == "done"


def test_the_same_config_twice_is_one_job(workdir, tmp_path):
    with experiment(workdir, "twice") as xp:
        one, other = (Count(executions=tmp_path / "executions", x=1) for _ in range(2))
        one.submit()
        other.submit()
        other.submit()
        assert one.job is other.job
    assert xp.jobs == [one.job]
    assert count(tmp_path / "executions") == 1


@pytest.mark.guarantee("done-jobs")
def test_what_changed_runs_and_what_did_not_does_not(workdir, tmp_path):
    executions = tmp_path / "executions"

    def run(x: int) -> None:
        with experiment(workdir, "change"):
            first = Count(executions=executions, x=1).submit()
            second = Count(executions=executions, x=x, after=first).submit()
            Count(executions=executions, x=3, after=second).submit()

    run(2)
    run(20)
    run(2)
    assert executions.read_text().split() == ["1", "2", "3", "20", "3"]


def test_classes_of_a_script_travel(start_script, workdir):
    source = f"""
from vectasks.experiment import *
from enum import Enum
HELLO = "hello"
class Kind(Enum):
    A = "a"
def told(kind): return HELLO + kind.value
class Local(Task):
    kind: Param[Kind]
    needed: Param[int]
    maybe: Param[int | None]
    def execute(self):
        again = Local(kind=Kind.A, needed=1)
        print(told(self.kind), self.identifier == again.identifier, self.identifier)
        try:
            Local(kind=Kind.A)
        except ValueError as error:
            print(error)
if __name__ == "__main__":
    with experiment({str(workdir)!r}, "script"):
        task = Local(kind=Kind.A, needed=1).submit()
    print(task.job.stdout.read_text(), end="")
    print(task.job.type, task.identifier)
"""
    out, err = start_script(source).communicate(timeout=60)
    assert err == ""
    told, missing, name = out.splitlines()
    assert told.split()[:2] == ["helloa", "True"]
    assert missing == "Local: needed: missing."
    assert name.split() == ["script.Local", told.split()[2]]


def test_max_jobs_limits_how_many_run(workdir, tmp_path):
    log = tmp_path / "log"

    class Bracket(Task):
        x: Meta[int]
        log: Meta[Path]

        def execute(self) -> None:
            for word in ("begin", "end"):
                with self.log.open("a") as file:
                    file.write(f"{word}\n")

    classes = [type(f"Bracket{i}", (Bracket,), {"__module__": __name__}) for i in range(3)]
    with experiment(workdir, "one", max_jobs=1):
        for i, kind in enumerate(classes):
            kind(x=i, log=log).submit()
    assert log.read_text().split() == ["begin", "end"] * 3
    with pytest.raises(InvalidArgument, match="at least 1"):
        experiment(workdir, "none", max_jobs=0)
    with pytest.raises(InvalidArgument, match="at least 1"):
        LocalLauncher(-1)


def test_jobs_run_side_by_side(workdir, meeting):
    begun, go = [meeting(f"begun{i}") for i in (1, 2)], [meeting(f"go{i}") for i in (1, 2)]
    with experiment(workdir, "both", max_jobs=2):
        for i in (0, 1):
            Held(begun=begun[i], go=go[i], x=i).submit()
        pids = {begun[i].read_text() for i in (0, 1)}  # both have begun, none has ended
        for path in go:
            path.write_text("go")
    assert len(pids) == 2


# -- what fails -------------------------------------------------------------------------------


@pytest.mark.guarantee("failed-dependency")
def test_a_failure_fails_its_dependents_and_the_experiment(workdir, tmp_path):
    executions = tmp_path / "executions"
    with failing() as caught, experiment(workdir, "fails"):
        fail = Fail(x=3).submit()
        after = After(tasks=[fail]).submit()
        last = Count(executions=executions, after=after).submit()
        fine = Say(word="fine").submit()
    assert fail.job.state is JobState.FAILED
    assert fail.job.reason == "RuntimeError: x is 3"
    assert "RuntimeError: x is 3" in fail.job.stderr.read_text()
    assert fail.job.stdout.read_text() == "before\n"
    assert after.job.state is last.job.state is JobState.FAILED
    assert not after.job.stdout.exists()
    assert not executions.exists()
    assert after.job.reason == f"{fail.job} failed"
    assert after.job.status().state is JobState.FAILED
    assert fine.job.state is JobState.DONE
    assert caught.value.jobs == (fail.job, after.job, last.job)
    assert "3 of 4 jobs did not end well" in str(caught.value)
    assert "RuntimeError: x is 3" in str(caught.value)
    assert str(fail.job.stderr) in str(caught.value)


def test_a_failed_job_is_run_again_unless_it_is_not_wanted(workdir, tmp_path):
    def run(**options: bool) -> Task:
        with experiment(workdir, "fails", **options):
            fail = Fail(unless=tmp_path / "mended").submit()
            After(tasks=[fail]).submit()
        return fail

    with pytest.raises(FailedExperiment):
        run()
    (tmp_path / "mended").touch()
    with pytest.raises(FailedExperiment, match="RuntimeError: x is 0"):
        run(rerun_failed=False)
    assert run().job.state is JobState.DONE
    assert run(rerun_failed=False).job.stderr.read_text() == ""


@pytest.mark.guarantee("job-time-limit")
def test_two_timeouts_then_success_are_three_executions(workdir, tmp_path):
    with experiment(workdir, "retries"):
        task = Hangs(executions=tmp_path / "n", times=2).submit(timeout_s=1, max_retries=2)
    assert task.job.state is JobState.DONE
    assert count(tmp_path / "n") == 3
    assert task.job.stdout.read_text() == "execution 1\nexecution 2\nexecution 3\n"
    assert task.job.status().attempt == 3


def test_retries_come_to_an_end(workdir, tmp_path):
    with failing(r"timed out after 0\.7 s"), experiment(workdir, "retries"):
        task = Hangs(executions=tmp_path / "n", times=9).submit(timeout_s=0.7, max_retries=1)
    assert count(tmp_path / "n") == 2
    assert "threading.Event().wait()" in task.job.stderr.read_text()


class ImpatientLauncher(LocalLauncher):
    """Its jobs have a moment to unwind, not ten seconds."""

    def start(self, job, command):
        source = (
            "import sys, vectasks.experiment.job_process as process; "
            "process._LAST_GRACE_S = 0.2; sys.exit(process.main())"
        )
        at = command.index("-m")
        return super().start(job, [*command[:at], "-c", source, *command[at + 2 :]])


@pytest.mark.guarantee("job-time-limit")
def test_a_job_that_does_not_unwind_ends_all_the_same(workdir):
    with (
        failing(r"timed out after 1 s and had to be killed"),
        experiment(workdir, "stubborn", launcher=ImpatientLauncher()),
    ):
        task = Stubborn().submit(timeout_s=1)
    assert task.job.stdout.read_text() == "no\n"
    assert "in execute" in task.job.stderr.read_text()  # where it was
    assert task.job.status().state is JobState.FAILED


# -- what execute() leaves running ------------------------------------------------------------


def wait_for_end(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(30)


@pytest.mark.parametrize(
    ("what", "name"),
    [("thread", "writer"), ("pool", "ThreadPoolExecutor"), ("process", "worker"), ("exit", None)],
)
def test_the_time_limit_holds_for_what_goes_on(workdir, tmp_path, what, name):
    begun = tmp_path / "begun"
    left = "" if name is None else rf"; execute\(\) had returned, but left these running: {name}"
    with (
        failing(f"timed out after 1 s{left}"),
        experiment(workdir, "left", launcher=ImpatientLauncher()),
    ):
        job = Leaves(what=what, begun=begun).submit(timeout_s=1).job
    status = job.status()
    assert status.state is JobState.FAILED
    assert status.ended_s - status.started_s >= 1
    assert job.stdout.read_text() == "executed\n"
    wait_for_end(int(begun.read_text()))


@pytest.mark.parametrize("what", ["after", "pool", "process", "exit"])
def test_a_job_is_done_when_what_goes_on_has_ended(workdir, meeting, what):
    begun, go = meeting("begun"), meeting("go")
    with experiment(workdir, "left"):
        job = Leaves(what=what, begun=begun, go=go).submit(timeout_s=60).job
        begun.read_text()
        assert job.status().state is JobState.RUNNING
        go.write_text("went on")
    assert job.state is JobState.DONE
    assert sorted(job.stdout.read_text().split("\n")) == ["", "executed", "went on"]


def test_a_daemon_thread_is_not_awaited(workdir):
    with experiment(workdir, "left"):
        assert Leaves(what="daemon").submit().job.wait(60) is JobState.DONE


def test_a_stopped_job_does_not_wait_for_its_threads(workdir, meeting):
    begun = meeting("begun")
    left = r"stopped by SIGTERM; execute\(\) had returned, but left these running: writer"
    with failing(left), experiment(workdir, "left"):
        job = Leaves(what="after", begun=begun).submit().job
        os.kill(int(begun.read_text()), signal.SIGTERM)
    assert job.state is JobState.CANCELLED


@pytest.mark.parametrize("what", ["thread", "process"])
def test_a_failed_job_does_not_wait_for_long(workdir, tmp_path, what):
    begun = tmp_path / "begun"
    with (
        failing("RuntimeError: but left something"),
        experiment(workdir, "left", launcher=ImpatientLauncher()),
    ):
        job = Leaves(what=what, begun=begun, fails=True).submit().job
    assert job.status().state is JobState.FAILED
    wait_for_end(int(begun.read_text()))


def test_a_task_may_exit(workdir):
    with failing("SystemExit: 3"), experiment(workdir, "exits"):
        fine, wrong = Exits(code=0).submit(), Exits(code=3).submit()
    assert (fine.job.state, wrong.job.state) == (JobState.DONE, JobState.FAILED)


def test_a_killed_job_has_failed_and_says_by_what(workdir, meeting):
    begun, go = meeting("begun"), meeting("go")
    with failing("was killed by SIGKILL"), experiment(workdir, "killed"):
        task = Held(begun=begun, go=go).submit()
        os.kill(int(begun.read_text()), signal.SIGKILL)
    status = task.job.status()
    assert (status.state, status.attempt) == (JobState.FAILED, 1)
    assert status.ended_s >= status.started_s


def test_a_stopped_job_was_cancelled_and_so_are_its_dependents(workdir, meeting, tmp_path):
    begun, go, cleaned = meeting("begun"), meeting("go"), tmp_path / "cleaned"
    with failing("stopped by SIGTERM"), experiment(workdir, "stopped"):
        task = Held(begun=begun, go=go, cleaned=cleaned).submit(max_retries=3)
        after = After(tasks=[task]).submit()
        os.kill(int(begun.read_text()), signal.SIGTERM)
    assert task.job.state is after.job.state is JobState.CANCELLED
    assert cleaned.read_text() == "cleaned up"


class BrokenLauncher(LocalLauncher):
    def start(self, job, command):
        return super().start(job, [sys.executable, "-c", "raise SystemExit('no Python here')"])


def test_a_process_that_never_begins_is_a_failure(workdir):
    with (
        failing("ended with exit code 1 before it began"),
        experiment(workdir, "broken", launcher=BrokenLauncher()),
    ):
        task = Say(word="hello").submit()
    assert task.job.stderr.read_text() == "no Python here\n"
    assert task.job.status().state is JobState.FAILED


def test_what_cannot_travel_is_a_failure(workdir):
    with failing("pickle"), experiment(workdir, "lock"):
        task = Say(word="hello")
        task.lock = threading.Lock()
        task.submit()
    assert task.job.state is JobState.FAILED


def test_a_full_disk_fails_what_waits_and_hangs_nobody(workdir, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Job, "write_status", full)
    with failing("OSError: no space left"), experiment(workdir, "full"):
        after = After(tasks=[Fail().submit()]).submit()
    assert after.job.state is JobState.FAILED


def test_an_error_in_the_block_cancels(workdir, meeting, tmp_path):
    begun, go, cleaned = meeting("begun"), meeting("go"), tmp_path / "cleaned"
    with failing(error=ZeroDivisionError), experiment(workdir, "error", max_jobs=1):
        task = Held(begun=begun, go=go, cleaned=cleaned).submit()
        waiting = Say(word="never").submit()
        begun.read_text()
        raise ZeroDivisionError
    assert task.job.state is waiting.job.state is JobState.CANCELLED
    assert cleaned.exists()
    assert task.job.status().state is JobState.CANCELLED
    assert not waiting.job.path.exists()


def test_a_job_submits_nothing(workdir):
    with failing("submitted by a job"), experiment(workdir, "nested"):
        Nested().submit()


def test_values_of_numpys_are_written_down_and_travel(workdir):
    times, numbers = np.zeros(2, "M8[s]"), np.array([1 + 2j])
    scalars = [np.datetime64(5, "ns"), np.timedelta64(5, "D"), np.longdouble(5), 1j]
    values = [times, numbers, *scalars, np.zeros(2, [("a", "i4")]), np.array([b"a"])]
    with experiment(workdir, "values"):
        task = Keep(values=values).submit()
    assert task.job.stdout.read_text() == task.identifier + "\n"
    params = json.loads((task.job.path / "params.json").read_text())
    assert params["parameters"]["values"][2:4] == ["1970-01-01T00:00:00.000000005", "5 days"]


@pytest.mark.parametrize(
    "options",
    [
        *({"timeout_s": value} for value in (0, -1, float("nan"), True, "5")),
        *({"max_retries": value} for value in (-1, 1.0, True, "1")),
    ],
)
def test_submit_refuses_nonsense(workdir, options):
    with experiment(workdir, "nonsense", dry_run=True), pytest.raises(InvalidArgument):
        Say(word="x").submit(**options)


def test_numpys_numbers_are_numbers(workdir):
    launcher = LocalLauncher(np.int64(2), grace_s=np.float32(2))
    with experiment(workdir, "numbers", launcher=launcher, max_jobs=np.int8(1)) as xp:
        options = {"timeout_s": np.float64(60), "max_retries": np.uint8(1)}
        job = Say(word="hello").submit(**options).job
        forever = Say(word="on").submit(timeout_s=float("inf")).job
        assert job.wait(np.float32(60)) is JobState.DONE
        assert forever.wait(float("inf")) is JobState.DONE
        xp.wait(np.int64(60))
    for name in ("max_jobs", "grace_s"):
        with pytest.raises(InvalidArgument, match=f"{name} must be"):
            LocalLauncher(**{name: -1})


# -- waiting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["job", "experiment"])
def test_a_wait_that_the_caller_breaks_off_raises_what_the_caller_does(workdir, meeting, what):
    begun, go = meeting("begun"), meeting("go")

    def on_alarm(signum, frame):
        raise TimeoutError("the caller's")

    previous = signal.signal(signal.SIGALRM, on_alarm)
    try:
        with experiment(workdir, "alarm") as xp:
            job = Held(begun=begun, go=go).submit().job
            begun.read_text()
            wait = job.wait if what == "job" else xp.wait
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(TimeoutError, match="the caller's") as caught:
                wait()
            assert not isinstance(caught.value, WaitTimeout)
            go.write_text("go")
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert job.state is JobState.DONE


def test_a_job_is_awaited(workdir, meeting):
    begun, go = meeting("begun"), meeting("go")
    with experiment(workdir, "wait") as xp:
        job = Held(begun=begun, go=go).submit().job
        begun.read_text()
        assert job.state is JobState.RUNNING
        with pytest.raises(WaitTimeout, match=r"running after 0\.01 s"):
            job.wait(0.01)
        with pytest.raises(TimeoutError, match="1 jobs of wait have not ended"):
            xp.wait(0.01)
        go.write_text("go")
        assert job.wait(30) is JobState.DONE
        xp.wait()
    assert job.wait() is JobState.DONE


def test_on_completed_ends_before_the_block_does(workdir):
    seen: list[object] = []

    def submit_more(job: Job) -> None:
        seen.append(job.state)
        more = Say(word="more").submit()
        more.job.on_completed(lambda: seen.append(more.job.stdout.read_text()))

    with experiment(workdir, "callbacks"):
        task = Say(word="hello").submit()
        task.job.on_completed(submit_more)
    assert seen == [JobState.DONE, "MORE\n"]
    task.job.on_completed(lambda job: seen.append(job))  # at once, as it has ended
    assert seen[-1] is task.job


def test_on_completed_is_called_after_a_failure_and_may_fail_the_experiment(workdir):
    seen: list[str] = []
    with failing(), experiment(workdir, "fails"):
        Fail().submit().job.on_completed(lambda job: seen.append(job.reason))
    assert seen == ["RuntimeError: x is 0"]

    with failing(r"on_completed raised KeyError\('lost'\)"), experiment(workdir, "callback"):

        def raises() -> None:
            raise KeyError("lost")

        Say(word="hello").submit().job.on_completed(raises)


# -- what a job is given ----------------------------------------------------------------------


def test_a_job_is_in_its_folder_and_knows_where_it_writes(workdir):
    with experiment(workdir, "places"):
        build = Build(index=Index(entries=[1, 2])).submit()
    folder = build.job.path
    assert json.loads(build.job.stdout.read_text()) == [str(folder)] * 4
    assert build.model == folder / "model.pt"
    assert build.model.read_text() == "model"
    assert build.index.file == folder / "out" / "index" / "sub" / "index.json"
    assert build.index.file.read_text() == "[1, 2]"


def test_a_part_that_writes_belongs_to_one_job(workdir):
    index = Index()
    with experiment(workdir, "shared", dry_run=True):
        Build(index=index).submit()
        Build(index=index).submit()  # the same job

        class Other(Build):
            pass

        with pytest.raises(InvalidArgument, match=r"submit: Index\.file .* of another job"):
            Other(index=index).submit()


def test_what_was_submitted_does_not_change(workdir):
    with experiment(workdir, "sealed", dry_run=True):
        build = Build(index=Index()).submit()
    for config, name in ((build, "index"), (build.index, "entries")):
        with pytest.raises(AttributeError, match="was submitted"):
            setattr(config, name, getattr(config, name))
    build.note = "anything else may be set"


def test_the_folder_tells_parameters_tags_and_environment(workdir):
    with experiment(workdir, "told"):
        part = Say(word=tag("hello")).submit()
        concat = Concat(parts=[part]).submit()
        Hooked(config=HookedConfig()).submit()
    params = json.loads((concat.job.path / "params.json").read_text())
    assert params["type"] == "toy_jobs.Concat"
    assert params["identifier"] == concat.identifier
    assert params["tags"] == {"word": "hello"}
    assert params["dependencies"] == [{"type": "toy_jobs.Say", "identifier": part.identifier}]
    assert params["parameters"]["parts"][0]["parameters"] == {"word": "hello"}
    environment = json.loads((concat.job.path / "environment.json").read_text())
    assert environment["packages"]["numpy"] == __import__("numpy").__version__
    assert environment["python"] == sys.version
    status = concat.job.status()
    assert status.experiment == "told"
    assert status.started_s <= status.ended_s


def test_the_environment_has_the_git_commit(tmp_path):
    from vectasks.experiment.environment import _git, git_commit

    assert git_commit(tmp_path) is None
    _git(tmp_path, "init", "-q")
    assert git_commit(tmp_path) is None  # nothing is committed
    (tmp_path / "file").touch()
    _git(tmp_path, "add", "file")
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    _git(tmp_path, *author, "commit", "-qm", "first")
    (tmp_path / "other").touch()
    found = git_commit(tmp_path)
    assert found["commit"] == _git(tmp_path, "rev-parse", "HEAD")
    assert found["changed"] == ["?? other"]


def test_tags_reach_dependents(workdir):
    with experiment(workdir, "tags"):
        first = ShowTags(lr=tag(0.1)).submit()
        second = ShowTags(of=first).tag("note", "x").submit()
        third = ShowTags(of=second, lr=tag(0.3)).submit()

    def told(task: Task) -> list[object]:
        return json.loads(task.job.stdout.read_text())

    assert told(first) == [{"lr": 0.1}, first.identifier]
    assert told(second) == [{"lr": 0.1, "note": "x"}, second.identifier]
    assert told(third) == [{"lr": 0.3, "note": "x"}, third.identifier]
    assert third.job.tags == {"lr": 0.3, "note": "x"}


def test_hooks_set_variables_once_a_spec(workdir):
    launcher = LocalLauncher(environ={"TOY_LAUNCHER": "launcher", "TOY_TASK": "overridden"})
    with experiment(workdir, "hooks", launcher=launcher):
        task = Hooked(config=HookedConfig(), more=[HookedConfig()]).submit()
    assert task.job.environ == {"TOY_CONFIG": "config", "TOY_TASK": "task"}
    assert task.job.stdout.read_text() == "config task launcher\n"
    environment = json.loads((task.job.path / "environment.json").read_text())
    assert environment["environ"] == task.job.environ


def test_a_hook_stays_with_its_class(workdir):
    hook = type("NoSpec", (type(Hooked.__hooks__[0]),), {})("TOY_MORE", "more")

    @submit_hook_decorator(hook)
    class Derived(Hooked):
        pass

    with experiment(workdir, "hooks", dry_run=True):
        derived = Derived(config=HookedConfig()).submit()
        plain = Hooked(config=HookedConfig()).submit()
    assert derived.job.environ.keys() == {"TOY_CONFIG", "TOY_TASK", "TOY_MORE"}
    assert plain.job.environ.keys() == {"TOY_CONFIG", "TOY_TASK"}


# -- outputs ----------------------------------------------------------------------------------


def test_outputs_carry_the_dependency_of_what_was_wrapped_and_not_of_the_rest(workdir):
    with experiment(workdir, "outputs"):
        fold = Fold(documents=Documents(name="d"), seed=1)
        data = fold.submit()
        topics = Read(config=data.topics).submit()
        documents = Read(config=data.documents).submit()
        both = Read(config=data).submit()
    assert topics.job.dependencies == both.job.dependencies == (fold.job,)
    assert documents.job.dependencies == ()
    assert topics.job.stdout.read_text() == "topics 1 toy_jobs.Fold\n"


def test_outputs_are_told_apart_by_the_task_that_makes_them(workdir):
    with experiment(workdir, "outputs", dry_run=True):
        one, other, same = (
            Fold(documents=Documents(name="d"), seed=seed).submit() for seed in (1, 2, 1)
        )
    assert one.topics.identifier == same.topics.identifier != other.topics.identifier
    assert one.identifier == same.identifier != other.identifier
    assert one.documents.identifier == other.documents.identifier
    assert Read(config=one).identifier != Read(config=other).identifier


def test_a_part_that_is_put_out_is_a_copy(workdir):
    class PutsOut(Task):
        topics: Meta[Topics]

        def task_outputs(self, dep):
            return dep(self.topics)

    topics = Topics(path="p").tag("kept", 1)
    with experiment(workdir, "copy", dry_run=True):
        made = PutsOut(topics=topics).submit()
    assert topics.job is None
    assert made.job is not None
    assert made.tags() == {"kept": 1}


def test_dep_takes_no_other_task(workdir):
    class Wrong(Task):
        def task_outputs(self, dep):
            return dep(Say(word="x"))

    with (
        failing("not a Say", InvalidArgument),
        experiment(workdir, "wrong", dry_run=True) as xp,
    ):
        Wrong().submit()
    assert xp.jobs == []


# -- dry runs ---------------------------------------------------------------------------------


def test_a_dry_run_runs_and_writes_nothing(workdir, tmp_path):
    executions, called = tmp_path / "executions", []
    with experiment(workdir, "dry", dry_run=True) as xp:
        first = Count(executions=executions).submit()
        first.job.on_completed(lambda: called.append(1))
        Count(executions=executions, x=2, after=first).submit()
        assert first.job.wait() is JobState.WAITING
    assert not workdir.exists()
    assert [job.state for job in xp.jobs] == [JobState.WAITING] * 2

    with experiment(workdir, "real"):
        Count(executions=executions).submit()
    with experiment(workdir, "dry", dry_run=True) as xp:
        first = Count(executions=executions).submit()
        Count(executions=executions, x=2, after=first).submit()
    assert [job.state for job in xp.jobs] == [JobState.DONE, JobState.WAITING]
    assert count(executions) == 1
    assert called == []


def test_a_config_may_be_submitted_in_one_experiment_after_another(workdir, tmp_path):
    task = Count(executions=tmp_path / "executions")
    for name in ("one", "two"):
        with experiment(workdir, name) as xp:
            After(tasks=[task.submit()]).submit()
        assert xp.jobs[0] is task.job
    with experiment(workdir, "three") as xp:
        late = Count(executions=tmp_path / "executions", x=1, after=task).submit()
    assert late.job.state is JobState.DONE
    assert count(tmp_path / "executions") == 2
