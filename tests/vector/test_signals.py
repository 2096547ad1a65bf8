"""Ctrl-C, SIGTERM and SIGKILL: who is told, who ends, and how soon."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from process_scripts import Script, still_running

from vectasks import SamplerState, SingleProcessVectorSampledTasks, VectorSampledTasks
from vectasks._util.interrupts import CtrlC
from vectasks.replay.episode_log import EpisodeLog
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, ToySampler, ToyTask
from vectasks.transport.step_results import StepResults

Start = Callable[[str], Script]


# -- the parent ends ------------------------------------------------------------------------------


@pytest.mark.guarantee("killed-parent")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_parent(
    start: Start, method: str, number: signal.Signals, busy: bool
) -> None:
    script = start(f"""
        tasks = VectorSampledTasks(
            ToySampler, toy_args(GatedTask, 3), multiprocessing_start_method={method!r}
        )
        if {busy}:
            tasks.async_step([0] * 3)
        print("ready", flush=True)
        time.sleep(100)
    """)
    script.wait_for_line("ready")
    if busy:
        script.wait_for_files("busy 0", "busy 1", "busy 2")  # two sleep, one computes
    family = script.family()
    assert len(family) >= 3
    script.process.send_signal(number)
    assert script.wait() == -number
    assert still_running(family, 2.0) == []
    assert script.stderr == ""


def test_tasks_are_closed_when_the_parent_is_killed(start: Start, method: str) -> None:
    script = start(f"""
        tasks = VectorSampledTasks(
            ToySampler,
            toy_args(CountingTask, 2, marks="."),
            multiprocessing_start_method={method!r},
        )
        print("ready", flush=True)
        time.sleep(100)
    """)
    script.wait_for_line("ready")
    family = script.family()
    script.process.kill()
    assert still_running(family, 2.0) == []
    assert {"task 0", "task 1", "sampler 0", "sampler 1"} <= {p.name for p in script.cwd.iterdir()}


def test_workers_of_a_worker_end_too(start: Start) -> None:
    script = start("""
        class NestingTask(ToyTask):
            def begin(self):
                self.inner = VectorSampledTasks(
                    ToySampler, toy_args(CountingTask, 2), multiprocessing_start_method="fork"
                )
        tasks = VectorSampledTasks(ToySampler, toy_args(NestingTask, 2, max_steps=99))
        print(tasks.call("counts"), flush=True)
        print("ready", flush=True)
        time.sleep(100)
    """)
    script.wait_for_line("ready")
    family = script.family()
    assert len(family) >= 6
    script.process.kill()
    assert still_running(family, 4.0) == []  # one generation after the other


# -- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.guarantee("ctrl-c")
def test_ctrl_c_in_a_step_is_the_parents_alone(start: Start, method: str) -> None:
    script = start(f"""
        with VectorSampledTasks(
            ToySampler, toy_args(GatedTask, 3, max_steps=9), multiprocessing_start_method={method!r}
        ) as tasks:
            try:
                tasks.step([0] * 3)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            print([r.observation.tolist() for r in tasks.wait_step()])
            print([r.observation.tolist() for r in tasks.step([0] * 3)])
            print(tasks.stats()["restarts"])
    """)
    script.wait_for_files("busy 0", "busy 1", "busy 2")
    script.interrupt()
    script.wait_for_line("interrupted", 2.0)
    script.open_the_gate()
    assert script.wait() == 0
    assert script.stdout.splitlines()[1:] == [
        "[[0, 0, 1], [1, 0, 1], [2, 0, 1]]",
        "[[0, 0, 2], [1, 0, 2], [2, 0, 2]]",
        "0",
    ]
    assert script.stderr == ""


def test_ctrl_c_ends_a_script_that_does_not_expect_it(start: Start, method: str) -> None:
    script = start(f"""
        with VectorSampledTasks(
            ToySampler,
            toy_args(GatedTask, 3),
            multiprocessing_start_method={method!r},
            close_grace_s=0.2,
        ) as tasks:
            tasks.step([0] * 3)
    """)
    script.wait_for_files("busy 0", "busy 1", "busy 2")
    family = script.family()
    script.interrupt()
    assert script.wait(5.0) == -signal.SIGINT
    assert script.num_reports == 1, script.stderr
    assert script.stderr.rstrip().endswith("KeyboardInterrupt")
    assert still_running(family, 2.0) == []


def test_ctrl_c_while_workers_start(start: Start, method: str) -> None:
    script = start(f"""
        class SlowSampler(ToySampler):
            def __init__(self, **arguments):
                while not Path("gate").exists():
                    time.sleep(0.01)
        print("starting", flush=True)
        VectorSampledTasks(
            SlowSampler,
            toy_args(CountingTask, 3),
            multiprocessing_start_method={method!r},
            close_grace_s=0.2,
        )
    """)
    script.wait_for_line("starting")
    script.wait_until(lambda: bool(script.family()))  # from here on the workers come up
    script.interrupt()
    assert script.wait(8.0) == -signal.SIGINT
    assert script.num_reports == 1, script.stderr
    assert script.stderr.rstrip().endswith("KeyboardInterrupt")


def test_other_children_of_the_forkserver_still_get_ctrl_c(start: Start) -> None:
    script = start("""
        import multiprocessing
        tasks = VectorSampledTasks(ToySampler, toy_args(CountingTask, 2))
        context = multiprocessing.get_context("forkserver")
        other = context.Process(target=time.sleep, args=(100,))
        other.start()
        Path("pid").write_text(str(other.pid))
        print("ready", flush=True)
        other.join()
        print(other.exitcode)
        print(len(tasks.step([0, 0])))
        tasks.close()
    """)
    script.wait_for_line("ready")
    pid = int((script.cwd / "pid").read_text())
    # It begins to listen a moment after its start.
    script.wait_until(lambda: _interrupted(script, pid))
    assert script.wait() == 0
    assert script.stdout.splitlines()[1:] == ["1", "2"]


def _interrupted(script: Script, pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        return True
    return len(script.stdout.splitlines()) > 1


def test_a_second_ctrl_c_ends_a_close_at_once(start: Start) -> None:
    script = start("""
        tasks = VectorSampledTasks(ToySampler, toy_args(GatedTask, 2), close_grace_s=60)
        tasks.async_step([0, 0])
        print("closing", flush=True)
        try:
            tasks.close()
        except KeyboardInterrupt:
            print("cut off", flush=True)
        tasks.close()
        print("closed", flush=True)
    """)
    script.wait_for_line("closing")
    script.wait_for_files("busy 0", "busy 1")
    family = script.family()
    script.interrupt()
    assert script.wait(5.0) == 0
    assert script.stdout.splitlines()[1:] == ["cut off", "closed"]
    assert still_running(family, 2.0) == []


@pytest.mark.guarantee("ctrl-c")
@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_ctrl_c_never_leaves_the_vector_out_of_step(start: Start, transport: str) -> None:
    # It comes at a random moment, in the midst of the parent's own work or while it waits.
    script = start(f"""
        import random
        import time

        class Pausing(CountingTask):
            def move(self, action):
                if self.step_number % 4 == 0:
                    time.sleep(0.001)

        dice = random.Random(0)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with VectorSampledTasks(
            ToySampler,
            toy_args(Pausing, 4, max_steps=1e9),
            max_processes=2,
            observation_transport={transport!r},
            read_timeout=10,
        ) as tasks:
            interrupts = waited = 0
            while interrupts < 1000:
                try:
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 5e-4))
                    while True:
                        tasks.step([0] * 4)
                except KeyboardInterrupt:
                    interrupts += 1
                try:
                    tasks.wait_step()
                    waited += 1
                except NothingPending:
                    pass
                assert len({{step for _, _, step in tasks.call("counts")}}) == 1
                assert [int(r.observation[0]) for r in tasks.step([0] * 4)] == [0, 1, 2, 3]
            print(interrupts, 0 < waited < interrupts)
    """)
    assert script.wait(60) == 0, script.stderr
    assert script.stdout.split() == ["1000", "True"]


@pytest.mark.guarantee("ctrl-c")
@pytest.mark.parametrize("way", ["all", "some", "out"])
@pytest.mark.parametrize("task", ["CountingTask", "InfoTask"])
def test_ctrl_c_leaves_no_step_out_in_process(start: Start, task: str, way: str) -> None:
    # Steps of some samplers, and those into given arrays, take a longer way than others.
    script = start(f"""
        import random

        from vectasks import SamplerState, SingleProcessVectorSampledTasks
        from vectasks.testing.toys import InfoTask

        dice = random.Random(0)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        arguments = toy_args({task}, 4, max_steps=5, step_info={{"told": 1}})
        with SingleProcessVectorSampledTasks(ToySampler, arguments, should_log=False) as tasks:
            out = tasks.step_batch([0] * 4) if {way!r} == "out" else None
            if {way!r} == "some":
                tasks.pause_at(1)
            interrupts = 0
            while interrupts < 1000:
                try:
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 3e-4))
                    while True:
                        tasks.step_batch([0] * tasks.num_unpaused_tasks, out=out)
                except KeyboardInterrupt:
                    interrupts += 1
                assert SamplerState.BUSY not in tasks.sampler_states.values()
                tasks.reset_all()
            print(interrupts)
    """)
    assert script.wait(60) == 0, script.stderr
    assert script.stdout.split() == ["1000"]


@pytest.mark.guarantee("split-rollouts")
@pytest.mark.parametrize("transport", ["auto", "pipe"])
def test_ctrl_c_amid_a_rollout_leaves_no_step_out(start: Start, transport: str) -> None:
    # As above, while groups take turns; it may come in the policy, too.
    script = start(f"""
        import random
        import time

        import numpy as np

        from vectasks.rollouts import RolloutBuffer, collect

        class Pausing(CountingTask):
            def move(self, action):
                if self.step_number % 4 == 0:
                    time.sleep(0.001)

        def policy(observation):
            return {{"action": np.zeros(len(observation), int), "value": observation[:, 0]}}

        dice = random.Random(0)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with VectorSampledTasks(
            ToySampler,
            toy_args(Pausing, 4, max_steps=1e9),
            max_processes=2,
            observation_transport={transport!r},
            read_timeout=10,
        ) as tasks:
            buffer, short = RolloutBuffer(tasks, 50), RolloutBuffer(tasks, 2)
            for _ in range(500):
                try:
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 1e-3))
                    while True:
                        collect(tasks, policy, buffer, num_splits=2)
                except KeyboardInterrupt:
                    pass
                assert tasks.vector_state is VectorState.IDLE
                while SamplerState.BUSY in tasks.sampler_states.values():
                    time.sleep(1e-4)  # it came while they were asked what they observe
                shown = np.stack(tasks.get_observations())
                collect(tasks, policy, short, num_splits=2)
                for row in range(2):
                    assert (short.observations[row] == shown + [0, 0, row]).all()
                assert tasks.stats()["steps"] == sum(tasks.call("num_steps_taken"))
            print("done")
    """)
    assert script.wait(60) == 0, script.stderr
    assert script.stdout.split() == ["done"]


def test_the_handler_of_ctrl_c_is_the_users(start: Start) -> None:
    told: list[int] = []

    def handler(number: int, frame: Any) -> None:
        told.append(number)
        if len(told) == 2:
            raise ZeroDivisionError

    before = signal.signal(signal.SIGINT, handler)
    try:
        with VectorSampledTasks(ToySampler, toy_args(CountingTask, 1), should_log=False) as tasks:
            assert signal.getsignal(signal.SIGINT) is handler
            tasks.step([0])
            assert signal.getsignal(signal.SIGINT) is handler
            ctrl_c = CtrlC()
            ctrl_c.hold()
            ctrl_c.hold()
            signal.raise_signal(signal.SIGINT)
            ctrl_c.let_go()
            assert told == []
            ctrl_c.let_go()
            assert told == [signal.SIGINT]
            assert signal.getsignal(signal.SIGINT) is handler
            ctrl_c.hold()
            with pytest.raises(ZeroDivisionError), ctrl_c:
                signal.raise_signal(signal.SIGINT)
            ctrl_c.let_go()
            assert len(told) == 2
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.guarantee("interrupt-in-process")
def test_ctrl_c_passes_through_the_in_process() -> None:
    class InterruptedTask(ToyTask):
        def move(self, action: Any) -> None:
            if self.env.sampler == 1 and self.episode == 0:
                signal.raise_signal(signal.SIGINT)

    with SingleProcessVectorSampledTasks(
        ToySampler, toy_args(InterruptedTask, 3, max_steps=9), should_log=False
    ) as tasks:
        with pytest.raises(KeyboardInterrupt):
            tasks.step([0] * 3)
        assert tasks.sampler_states[0] is SamplerState.READY
        for index in range(3):
            if tasks.sampler_states[index] is SamplerState.FAILED:
                tasks.next_task_at(index)
        assert len(tasks.step([0] * 3)) == 3


@pytest.mark.parametrize("where", ["before it is written down", "after"])
def test_ctrl_c_writes_a_step_of_the_in_process_down_once(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    # The log tidies up after each step.
    monkeypatch.setattr("vectasks.replay.episode_log._LOOK_EVERY", 0)
    with SingleProcessVectorSampledTasks(
        ToySampler, toy_args(ToyTask, 3, max_steps=9), should_log=False
    ) as tasks:
        tasks.step_batch([1] * 3)
        if where == "after":
            monkeypatch.setattr(EpisodeLog, "tidy_up", interrupted)
        else:
            monkeypatch.setattr(StepResults, "batch", interrupted)
        tasks.get_observations()  # the next step is made in Python
        with pytest.raises(KeyboardInterrupt):
            tasks.step_batch([2] * 3)
        tasks.step_batch([3] * 3)
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
        assert [tasks.recording_at(i).actions for i in range(3)] == [[1, 2, 3]] * 3
