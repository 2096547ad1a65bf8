"""Tasks that do to their process what they should not: the protocol holds, or they die clearly."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from process_scripts import Script, still_running

from vectasks import TaskError, VectorSampledTasks, WorkerDied
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, ToySampler, ToyTask

Start = Callable[[str], Script]


class UnrulyTask(ToyTask):
    """Its first step does what the option ``deed`` says, in every sampler but the last."""

    def move(self, action: Any) -> None:
        if self.step_number == 1 and self.episode == 0 and not self.options.is_good:
            self.options.deed()


def unruly(deed: Callable[[], Any], method: str = "forkserver", **options: Any) -> Any:
    return VectorSampledTasks(
        ToySampler,
        toy_args(UnrulyTask, 2, deed=deed, is_good=[False, True], max_steps=9),
        multiprocessing_start_method=method,
        should_log=False,
        **{"read_timeout": 30, **options},
    )


def handle_every_signal() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, lambda *_: None)


def ignore_every_signal() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)


def block_every_signal() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def close_the_standard_streams() -> None:
    for fd in range(3):
        with contextlib.suppress(OSError):
            os.close(fd)


def leave_threads() -> None:
    for daemon in (True, False):
        threading.Thread(target=time.sleep, args=(60,), daemon=daemon).start()


def change_directory_and_environment() -> None:
    os.chdir("/")
    os.environ.clear()
    sys.path.clear()
    sys.stdout = sys.stderr = sys.stdin = None  # type: ignore[assignment]


def fork_and_forget() -> None:
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1"])  # it outlives the step


def break_multiprocessings_own() -> None:
    multiprocessing.active_children()
    multiprocessing.current_process().name = "somebody else"


@pytest.mark.parametrize("transport", ["auto", "pipe"])
@pytest.mark.parametrize(
    "deed",
    [
        handle_every_signal,
        ignore_every_signal,
        block_every_signal,
        close_the_standard_streams,
        leave_threads,
        change_directory_and_environment,
        fork_and_forget,
        break_multiprocessings_own,
    ],
    ids=lambda deed: deed.__name__,
)
def test_the_protocol_holds(deed: Callable[[], Any], transport: str) -> None:
    with unruly(deed, observation_transport=transport, close_grace_s=0.5) as tasks:
        for step in range(1, 4):
            results = tasks.step([0, 1])
            assert [r.observation.tolist() for r in results] == [[0, 0, step], [1, 0, step]]
        assert tasks.call("counts") == [(0, 0, 3), (1, 0, 3)]
        began = time.monotonic()
    assert time.monotonic() - began < 4.0


def close_everything() -> None:
    os.closerange(3, 4096)


def close_everything_and_open_others() -> None:
    os.closerange(3, 4096)
    for _ in range(40):
        os.open("/dev/null", os.O_RDWR)


def close_everything_and_go_on() -> None:
    os.closerange(3, 4096)
    time.sleep(60)


@pytest.mark.parametrize(("on_death", "transport"), [("raise", "auto"), ("restart", "pipe")])
@pytest.mark.parametrize(
    "deed",
    [close_everything, close_everything_and_open_others, close_everything_and_go_on],
    ids=lambda deed: deed.__name__,
)
def test_closed_descriptors_are_a_clear_death(
    deed: Callable[[], Any], method: str, on_death: str, transport: str
) -> None:
    with unruly(deed, method, observation_transport=transport, on_worker_death=on_death) as tasks:
        worker = psutil.Process(tasks.call("pid")[0])
        began = time.monotonic()
        told = ""
        while not told:  # a step or two may still go through the shared memory
            try:
                told = tasks.step([0, 1])[0].info.get("worker_restarted", "")
            except WorkerDied as error:
                told = str(error)
            assert time.monotonic() - began < 10
        assert "worker 0 (samplers 0) " in told
        assert "descriptors that are not its own" in told
        assert still_running([worker], 5.0) == []  # also the one that goes on
        assert tasks.call_at(1, "counts")[0] == 1
        assert tasks.stats()["restarts"] == (on_death == "restart")


def raise_later() -> None:
    def handler(*_: Any) -> None:
        raise RuntimeError("an alarm that nobody awaits any more")

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)


def test_a_handler_that_raises_between_steps_is_a_clear_death(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with unruly(raise_later, "fork") as tasks:  # whose errors are printed where capfd listens
        worker = psutil.Process(tasks.call("pid")[0])
        tasks.step([0, 0])
        assert still_running([worker], 10.0) == []
        with pytest.raises(WorkerDied, match="exited with code 1"):
            tasks.step([0, 0])
    assert "an alarm that nobody awaits any more" in capfd.readouterr().err


@pytest.mark.parametrize("code", [0, 5, "words"])
def test_exit_is_a_clear_death(code: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with unruly(lambda: sys.exit(code)) as tasks:
        with pytest.raises(WorkerDied) as caught:
            tasks.step([0, 0])
        assert caught.value.exitcode == (code if isinstance(code, int) else 1)
        assert caught.value.results[1].observation.tolist() == [1, 0, 1]
    capfd.readouterr()


def test_floods_of_output_do_not_matter(start: Start, method: str) -> None:
    script = start(f"""
        class LoudTask(ToyTask):
            def move(self, action):
                for _ in range(200):
                    print("x" * 5000, flush=True)
                    os.write(1, b"y" * 5000)
                    os.write(2, b"z" * 5000)
        with VectorSampledTasks(
            ToySampler, toy_args(LoudTask, 2), multiprocessing_start_method={method!r}
        ) as tasks:
            for _ in range(3):
                results = tasks.step([0, 0])
            (Path("result")).write_text(str([r.observation.tolist() for r in results]))
    """)
    assert script.wait() == 0
    assert (script.cwd / "result").read_text() == "[[0, 0, 3], [1, 0, 3]]"
    assert len(script.stdout) > 6 * 200 * 10_000


# -- processes of their own -----------------------------------------------------------------------


def double(number: int) -> int:
    return 2 * number


class ParentTask(ToyTask):
    def ask_a_process(self) -> str:
        code = "print('hello from below')"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    def ask_a_pool(self) -> list[int]:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            return pool.map(double, [1, 2, 3])

    def ask_a_vector(self) -> list[Any]:
        with VectorSampledTasks(ToySampler, toy_args(CountingTask, 2)) as inner:
            return [r.observation.tolist() for r in inner.step([0, 0])]


def test_workers_may_start_processes(method: str) -> None:
    with VectorSampledTasks(
        ToySampler,
        toy_args(ParentTask, 2),
        multiprocessing_start_method=method,
        should_log=False,
    ) as tasks:
        assert tasks.call("ask_a_process") == ["hello from below\n"] * 2
        assert tasks.call_at(0, "ask_a_pool") == [2, 4, 6]
        assert tasks.call_at(0, "ask_a_vector") == [[0, 0, 1], [1, 0, 1]]


def test_daemonic_workers_may_not() -> None:
    with VectorSampledTasks(
        ToySampler, toy_args(ParentTask, 1), daemon=True, should_log=False
    ) as tasks:
        with pytest.raises(TaskError, match="daemonic processes are not allowed"):
            tasks.call("ask_a_pool")
        assert tasks.call("ask_a_process") == ["hello from below\n"]


# -- a program without a file ---------------------------------------------------------------------


def test_a_script_from_standard_input(method: str, tmp_path: Path) -> None:
    code = f"""
from vectasks import VectorSampledTasks
from vectasks.testing.toys import CountingTask, ToySampler
class MyTask(CountingTask):
    pass
tasks = VectorSampledTasks(
    lambda sampler: ToySampler(MyTask, sampler),
    [{{"sampler": 0}}, {{"sampler": 1}}],
    multiprocessing_start_method={method!r},
)
print([r.observation.tolist() for r in tasks.step([0, 0])])
"""
    done = subprocess.run(
        [sys.executable, "-"],
        input=code,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("[[0, 0, 1], [1, 0, 1]]\n", "")
