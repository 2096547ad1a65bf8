"""The end: from any state, in bounded time, with nothing left behind (conftest looks)."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from process_scripts import Script, still_running

from vectasks import (
    ResourceLimit,
    SetupError,
    SingleProcessVectorSampledTasks,
    TaskError,
    VectorSampledTasks,
    WaitTimeout,
    WorkerDied,
)
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, FailingTask, SlowTask, ToySampler, ToyTask

Start = Callable[[str], Script]


def vector(task_class: Any = CountingTask, count: int = 3, **options: Any) -> VectorSampledTasks:
    names = ("marks", "delay_s", "max_steps", "how", "fail_at", "fail_step", "fail_sampler", "busy")
    toys = {name: options.pop(name) for name in names if name in options}
    return VectorSampledTasks(
        ToySampler, toy_args(task_class, count, **toys), should_log=False, **options
    )


def everything(count: int) -> set[str]:
    return {f"{kind} {i}" for kind in ("task", "sampler") for i in range(count)}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- from any state -------------------------------------------------------------------------------


def leave_idle(tasks: Any) -> None:
    tasks.step([0] * 3)


def leave_a_step_out(tasks: Any) -> None:
    tasks.async_step([0] * 3)


def leave_sent(tasks: Any) -> None:
    tasks.send([0] * 2, [0, 2])


def leave_paused(tasks: Any) -> None:
    tasks.pause_at(0)
    tasks.pause_at(1)


def leave_busy(tasks: Any) -> None:
    tasks.read_timeout = 0.05
    with pytest.raises(WaitTimeout):
        tasks.call_at(1, "nap", 0.5)


def leave_failed(tasks: Any) -> None:
    with pytest.raises(TaskError):
        tasks.call("add", ["wrong"] * 3)


@pytest.mark.guarantee("all-closed")
@pytest.mark.parametrize(
    "leave",
    [leave_idle, leave_a_step_out, leave_sent, leave_paused, leave_busy, leave_failed],
    ids=lambda function: function.__name__,
)
def test_every_task_and_sampler_is_closed_from_any_state(
    method: str, leave: Callable[[Any], None], tmp_path: Path
) -> None:
    tasks = vector(marks=str(tmp_path), multiprocessing_start_method=method, max_processes=2)
    leave(tasks)
    tasks.close()
    assert names(tmp_path) == everything(3)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"closed\n"}  # once each
    tasks.close()


def test_a_dead_and_a_stopped_worker_do_not_hold_up_the_others(tmp_path: Path) -> None:
    tasks = vector(marks=str(tmp_path), close_grace_s=1.0)
    dead, stopped, _ = tasks.call("pid")
    os.kill(dead, signal.SIGKILL)
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    tasks.close()
    assert 1.0 <= time.monotonic() - began < 5.0
    assert names(tmp_path) == everything(3) - {"task 0", "sampler 0", "task 1", "sampler 1"}
    assert not psutil.pid_exists(stopped)


class SlowlyClosedTask(ToyTask):
    def close(self) -> None:
        time.sleep(self.options.delay_s)
        super().close()


@pytest.mark.guarantee("one-grace-period")
def test_workers_close_side_by_side_within_one_grace_period(tmp_path: Path) -> None:
    tasks = vector(SlowlyClosedTask, 6, delay_s=0.5, marks=str(tmp_path), close_grace_s=5.0)
    began = time.monotonic()
    tasks.close()
    assert time.monotonic() - began < 2.0
    assert names(tmp_path) == everything(6)


@pytest.mark.guarantee("one-grace-period")
def test_the_grace_period_is_shared(tmp_path: Path) -> None:
    delays = [60.0, 0.0, 60.0, 60.0]
    tasks = vector(SlowlyClosedTask, 4, delay_s=delays, marks=str(tmp_path), close_grace_s=0.5)
    began = time.monotonic()
    tasks.close()
    assert time.monotonic() - began < 2.0  # not half a second for each
    assert names(tmp_path) == {"task 1", "sampler 1"}


def test_a_hanging_worker_does_not_keep_a_talkative_one_from_closing(tmp_path: Path) -> None:
    # The talkative one can close only once somebody has taken in its late answer.
    class TalkativeTask(ToyTask):
        def much(self, megabytes: int) -> Any:
            if self.env.sampler == 0:
                time.sleep(60)
            return np.zeros(megabytes << 20, np.uint8)

    tasks = vector(
        TalkativeTask, 2, marks=str(tmp_path), close_grace_s=1.0, read_timeout=0.0, max_processes=2
    )
    with pytest.raises(WaitTimeout):
        tasks.call("much", [16] * 2)
    tasks.close()
    assert names(tmp_path) == {"task 1", "sampler 1"}


@pytest.mark.guarantee("one-grace-period")
def test_a_worker_that_ignores_sigterm_is_killed() -> None:
    class StubbornTask(ToyTask):
        def begin(self) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

        def close(self) -> None:
            time.sleep(60)

    tasks = vector(StubbornTask, 2, close_grace_s=0.2)
    pids = tasks.call("pid")
    began = time.monotonic()
    tasks.close()
    assert time.monotonic() - began < 4.0
    assert not any(map(psutil.pid_exists, pids))


def test_a_late_answer_that_cannot_be_rebuilt_does_not_disturb_the_end(tmp_path: Path) -> None:
    class OddTask(ToyTask):
        def odd(self) -> Any:
            time.sleep(0.3)
            return Unbuildable()

    tasks = vector(OddTask, 2, marks=str(tmp_path), read_timeout=0.05)
    with pytest.raises(WaitTimeout):
        tasks.call("odd")
    tasks.close()
    assert names(tmp_path) == everything(2)


class Unbuildable:
    """Pickles, but cannot be built again: with an error that a closed channel also has."""

    def __reduce__(self) -> Any:
        return _fail_to_build, (os.getpid(),)


def _fail_to_build(pid: int) -> Any:
    if os.getpid() != pid:
        raise ConnectionResetError("not here")
    return None


def test_an_unbuildable_answer_is_no_death_and_takes_no_other_along() -> None:
    class OddTask(ToyTask):
        def odd(self) -> Any:
            return Unbuildable()

    with vector(OddTask, 2, max_processes=1, read_timeout=0.2) as tasks:
        with pytest.raises(WaitTimeout):
            tasks.call_at(0, "nap", 0.5)
        tasks.read_timeout = 30
        with pytest.raises(TaskError, match="not here"):  # after the late answer, in one go
            tasks.call_at(1, "odd")
        assert tasks.call("counts") == [(0, 0, 0), (1, 0, 0)]


def test_with_closes_around_an_exception(method: str, tmp_path: Path) -> None:
    tasks = vector(marks=str(tmp_path), multiprocessing_start_method=method)

    def fail() -> None:
        with tasks:
            tasks.async_step([0] * 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert tasks.is_closed
    assert names(tmp_path) == everything(3)


# -- half built -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raise", "exit"])
def test_what_was_started_is_closed_when_a_sampler_cannot_be_made(
    method: str, how: str, tmp_path: Path
) -> None:
    def make(sampler: int) -> ToySampler:
        if sampler == 2 and how == "raise":
            raise ValueError("no such scene")
        if sampler == 2:
            os._exit(3)
        return ToySampler(CountingTask, sampler, marks=str(tmp_path))

    with pytest.raises((SetupError, WorkerDied), match=r"no such scene|exited with code 3"):
        VectorSampledTasks(
            make,
            [{"sampler": i} for i in range(3)],
            multiprocessing_start_method=method,
            should_log=False,
        )
    assert names(tmp_path) == everything(2)


def test_refused_arguments_leave_an_object_that_can_go() -> None:
    for arguments in ({"max_processes": 0}, {"on_worker_death": "?"}, {"seed": "?"}):
        with pytest.raises((ValueError, TypeError)):
            vector(**arguments)
    empty = VectorSampledTasks.__new__(VectorSampledTasks)
    empty.__del__()


# -- the interpreter ends -------------------------------------------------------------------------


@pytest.mark.guarantee("nothing-stays")
@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("sys.exit(4)", 4), ("raise ZeroDivisionError", 1), ("os._exit(5)", 5)],
    ids=["falls off", "sys.exit", "raises", "os._exit"],
)
def test_however_the_interpreter_ends(start: Start, method: str, ending: str, code: int) -> None:
    script = start(f"""
        tasks = VectorSampledTasks(
            ToySampler,
            toy_args(CountingTask, 2, marks="."),
            multiprocessing_start_method={method!r},
        )
        tasks.async_step([0, 0])
        others = [tasks]
        others.append(others)  # only the collector can take it
        print("ready", flush=True)
        while not Path("gate").exists():
            time.sleep(0.01)
        {ending}
    """)
    script.wait_for_line("ready")
    family = script.family()
    script.open_the_gate()
    assert script.wait() == code
    assert still_running(family, 2.0) == []
    assert everything(2) <= names(script.cwd)
    assert ("ZeroDivisionError" in script.stderr) == (code == 1)
    assert script.num_reports == (code == 1), script.stderr


# -- too little of something ----------------------------------------------------------------------


@contextmanager
def limited(which: int, limit: int) -> Iterator[None]:
    before = resource.getrlimit(which)
    resource.setrlimit(which, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


def num_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_too_few_descriptors_are_told_before_anything_is_started(method: str) -> None:
    with limited(resource.RLIMIT_NOFILE, num_descriptors() + 50):
        children = psutil.Process().children(recursive=True)
        with pytest.raises(ResourceLimit, match=r"200 workers need 600 .* max_processes=1\d ") as e:
            vector(count=200, multiprocessing_start_method=method)
        assert isinstance(e.value, OSError)
        assert psutil.Process().children(recursive=True) == children
        fitting = int(str(e.value).partition("max_processes=")[2].split()[0])
        with vector(count=200, multiprocessing_start_method=method, max_processes=fitting) as tasks:
            assert len(tasks.step([0] * 200)) == 200
            with pytest.raises(ResourceLimit):
                vector(count=fitting, multiprocessing_start_method=method)
            assert len(tasks.step([0] * 200)) == 200


def test_a_start_that_fails_half_way_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from multiprocessing.popen_fork import Popen

    launch = Popen._launch
    started = []

    def launch_two(popen: Any, process: Any) -> None:
        if len(started) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(process)
        launch(popen, process)

    monkeypatch.setattr(Popen, "_launch", launch_two)
    with pytest.raises(ResourceLimit, match=r"Worker 2 of 4 could not be started.*unavailable"):
        vector(count=4, multiprocessing_start_method="fork", marks=str(tmp_path))
    assert len(started) == 2


def test_too_little_shared_memory(method: str) -> None:
    # A limit on files is a limit on memory files too.
    with limited(resource.RLIMIT_FSIZE, 256):
        with pytest.warns(RuntimeWarning, match=r"no shared memory of \d+ bytes: .*by pipes"):
            tasks = vector(multiprocessing_start_method=method, max_steps=9)
        with tasks:
            assert [r.observation.tolist()[2] for r in tasks.step([0] * 3)] == [1] * 3
            assert tasks.step_batch([0] * 3).observation[:, 2].tolist() == [2] * 3
        with pytest.raises(ResourceLimit, match="no shared memory"):
            vector(multiprocessing_start_method=method, observation_transport="slab")


def test_where_shared_memory_is_too_little_for_infos_arrays_stay_in_it(method: str) -> None:
    with limited(resource.RLIMIT_FSIZE, 1 << 19), warnings.catch_warnings():
        warnings.simplefilter("error")
        with vector(multiprocessing_start_method=method, max_steps=2, timing=True) as tasks:
            infos = [tasks.step([0] * 3)[0].info for _ in range(2)]
            assert "final_observation" in infos[1]
            lane_bytes = tasks.stats()["lane_bytes"]
            assert lane_bytes["slab"] > 0
            assert lane_bytes["notes"] == 0


def test_a_full_dev_shm_does_not_matter(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    inside = "mount -t tmpfs -o size=4k none /dev/shm && head -c 4096 /dev/zero > /dev/shm/full"
    if (
        unshare is None
        or subprocess.run([unshare, "-rm", "sh", "-c", inside], capture_output=True).returncode != 0
    ):
        pytest.skip("needs the right to mount")
    code = """
from vectasks import VectorSampledTasks
from vectasks.testing.toys import NestedTask, ToySampler, toy_args
with VectorSampledTasks(
    ToySampler, toy_args(NestedTask, 4), observation_transport="slab", seed=0
) as tasks:
    for _ in range(9):
        tasks.step([space.sample() for space in tasks.action_spaces])
print("done")
"""
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", f'{inside} && exec "$0" -c "$1"', sys.executable, code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_two_hundred_samplers(method: str) -> None:
    args = toy_args(CountingTask, 200, max_steps=3)
    with (
        VectorSampledTasks(
            ToySampler,
            args,
            multiprocessing_start_method=method,
            max_processes=3,
            should_log=False,
        ) as tasks,
        SingleProcessVectorSampledTasks(ToySampler, args, should_log=False) as in_process,
    ):
        for _ in range(4):
            expected = [r.observation.tolist() for r in in_process.step([0] * 200)]
            assert [r.observation.tolist() for r in tasks.step([0] * 200)] == expected


@pytest.mark.slow
def test_two_hundred_workers() -> None:
    with vector(count=200) as tasks:
        assert len(set(tasks.call("pid"))) == 200
        assert len(tasks.step([0] * 200)) == 200


# -- again and again ------------------------------------------------------------------------------


@pytest.mark.guarantee("nothing-stays")
@pytest.mark.parametrize("times", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_starts_and_closes_of_every_sort_leave_nothing(method: str, times: int) -> None:
    before = 0
    for number in range(times):
        tasks = vector(
            [CountingTask, FailingTask, SlowTask][number % 3],
            2,
            fail_step=1,
            delay_s=0.0,
            multiprocessing_start_method=method,
            observation_transport=["auto", "pipe"][number % 2],
        )
        if number % 4 == 0:
            os.kill(tasks.call("pid")[0], signal.SIGKILL)
        elif number % 4 == 1:
            tasks.async_step([0, 0])
        elif number % 4 == 2:
            tasks.send([0], [1])
        tasks.close()
        if number == 3:
            before = num_descriptors()
    assert num_descriptors() == before
