"""WaitTimeout tells who is late, and with what, by its stacks; on every kind of process."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from vectasks import SamplerState, VectorSampledTasks, WaitTimeout
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, SlowTask, ToySampler, ToyTask
from vectasks.workers import stacks


def spin_until(path: str) -> None:
    while not Path(path).exists():
        pass


def sleep_until(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


class HeldTask(ToyTask):
    """Spins (sampler 0) or sleeps (sampler 1) in its first step until the file ``gate`` is there;
    before, sampler 0 does what ``prelude`` says."""

    def move(self, action: Any) -> None:
        if self.env.sampler > 1:
            return
        if self.env.sampler == 0 and self.options.prelude is not None:
            self.options.prelude()
        (spin_until if self.env.sampler == 0 else sleep_until)(self.options.gate)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def held(kind: Any, gate: Path, prelude: Callable[[], None] | None = None, **vector: Any) -> Any:
    options = {"read_timeout": 1.0, **vector}
    return kind.toys(
        HeldTask, count=3, gate=str(gate), prelude=prelude, max_steps=9, vector=options
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


OBSERVATIONS = [[i, 0, 1] for i in range(3)]


@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_the_stacks_of_late_workers_are_shown(
    process_kind: Any, gate: Path, transport: str
) -> None:
    with held(process_kind, gate, observation_transport=transport) as tasks:
        workers = {None: {0, 1}, 1: {0}, 2: {0}}[process_kind.max_processes]
        began = time.monotonic()
        with pytest.raises(WaitTimeout) as caught:
            tasks.step([0] * 3)
        assert time.monotonic() - began < 5.0  # the look takes no longer than was waited
        assert caught.value.stacks.keys() == workers
        assert "spin_until" in caught.value.stacks[0]
        assert "is computing" in str(caught.value)
        assert "in spin_until" in str(caught.value)
        assert "in _bootstrap" not in str(caught.value)  # ours, not the user's
        if 1 in workers:
            assert "in sleep_until" in caught.value.stacks[1]
        with pytest.raises(WaitTimeout) as caught:  # once more, and the look has harmed nobody
            tasks.wait_step(1.0)
        assert caught.value.stacks[0].count("spin_until") == 1
        gate.touch()
        assert [r.observation.tolist() for r in tasks.wait_step(20)] == OBSERVATIONS
        assert [r.observation.tolist()[2] for r in tasks.step([0] * 3)] == [2] * 3


def test_a_mere_look_whether_it_is_done_asks_nobody(processes: Any, gate: Path) -> None:
    with held(processes, gate) as tasks:
        tasks.async_step([0] * 3)
        with pytest.raises(WaitTimeout) as caught:
            tasks.wait_step(0)
        assert caught.value.stacks == {}
        gate.touch()
        assert len(tasks.wait_step(20)) == 3


def test_a_stopped_worker_is_told_from_a_dead_one(process_kind: Any) -> None:
    with process_kind.toys(max_steps=9) as tasks:
        pid = tasks.call("pid")[-1]
        tasks.read_timeout = 0.5
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(pid))
        with pytest.raises(WaitTimeout, match=rf"process {pid}\) is stopped \(SIGSTOP"):
            tasks.step([0] * 4)
        os.kill(pid, signal.SIGCONT)
        results = tasks.wait_step(20)
        assert [r.observation.tolist() for r in results] == [[i, 0, 1] for i in range(4)]
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}


def test_a_stranger_is_described_and_left_alone() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        wait_for(lambda: psutil.Process(stranger.pid).status() == psutil.STATUS_SLEEPING)
        assert stacks.look_at({5: stranger.pid}, 1.0) == {5: stacks.Look("is waiting", "")}
        os.kill(stranger.pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(stranger.pid))
        assert stacks.look_at({5: stranger.pid}, 1.0)[5].state.startswith("is stopped")
        assert stranger.poll() is None
        stranger.kill()
    assert stacks.look_at({5: stranger.pid}, 1.0)[5].stack == ""


def test_a_late_recv_shows_stacks_too(processes: Any, gate: Path) -> None:
    with held(processes, gate) as tasks:
        tasks.send([0] * 3)
        assert tasks.recv(1, timeout=20).samplers.tolist() == [2]
        with pytest.raises(WaitTimeout, match="sleep_until"):
            tasks.recv(1, timeout=1.0)
        gate.touch()
        assert tasks.recv(timeout=20).observation.tolist() == OBSERVATIONS[:2]


def replace_every_handler() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, lambda *_: None)


def close_the_file() -> None:
    for link in Path("/proc/self/fd").iterdir():
        if "vectasks-stack" in os.path.realpath(link):
            os.close(int(link.name))
            break


@pytest.mark.parametrize("prelude", [replace_every_handler, close_the_file])
def test_a_worker_that_cannot_tell_is_not_harmed(
    processes: Any, gate: Path, prelude: Callable[[], None]
) -> None:
    with held(processes, gate, prelude) as tasks:
        with pytest.raises(WaitTimeout, match=r"computing and has not told its stack") as caught:
            tasks.step([0] * 3)
        assert caught.value.stacks.keys() == {1}
        gate.touch()
        assert [r.observation.tolist() for r in tasks.wait_step(20)] == OBSERVATIONS


def test_the_file_takes_no_low_number(processes: Any) -> None:
    # A task may close descriptors that are not its own, and open others: with low numbers.
    class Opener(CountingTask):
        def numbers(self) -> list[int]:
            links = Path("/proc/self/fd").iterdir()
            return [int(p.name) for p in links if "vectasks-stack" in os.path.realpath(p)]

    with processes.toys(Opener, count=2) as tasks:
        for numbers in tasks.call("numbers"):
            assert len(numbers) == 1
            assert numbers[0] >= 48


def test_deep_stacks_come_whole_and_quickly(processes: Any, gate: Path) -> None:
    class DeepTask(HeldTask):
        def move(self, action: Any, depth: int = 300) -> None:
            self.move(action, depth - 1) if depth else super().move(action)

    with processes.toys(
        DeepTask, count=2, gate=str(gate), prelude=None, max_steps=9, vector={"read_timeout": 1}
    ) as tasks:
        with pytest.raises(WaitTimeout) as caught:
            tasks.step([0] * 2)
        for stack in caught.value.stacks.values():
            assert stack.endswith("  ...\n")  # faulthandler shows a hundred
            assert 90 < stack.count("in move") <= 100
        gate.touch()
        assert len(tasks.wait_step(20)) == 2


def test_a_message_shows_few_of_many_workers(processes: Any, gate: Path) -> None:
    class GatedTask(ToyTask):
        def move(self, action: Any) -> None:
            sleep_until(self.options.gate)

    with processes.toys(GatedTask, 6, gate=str(gate), vector={"read_timeout": 1}) as tasks:
        with pytest.raises(WaitTimeout) as caught:
            tasks.step([0] * 6)
        assert str(caught.value).count("innermost call first:") == 4
        assert "2 more workers are late" in str(caught.value)
        assert caught.value.stacks.keys() == set(range(6))
        gate.touch()
        assert len(tasks.wait_step(20)) == 6


class ErrnoTask(ToyTask):
    """Is looked at between a system call that failed and the look at why it did."""

    def errno_after_a_look(self) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        ctypes.set_errno(errno.ENOENT)
        getattr(libc, "raise")(stacks._SIGNAL)
        return ctypes.get_errno()


def test_a_look_changes_no_error_of_a_system_call(process_kind: Any) -> None:
    with process_kind.toys(ErrnoTask, count=1) as tasks:
        assert tasks.call("errno_after_a_look") == [errno.ENOENT]


def test_looks_leave_no_descriptor(processes: Any, gate: Path) -> None:
    with held(processes, gate) as tasks:
        tasks.async_step([0] * 3)
        before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(3):
            with pytest.raises(WaitTimeout):
                tasks.wait_step(0.2)
        assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        gate.touch()
        tasks.wait_step(20)


def test_where_there_are_no_memory_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gate: Path
) -> None:
    monkeypatch.setattr(stacks, "_IN_MEMORY", False)
    monkeypatch.setattr(stacks.tempfile, "tempdir", str(tmp_path))
    with VectorSampledTasks(
        ToySampler,
        toy_args(HeldTask, 2, gate=str(gate), prelude=None),
        multiprocessing_start_method="fork",  # whose workers are patched too
        read_timeout=3,
    ) as tasks:
        with pytest.raises(WaitTimeout, match="in spin_until"):
            tasks.step([0] * 2)
        gate.touch()
        tasks.wait_step(20)
        assert len(list(tmp_path.glob("vectasks-stack-*"))) == 2
    assert list(tmp_path.glob("vectasks-stack-*")) == []


# -- which limit ----------------------------------------------------------------------------------


class SlowStart(ToySampler):
    """Takes as long as the file ``gate`` is missing, if the file ``slow`` is there."""

    def __init__(self, *, gate: str, slow: str, **options: Any) -> None:
        if Path(slow).exists():
            sleep_until(gate)
        super().__init__(CountingTask, **options)


def test_start_and_steps_have_limits_of_their_own(processes: Any, tmp_path: Path) -> None:
    slow, gate = tmp_path / "slow", tmp_path / "gate"
    slow.touch()
    arguments = [{"gate": str(gate), "slow": str(slow), "sampler": i} for i in range(2)]
    with pytest.raises(WaitTimeout, match=r"(?s)start_timeout_s.*in sleep_until") as caught:
        processes.make(SlowStart, arguments, start_timeout_s=3, read_timeout=60, close_grace_s=0.1)
    assert caught.value.timeout_s == 3
    assert "wait_step" not in str(caught.value)
    slow.unlink()
    with processes.make(SlowStart, arguments, start_timeout_s=5, read_timeout=0.3) as tasks:
        slow.touch()
        with pytest.raises(WaitTimeout, match="start_timeout_s") as caught:
            tasks.restart_at(0)
        assert caught.value.timeout_s == 5
        with pytest.raises(WaitTimeout, match="read_timeout") as caught:
            tasks.call_at(1, "nap", 20)
        assert caught.value.timeout_s == 0.3
        tasks.read_timeout = 30
        gate.touch()
        wait_for(lambda: tasks.sampler_states[0] is SamplerState.READY)
        assert tasks.call_at(0, "counts") == (0, 0, 0)
        tasks.restart_at(1)
        assert [r.observation.tolist() for r in tasks.step([0] * 2)] == [[0, 0, 1], [1, 0, 1]]


@pytest.mark.guarantee("late-answers")
def test_one_deadline_for_a_step_and_its_joint_resample(processes: Any) -> None:
    class SlowSampler(ToySampler):
        def next_task(self, **kwargs: Any) -> Any:
            if self.world.episode >= 0:
                time.sleep(0.8)
            return super().next_task(**kwargs)

    with processes.make(
        SlowSampler,
        toy_args(SlowTask, 2, delay_s=0.8, max_steps=1),
        auto_resample_when_done=False,
        read_timeout=1.2,
    ) as tasks:
        with pytest.raises(WaitTimeout):
            tasks.step([0, 0])  # 0.8 s for the step, and then 0.8 s for the next tasks
        results = tasks.wait_step(20)
        assert [r.observation.tolist() for r in results] == [[0, 1, 0], [1, 1, 0]]
