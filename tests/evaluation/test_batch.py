"""The batch runner: each job once, whatever happens."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks.errors import InvalidArgument, ManifestBusy, SetupError
from vectasks.evaluation import BatchJob, BatchManifest, BatchRunner, RunStatus

SCRIPT = Path(__file__).with_name("batch_script.py")


def make_jobs(directory: Path, *ids: str, **fields: Any) -> list[BatchJob]:
    return [
        BatchJob(id=i, input=directory / f"{i}.in", output=directory / "out" / f"{i}.txt", **fields)
        for i in ids
    ]


def write(job: BatchJob) -> dict[str, Any]:
    job.output.write_text(f"of {job.id}")
    return {"pid": os.getpid(), "length": np.int64(len(job.id))}


def runner_of(backend: str, directory: Path) -> Any:
    def run(jobs: list[BatchJob], worker: Any = write, **options: Any) -> BatchManifest:
        return BatchRunner(backend).run(
            jobs, worker, manifest_path=directory / "run.json", **options
        )

    return run


@pytest.fixture(params=["inline", "process"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return runner_of(request.param, tmp_path)


@pytest.fixture
def run_here(tmp_path: Path) -> Any:
    return runner_of("inline", tmp_path)


def statuses(manifest: BatchManifest) -> list[str]:
    return [record.status.value for record in manifest.records]


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- what is asked for ------------------------------------------------------------------------


def test_two_jobs_on_two_workers(run: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a", "bb", provenance={"source": "lab"})
    manifest = run(jobs, max_workers=2, input_dir=tmp_path, pattern="*.in")
    assert (manifest.total, manifest.success_count) == (2, 2)
    assert [record.job_id for record in manifest.records] == ["a", "bb"]
    assert [record.provenance["length"] for record in manifest.records] == [1, 2]
    assert all(record.provenance["source"] == "lab" for record in manifest.records)
    assert jobs[0].output.read_text() == "of a"
    assert left_in(tmp_path / "out") == ["a.txt", "bb.txt"]
    assert BatchManifest.load(tmp_path / "run.json") == manifest
    assert (manifest.input_dir, manifest.pattern) == (tmp_path, "*.in")


def test_a_rerun_skips_what_is_done_and_keeps_its_provenance(run: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a", "b")
    first = run(jobs)
    second = run(jobs)
    assert (second.success_count, second.skipped_count) == (0, 2)
    assert statuses(second) == ["skipped", "skipped"]
    assert [r.provenance for r in second.records] == [r.provenance for r in first.records]
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


def test_force_runs_what_is_done(run: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a")
    run(jobs)

    def write_other(job: BatchJob) -> None:
        job.output.write_text("other")

    assert statuses(run(jobs, write_other)) == ["skipped"]
    assert statuses(run(jobs, write_other, force=True)) == ["success"]
    assert jobs[0].output.read_text() == "other"


@pytest.mark.guarantee("failed-record")
def test_a_worker_that_raises_is_one_failed_record(run: Any, tmp_path: Path) -> None:
    def fail_for_b(job: BatchJob) -> None:
        if job.id == "b":
            raise KeyError("no such joint")
        write(job)

    manifest = run(make_jobs(tmp_path, "a", "b", "c"), fail_for_b)
    assert statuses(manifest) == ["success", "failed", "success"]
    failed = manifest.records_by_id()["b"]
    assert failed.error_type == "KeyError"
    assert failed.message == "'no such joint'"
    assert "fail_for_b" in failed.traceback


@pytest.mark.guarantee("whole-output")
def test_a_half_written_output_is_not_there_and_is_made_again(run: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a")

    def stop_midway(job: BatchJob) -> None:
        job.output.write_text("ha")
        raise RuntimeError("midway")

    assert statuses(run(jobs, stop_midway)) == ["failed"]
    assert left_in(tmp_path / "out") == []
    assert statuses(run(jobs)) == ["success"]
    assert jobs[0].output.read_text() == "of a"


def test_an_output_of_a_failed_job_does_not_count(run_here: Any, tmp_path: Path) -> None:
    """Not even if somebody put it there: its last record is a failure."""
    jobs = make_jobs(tmp_path, "a")

    def fail(job: BatchJob) -> None:
        raise RuntimeError

    run_here(jobs, fail)
    jobs[0].output.write_text("half")
    assert statuses(run_here(jobs)) == ["success"]
    assert jobs[0].output.read_text() == "of a"


@pytest.mark.guarantee("whole-output")
def test_a_forced_run_that_fails_keeps_the_older_output(run_here: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a")
    run_here(jobs)

    def stop_midway(job: BatchJob) -> None:
        job.output.write_text("ha")
        raise RuntimeError

    assert statuses(run_here(jobs, stop_midway, force=True)) == ["failed"]
    assert jobs[0].output.read_text() == "of a"
    assert statuses(run_here(jobs)) == ["success"], "a failure is run again"


def test_success_without_an_output_is_a_failure(run: Any, tmp_path: Path) -> None:
    manifest = run(make_jobs(tmp_path, "a"), lambda job: {"all": "well"})
    assert statuses(manifest) == ["failed"]
    assert manifest.records[0].error_type == "FileNotFoundError"
    assert "made no output" in manifest.records[0].message


def test_an_output_without_a_record_counts_as_done(run_here: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a", "b", provenance={"source": "lab"})
    jobs[0].output.parent.mkdir()
    jobs[0].output.write_text("from elsewhere")
    manifest = run_here(jobs)
    assert statuses(manifest) == ["skipped", "success"]
    assert manifest.records[0].provenance == {"source": "lab"}
    assert jobs[0].output.read_text() == "from elsewhere"


@pytest.mark.guarantee("failed-record")
@pytest.mark.parametrize("how", ["os._exit(3)", "os.kill(os.getpid(), 9)", "sys.exit(3)"])
def test_one_crash_is_one_failed_record(how: str, tmp_path: Path) -> None:
    def crash_for_b(job: BatchJob) -> None:
        job.output.write_text("begun")
        if job.id == "b":
            eval(how, {"os": os, "sys": sys})

    jobs = make_jobs(tmp_path, "a", "b", "c", "d")
    manifest = runner_of("process", tmp_path)(jobs, crash_for_b, max_workers=2)
    assert statuses(manifest) == ["success", "failed", "success", "success"]
    expected = "SystemExit" if "sys" in how else "WorkerDied"
    assert manifest.records[1].error_type == expected
    assert left_in(tmp_path / "out") == ["a.txt", "c.txt", "d.txt"]


def test_records_stand_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    def wait_for_b(job: BatchJob) -> None:
        sign = job.input.with_name("b.sign")
        if job.id == "b":
            sign.touch()
        while not sign.exists():
            time.sleep(0.001)
        write(job)

    ended = []
    runner = BatchRunner(on_progress=lambda progress: ended.append(progress.record.job_id))
    manifest = runner.run(
        make_jobs(tmp_path, "a", "b"), wait_for_b, manifest_path=tmp_path / "m.json", max_workers=2
    )
    assert sorted(ended) == ["a", "b"]
    assert [record.job_id for record in manifest.records] == ["a", "b"]


def test_jobs_run_side_by_side(tmp_path: Path) -> None:
    """Two jobs that wait for each other can only both end if both run."""

    def meet(job: BatchJob) -> None:
        job.input.touch()
        other = job.input.with_name("b.in" if job.id == "a" else "a.in")
        while not other.exists():
            time.sleep(0.001)
        write(job)

    manifest = runner_of("process", tmp_path)(make_jobs(tmp_path, "a", "b"), meet, max_workers=2)
    assert manifest.success_count == 2


# -- what is refused --------------------------------------------------------------------------


def test_wrong_arguments_run_nothing(run_here: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a", "b")
    with pytest.raises(ValueError, match="max_workers must be an integer of at least 1"):
        run_here(jobs, max_workers=0)
    with pytest.raises(InvalidArgument, match=r"job 1 of the list: input: Field required"):
        run_here([jobs[0], {"id": "b", "output": "o"}])
    with pytest.raises(InvalidArgument, match="worker must be callable, got None"):
        run_here(jobs, None)
    with pytest.raises(ValueError, match="'a' for one"):
        run_here([*jobs, jobs[0]])
    with pytest.raises(InvalidArgument, match=r"outputs? belong"):
        run_here([jobs[0], jobs[1].model_copy(update={"output": jobs[0].output})])
    with pytest.raises(ValueError, match="backend='thread' is unknown"):
        BatchRunner("thread")  # type: ignore[arg-type]
    assert left_in(tmp_path) == []


def test_two_runs_on_one_manifest_at_once(run_here: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a", "b")

    def run_again(job: BatchJob) -> None:
        with pytest.raises(ManifestBusy, match="another run"):
            run_here(jobs)
        write(job)

    assert statuses(run_here(jobs, run_again)) == ["success", "success"]
    assert statuses(run_here(jobs)) == ["skipped", "skipped"], "the lock was given back"


def test_a_worker_that_cannot_travel(tmp_path: Path) -> None:
    lock = __import__("threading").Lock()

    def hold(job: BatchJob) -> None:
        with lock:
            write(job)

    with pytest.raises(InvalidArgument, match="cannot be sent"):
        runner_of("process", tmp_path)(make_jobs(tmp_path, "a"), hold)


def test_a_worker_that_is_not_found_over_there(tmp_path: Path) -> None:
    class FoundHereAlone:
        def __reduce__(self) -> Any:
            return __import__, ("no_such_module_anywhere",)

        def __call__(self, job: BatchJob) -> None: ...

    with pytest.raises(SetupError, match="no_such_module_anywhere"):
        runner_of("process", tmp_path)(make_jobs(tmp_path, "a", "b"), FoundHereAlone())


@pytest.mark.parametrize("returned", [7, "text", {"lock": object()}])
def test_what_a_worker_may_not_return(returned: Any, run_here: Any, tmp_path: Path) -> None:
    def give(job: BatchJob) -> Any:
        job.output.write_text("x")
        return returned

    manifest = run_here(make_jobs(tmp_path, "a"), give)
    assert statuses(manifest) == ["failed"]
    assert left_in(tmp_path / "out") == []


# -- jobs -------------------------------------------------------------------------------------


def test_workers_get_a_copy_that_writes_beside_the_output(run: Any, tmp_path: Path) -> None:
    def look(job: BatchJob) -> dict[str, Any]:
        np.savez(job.output, x=1)  # which adds .npz where the suffix is another
        return {
            "suffix": job.output.suffix,
            "beside": job.output.parent,
            "is_own": job.output.name == f"{job.id}.npz",
            "robot": job.robot,  # type: ignore[attr-defined]
        }

    job = BatchJob(
        id="a", motion=tmp_path / "in", output=tmp_path / "deep" / "out" / "a.npz", robot="arm"
    )
    told = run([job], look).records[0].provenance
    directory = str(tmp_path / "deep" / "out")
    assert told == {"suffix": ".npz", "beside": directory, "is_own": False, "robot": "arm"}
    assert np.load(job.output)["x"] == 1


def test_an_output_may_be_a_directory(run: Any, tmp_path: Path) -> None:
    def fill(job: BatchJob) -> None:
        job.output.mkdir()
        (job.output / "part").write_text(job.id)

    job = BatchJob(id="a", input=tmp_path, output=tmp_path / "out" / "a")
    assert statuses(run([job], fill)) == ["success"]
    assert statuses(run([job], fill, force=True)) == ["success"]
    assert left_in(tmp_path / "out") == ["a"]
    assert left_in(job.output) == ["part"]


def test_jobs_may_be_dicts(run_here: Any, tmp_path: Path) -> None:
    manifest = run_here([{"id": 7, "motion": "in", "output": tmp_path / "7.txt"}])
    assert [record.job_id for record in manifest.records] == ["7"]


def test_no_jobs(run: Any) -> None:
    assert run([]).total == 0


def test_numbers_of_numpy_are_numbers(run: Any, tmp_path: Path) -> None:
    assert statuses(run(make_jobs(tmp_path, "a", "b"), max_workers=np.int64(2))) == ["success"] * 2


@pytest.mark.guarantee("non-finite")
def test_nan_and_infinities_are_kept(run: Any, tmp_path: Path) -> None:
    """By the run, its manifest, its run log, and the runs that skip the job."""
    told = {"loss": math.nan, "nested": [{"bound": -math.inf}], "text": "NaN", "array": [1.0, 2.0]}

    def work(job: BatchJob) -> dict[str, Any]:
        write(job)
        return {**told, "loss": np.float32("nan"), "array": np.array([1.0, 2.0])}

    jobs = make_jobs(tmp_path, "a", provenance={"bound": math.inf})
    path = tmp_path / "run.json"
    expected = {"bound": math.inf, **told}
    for status in ("success", "skipped", "skipped"):
        manifest = run(jobs, work)
        assert statuses(manifest) == [status]
        assert manifest.records[0].provenance == expected
        assert BatchManifest.load(path) == manifest
        path.unlink()
        assert BatchManifest.load(path) == manifest, "the run log tells the same"


# -- names that no file can have --------------------------------------------------------------

LONG = "ä" * 123 + ".txt"  # 250 bytes
IMPOSSIBLE = {
    "nul": ("a\0b.txt", "holds a NUL character"),
    "surrogate": ("a\ud800.txt", r"holds '\ud800'"),
    "too long": ("n" * 256, "cannot be made: File name too long"),
    "in a file": ("file/a.txt", "file' is no folder"),
    "far in a file": ("file/b/c/a.txt", "file' is no folder"),
    "in nothing": (f"{os.devnull}/a.txt", f"'{os.devnull}' is no folder"),
    "above": ("..", "is a folder's place and no name"),
    "the manifest": ("run.json", "is a file that this run writes itself"),
    "the run log": ("out/../run.json.journal", "is a file that this run writes itself"),
    "the lock": ("run.json.lock", "is a file that this run writes itself"),
    "a folder": ("folder", "is there, and is a folder; the worker made a file"),
}


@pytest.mark.guarantee("outputs")
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_output_is_one_failed_record(name: str, run: Any, tmp_path: Path) -> None:
    output, expected = IMPOSSIBLE[name]
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    bad = BatchJob(id="bad", input="in", output=tmp_path / output)
    first, last = make_jobs(tmp_path, "first", "last")
    for _ in range(2):
        manifest = run([first, bad, last], force=True, max_workers=2)
        assert statuses(manifest) == ["success", "failed", "success"]
        assert expected in manifest.records[1].message
        assert manifest.records[1].output == bad.output
        assert BatchManifest.load(tmp_path / "run.json") == manifest
    assert left_in(tmp_path / "folder") == ["precious"]
    assert left_in(tmp_path / "out") == ["first.txt", "last.txt"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_is_not_made_in_place_of_a_file(run_here: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a")
    run_here(jobs)
    manifest = run_here(jobs, lambda job: job.output.mkdir(), force=True)
    assert "is a file; the worker made a folder" in manifest.records[0].message
    assert jobs[0].output.read_text() == "of a"
    assert left_in(tmp_path / "out") == ["a.txt"]


@pytest.mark.guarantee("outputs")
@pytest.mark.parametrize(
    "name",
    [
        LONG,
        "n" * 251 + ".txt",
        "." + "s" * 254,
        os.fsdecode(b"\x80" * 255),
        os.fsdecode(b"a\xff.txt"),
    ],
)
def test_every_name_that_a_file_can_have(name: str, run: Any, tmp_path: Path) -> None:
    suffixes = []

    def work(job: BatchJob) -> dict[str, Any]:
        job.output.write_text("x")
        return {"suffix": job.output.suffix}

    job = BatchJob(id=name, input=name, output=tmp_path / "out" / name)
    for status in ("success", "skipped"):
        manifest = run([job], work)
        assert statuses(manifest) == [status], manifest.records[0].message
        suffixes.append(manifest.records[0].provenance["suffix"])
        loaded = BatchManifest.load(tmp_path / "run.json")
        assert loaded == manifest
        assert (loaded.records[0].job_id, loaded.records[0].output) == (name, job.output)
    assert left_in(tmp_path / "out") == [name]
    if name.endswith(".txt"):
        assert suffixes == [".txt"] * 2


def test_leftovers_of_a_long_name(run_here: Any, tmp_path: Path) -> None:
    from vectasks._util.files import partial_path

    (tmp_path / "out").mkdir()
    for name in (LONG, "ö" + LONG[1:]):
        partial_path(tmp_path / "out" / name).write_text("of a killed run")
    run_here([BatchJob(id="a", input="in", output=tmp_path / "out" / LONG)])
    left = left_in(tmp_path / "out")
    assert LONG in left
    assert len(left) == 2, "what is of another job stays"


def test_what_is_raised_may_be_odd(run: Any, tmp_path: Path) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    def work(job: BatchJob) -> Any:
        if job.id == "odd":
            raise Odd
        if job.id == "surrogate":
            raise ValueError("no \udc80")
        job.output.touch()
        own: list[Any] = []
        own.append(own)
        return {"own": own, "number": 10**9000} if job.id == "own" else {"number": 10**9000}

    manifest = run(make_jobs(tmp_path, "odd", "surrogate", "own", "huge"), work)
    assert statuses(manifest) == ["failed"] * 4
    assert [record.message for record in manifest.records[:2]] == ["Odd", "no \udc80"]
    assert "JSON cannot hold" in manifest.records[3].message
    assert BatchManifest.load(tmp_path / "run.json") == manifest


# -- the end of a run -------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_done(run_here: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a", "b", "c")

    def interrupt_in_b(job: BatchJob) -> None:
        write(job)
        if job.id == "b":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(jobs, interrupt_in_b)
    manifest = BatchManifest.load(tmp_path / "run.json")
    assert (manifest.total, statuses(manifest)) == (3, ["success"])
    assert left_in(tmp_path / "out") == ["a.txt"]
    assert statuses(run_here(jobs)) == ["skipped", "success", "success"]


@pytest.mark.guarantee("whole-output")
def test_what_a_killed_run_left_is_removed(run_here: Any, tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path, "a")
    jobs[0].output.parent.mkdir()
    (tmp_path / "out" / ".part-0123abcd-a.txt").write_text("of a killed run")
    (tmp_path / "out" / ".part-0123abcd-b.txt").write_text("of somebody else's")
    run_here(jobs)
    assert left_in(tmp_path / "out") == [".part-0123abcd-b.txt", "a.txt"]


def _begin_script(directory: Path, num_jobs: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(SCRIPT), str(directory), str(num_jobs)])


@pytest.mark.guarantee("manifest-survives-kill")
@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Twenty times SIGKILL: the manifest can be read, and no finished job is run again."""
    num_jobs, rng = 4000, np.random.default_rng(0)
    out = tmp_path / "out"
    kept: set[str] = set()
    for _ in range(20):
        process = _begin_script(tmp_path, num_jobs)
        begun = len(_runs(tmp_path))
        while process.poll() is None and len(_runs(tmp_path)) == begun:
            time.sleep(0.001)  # before it works there is nothing to lose
        time.sleep(rng.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kept.isdisjoint(_runs(tmp_path)[begun:]), "what was finished was run again"
        records = BatchManifest.load(tmp_path / "run.json").records
        assert kept <= {record.job_id for record in records}
        assert all(record.status is not RunStatus.failed for record in records)
        assert all(record.output.exists() for record in records)
        kept = {path.stem for path in out.glob("[0-9]*.txt")}
        assert {record.job_id for record in records} <= kept
    assert 0 < len(kept) < num_jobs, "the kills came when there was nothing to lose"
    assert _begin_script(tmp_path, num_jobs).wait(60) == 0
    manifest = BatchManifest.load(tmp_path / "run.json")
    assert (len(manifest.records), manifest.failed_count) == (num_jobs, 0)
    assert manifest.skipped_count >= len(kept)
    assert all(path.read_text() == "0\n1\n2\n3\n" for path in out.iterdir())


def _runs(directory: Path) -> list[str]:
    """Return the id of each job that the workers began."""
    log = directory / "begun.log"
    return log.read_text().split() if log.exists() else []


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    """SIGINT reaches the process and its workers alike; the jobs that ran leave nothing."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(tmp_path), "2", "hang"], start_new_session=True
    )
    while len(_runs(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert BatchManifest.load(tmp_path / "run.json").records == ()
    assert left_in(tmp_path / "out") == []


def test_many_jobs_are_not_written_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is written twice, the run log once per job, whatever the number of jobs."""
    from vectasks.evaluation import run_log

    written = []
    monkeypatch.setattr(
        run_log.BatchManifest, "save_json", lambda self, path: written.append(len(self.records))
    )
    jobs = make_jobs(tmp_path, *map(str, range(300)))
    runner_of("inline", tmp_path)(jobs)
    assert written == [0, 300]
    lines = (tmp_path / "run.json.journal").read_bytes().splitlines()
    assert len(lines) == 301


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["inline", "process"])
def test_ten_thousand_tiny_jobs(backend: str, tmp_path: Path) -> None:
    """They add less than a millisecond each."""

    def touch(job: BatchJob) -> None:
        job.output.touch()

    jobs = make_jobs(tmp_path, *map(str, range(10_000)))
    run = runner_of(backend, tmp_path)
    began_s = time.perf_counter()
    assert run(jobs, touch, max_workers=2).success_count == 10_000
    assert time.perf_counter() - began_s < 10
    began_s = time.perf_counter()
    assert run(jobs, touch, max_workers=2).skipped_count == 10_000
    assert time.perf_counter() - began_s < 10
