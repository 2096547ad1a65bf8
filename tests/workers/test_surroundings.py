"""Workers start in the surroundings that the program has by then; odd ones are no obstacle."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from process_scripts import Script

from vectasks import VectorSampledTasks
from vectasks.pool.pool import WorkerPool
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, ToySampler

Start = Callable[[str], Script]


class Surroundings(NamedTuple):
    """The surroundings that a process finds."""

    environ: dict[str, str]
    folder: str
    path: list[str]
    timezone: tuple[str, str]

    @classmethod
    def now(cls) -> Surroundings:
        # Python's readline sets these two past os.environ, and a spawned child sees them.
        environ = {k: v for k, v in os.environ.items() if k not in ("LINES", "COLUMNS")}
        return cls(environ, str(Path.cwd()), list(sys.path), time.tzname)


class Looking(ToySampler):
    """Looks around."""

    def look(self) -> Surroundings:
        return Surroundings.now()


def look_around(method: str) -> Surroundings:
    with VectorSampledTasks(
        Looking, toy_args(CountingTask, 1), multiprocessing_start_method=method, should_log=False
    ) as tasks:
        return tasks.call_sampler("look")[0]  # type: ignore[no-any-return]


def test_surroundings_are_those_of_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    monkeypatch.setenv("VECTASKS_TEST_REMOVED", "here")
    monkeypatch.setenv("VECTASKS_TEST_CHANGED", "before")
    assert look_around(method) == Surroundings.now()  # there is a fork server from here on
    try:
        with monkeypatch.context() as changed:
            changed.delenv("VECTASKS_TEST_REMOVED")
            changed.setenv("VECTASKS_TEST_CHANGED", "after")
            changed.setenv("VECTASKS_TEST_ADDED", "odd \udce4\n=")
            changed.setenv("TZ", "XYZ-3")
            time.tzset()
            changed.chdir(tmp_path)
            changed.syspath_prepend(str(tmp_path / "modules"))
            assert look_around(method) == Surroundings.now()
    finally:
        time.tzset()
    assert look_around(method) == Surroundings.now()


class Looker:
    """The object that a pool's worker holds."""

    def look(self) -> Surroundings:
        return Surroundings.now()


def test_a_pools_restarted_worker_finds_todays(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerPool(Looker, num_workers=1) as pool:
        monkeypatch.setenv("VECTASKS_TEST_ADDED", "today")
        pool.restart_at(0)
        assert pool.submit_at(0, "look").result() == Surroundings.now()


def test_a_folder_of_modules_that_was_made_after_the_first_start(
    start: Start,
) -> None:
    script = start("""
        class Sampler(ToySampler):
            def import_late(self):
                import made_late
                return made_late.answer

        arguments = toy_args(CountingTask, 1)
        os.environ["PYTHONPATH"] += f":{Path('late').absolute()}"  # the fork server looks in vain
        VectorSampledTasks(Sampler, arguments).close()
        Path("late").mkdir()
        Path("late/made_late.py").write_text("answer = 42")
        sys.path.append(str(Path("late").absolute()))
        with VectorSampledTasks(Sampler, arguments) as tasks:
            print(tasks.call_sampler("import_late"))
    """)
    assert script.wait() == 0, script.stderr
    assert script.stdout == "[42]\n"


def test_the_script_that_a_worker_runs_again_finds_todays(start: Start) -> None:
    script = start("""
        print(os.environ.get("VECTASKS_TEST_ADDED"), flush=True)
        if __name__ == "__main__":
            for value in "12":
                os.environ["VECTASKS_TEST_ADDED"] = value
                VectorSampledTasks(ToySampler, toy_args(CountingTask, 1), rerun_main=True).close()
    """)
    assert script.wait() == 0, script.stderr
    assert script.stdout.split() == ["None", "1", "2"]


# -- nowhere to be --------------------------------------------------------------------------------

STEP = """
def step(method):
    with VectorSampledTasks(
        ToySampler, toy_args(CountingTask, 2), multiprocessing_start_method=method
    ) as tasks:
        print([result.observation.tolist() for result in tasks.step([0, 0])], flush=True)
"""
STEPPED = "[[0, 0, 1], [1, 0, 1]]\n"


def start_stepping(start: Start, code: str, method: str) -> Script:
    return start(STEP + textwrap.dedent(code) + f"\nstep({method!r})\n")


def test_a_deep_folder_for_temporary_files(start: Start, method: str) -> None:
    code = """
        folder = Path("deep" * 20, "deeper" * 20).absolute()
        folder.mkdir(parents=True)
        os.environ["TMPDIR"] = str(folder)
    """
    script = start_stepping(start, code, method)
    assert script.wait() == 0, script.stderr
    assert (script.stdout, script.stderr) == (STEPPED, "")


NO_FOLDER = """
    import tempfile
    tempfile._candidate_tempdir_list = lambda: ["/nonexistent"]
    from vectasks.workers import forkserver
"""


def test_no_folder_for_temporary_files(start: Start, method: str) -> None:
    script = start_stepping(start, NO_FOLDER, method)
    assert script.wait() == 0, script.stderr
    assert (script.stdout, script.stderr) == (STEPPED, "")


def test_a_folder_that_is_made_for_the_socket_is_removed(start: Start) -> None:
    code = """
    print(Path(forkserver.server.address).parent, flush=True)
    """
    script = start_stepping(start, NO_FOLDER + "    step('forkserver')" + code, "fork")
    assert script.wait() == 0, script.stderr
    folder = Path(script.stdout.splitlines()[1])
    assert folder.name.startswith("vectasks-")
    assert not folder.exists()


def test_no_folder_at_all_is_told(start: Start) -> None:
    script = start_stepping(
        start, NO_FOLDER + "    forkserver._OTHER_FOLDERS = ('/nonexistent',)", "forkserver"
    )
    assert script.wait() == 1
    last = script.stderr.splitlines()[-1]
    assert "ResourceLimit: Worker 0 of 2 could not be started: the fork server needs a f" in last
    assert "TMPDIR" in last
    assert "max_processes" not in last


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_working_directory_that_was_deleted(start: Start, method: str, when: str) -> None:
    if method == "spawn" and sys.version_info[:3] == (3, 13, 0):
        pytest.skip("this version of Python cannot start in such a directory")
    code = f"""
        if {when!r} == "after":
            step({method!r})
        Path("gone").mkdir()
        os.chdir("gone")
        os.rmdir("../gone")
    """
    script = start_stepping(start, code, method)
    assert script.wait() == 0, script.stderr
    assert (script.stdout, script.stderr) == (STEPPED * (1 + (when == "after")), "")


# -- a program that waits for any child -----------------------------------------------------------

LOST = "worker 0 (samplers 0) ended, and how is not known: "
KILLED = "worker 0 (samplers 0) was killed by SIGKILL"


@pytest.mark.parametrize("way", ["ignored", "waited for"])
def test_deaths_that_the_program_takes_note_of_itself(start: Start, method: str, way: str) -> None:
    script = start(f"""
        class Sampler(ToySampler):
            def pid(self):
                return os.getpid()

        if {way!r} == "ignored":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with VectorSampledTasks(
            Sampler, toy_args(CountingTask, 2), multiprocessing_start_method={method!r}
        ) as tasks:
            pid = tasks.call_sampler("pid")[0]
            os.kill(pid, signal.SIGKILL)
            try:
                if {way!r} == "waited for":
                    os.waitpid(pid, 0)
            except ChildProcessError:
                pass  # it is the fork server's
            try:
                tasks.step([0, 0])
            except WorkerDied as error:
                print(error.exitcode, error)
            tasks.restart_at(0)
            print([result.observation.tolist() for result in tasks.step([0, 0])])
    """)
    assert script.wait() == 0, script.stderr
    died, stepped = script.stdout.splitlines()
    assert died.startswith(f"-9 {KILLED}" if method == "forkserver" else f"None {LOST}")
    assert stepped == "[[0, 0, 1], [1, 0, 2]]"


@pytest.mark.parametrize("way", ["ignored", "waited for"])
def test_a_fork_server_that_was_killed_is_started_again(start: Start, way: str) -> None:
    script = start(f"""
        import psutil
        if {way!r} == "ignored":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with VectorSampledTasks(ToySampler, toy_args(CountingTask, 1)) as tasks:
            from vectasks.workers.forkserver import server
            family = psutil.Process().children(recursive=True)
            worker = next(process for process in family if process.ppid() == server.pid)
            os.kill(server.pid, signal.SIGKILL)
            if {way!r} == "waited for":
                os.waitpid(server.pid, 0)
            worker.wait()  # it ends with the server
            try:
                tasks.step([0])
            except WorkerDied as error:
                print(error.exitcode, error)
            tasks.restart_at(0)
            print([result.observation.tolist() for result in tasks.step([0])])
    """)
    assert script.wait() == 0, script.stderr
    died, stepped = script.stdout.splitlines()
    assert died.startswith(f"None {LOST}")
    assert stepped == "[[0, 0, 1]]"


def test_a_fork_of_the_program_starts_a_fork_server_of_its_own(start: Start) -> None:
    code = """
        step("forkserver")
        forked = os.fork()
        from vectasks.workers.forkserver import server
        assert forked or server.pid is None  # it does not keep the parent's alive either
        step("forkserver")
        if forked == 0:
            os._exit(0)
        assert os.waitpid(forked, 0) == (forked, 0)
    """
    script = start_stepping(start, code, "forkserver")
    assert script.wait() == 0, script.stderr
    assert (script.stdout, script.stderr) == (STEPPED * 4, "")
