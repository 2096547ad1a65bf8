"""``vectasks top``: what it shows of a vector in another process, and that it only looks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vectasks import SingleProcessVectorSampledTasks, TaskError, VectorSampledTasks
from vectasks.cli import main as cli
from vectasks.cli import top
from vectasks.cli.common import EXIT_BAD_USE
from vectasks.errors import InvalidArgument
from vectasks.protocol import SamplerState
from vectasks.testing.toys import CountingTask, FailingTask, ToySampler, toy_args

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="top reads /proc")


def vector(task_class: Any = CountingTask, cls: Any = VectorSampledTasks, **options: Any) -> Any:
    toy_options = options.pop("toys", {})
    return cls(
        ToySampler, toy_args(task_class, 3, **toy_options), should_log=False, name="mine", **options
    )


@pytest.fixture(params=[VectorSampledTasks, SingleProcessVectorSampledTasks])
def tasks(request: pytest.FixtureRequest) -> Iterator[Any]:
    with vector(cls=request.param, timing=True) as tasks:
        yield tasks


SCRIPT = """
import sys
from vectasks import SingleProcessVectorSampledTasks
from vectasks.testing.toys import CountingTask, ToySampler, toy_args
tasks = SingleProcessVectorSampledTasks(
    ToySampler, toy_args(CountingTask, 2), should_log=False, name="afar", timing=True
)
for _ in range(5):
    tasks.step([0, 0])
print("stepped", flush=True)
sys.stdin.read()
tasks.close()
print("closed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def afar() -> Iterator[Any]:
    """A process with a vector named afar, which has stepped; its stdin is awaited."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stepped\n"
        yield process
        process.kill()


def test_shows_states_counts_and_latencies(tasks: Any) -> None:
    for _ in range(10):
        tasks.step([0] * 3)
    pids = tasks.call("pid")
    tasks.pause_at(1)
    reading = top.choose_vector(os.getpid(), "mine").read()
    assert (reading.name, reading.pid, reading.is_closed) == ("mine", os.getpid(), False)
    assert reading.num_workers == len(set(pids))
    assert [line.state for line in reading.samplers] == [
        SamplerState.READY,
        SamplerState.PAUSED,
        SamplerState.READY,
    ]
    for line, pid in zip(reading.samplers, pids, strict=True):
        assert line.p50_s is not None
        assert line.p95_s is not None
        assert 0 < line.p50_s <= line.p95_s
        assert line.pid == pid
    tasks.resume_all()
    assert top.choose_vector(os.getpid(), "mine").read().samplers[1].state is SamplerState.READY


def test_shows_who_has_not_answered() -> None:
    with vector() as tasks:
        worker = tasks.call_at(1, "pid")
        live_stats = top.choose_vector(os.getpid(), "mine")
        os.kill(worker, signal.SIGSTOP)
        wanted = [SamplerState.READY, SamplerState.BUSY, SamplerState.READY]
        deadline = time.monotonic() + 30
        tasks.async_step([0] * 3)
        try:
            while (states := [line.state for line in live_stats.read().samplers]) != wanted:
                assert time.monotonic() < deadline, states
        finally:
            os.kill(worker, signal.SIGCONT)
        tasks.wait_step()
        assert SamplerState.BUSY not in {line.state for line in live_stats.read().samplers}


def test_shows_the_last_error_and_who_failed() -> None:
    with vector(FailingTask, toys={"fail_at": "step"}) as tasks:
        tasks.step([0] * 3)
        with pytest.raises(TaskError):
            tasks.step([0] * 3)
        reading = top.choose_vector(os.getpid(), "mine").read()
        assert reading.error.startswith("TaskError: sampler 0")
        assert reading.samplers[0].state is SamplerState.FAILED
        assert reading.error_age_s < 60


def test_a_vector_in_another_process(afar: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top", str(afar.pid)]) == 0
    shown = capsys.readouterr().out
    assert f"process {afar.pid}, 2 samplers in 1 workers" in shown
    assert shown.count("READY") == 2
    assert cli.main(["top", "--name", "afar", "--once"]) == 0
    assert capsys.readouterr().out.count("READY") == 2


def test_a_killed_vector_leaves_nothing_and_is_seen_to_be_gone(afar: Any) -> None:
    live_stats = top.choose_vector(afar.pid, None)
    assert not live_stats.read().is_closed
    afar.kill()
    afar.wait()
    assert live_stats.read().is_closed
    with pytest.raises(InvalidArgument, match="no process"):
        top.choose_vector(afar.pid, None)


def test_nothing_can_be_written(afar: Any) -> None:
    live_stats = top.choose_vector(afar.pid, None)
    with pytest.raises(TypeError):
        live_stats._memory[0] = 0
    assert not live_stats._lines.head.flags.writeable


def test_a_closed_vector_is_not_found() -> None:
    tasks = vector()
    live_stats = top.choose_vector(os.getpid(), "mine")
    tasks.close()
    assert live_stats.read().is_closed
    del live_stats
    with pytest.raises(InvalidArgument, match="no vector named 'mine'"):
        top.choose_vector(None, "mine")


def test_two_vectors_must_be_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with vector(cls=SingleProcessVectorSampledTasks), vector(cls=SingleProcessVectorSampledTasks):
        assert cli.main(["top", str(os.getpid())]) == EXIT_BAD_USE
        assert "choose one by PID or --name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["999999999"], "no process 999999999"),
        (["--name", "nobody's"], "no vector named"),
        (["walls"], "argument PID: 'walls' is not a valid integer"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["top", *arguments]) == EXIT_BAD_USE
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_many_samplers_are_cut_to_the_ones_worth_seeing(tasks: Any) -> None:
    from rich.console import Console

    tasks.pause_at(2)
    console = Console(width=100)
    with console.capture() as capture:
        console.print(top.view(top.choose_vector(os.getpid(), "mine").read(), most_rows=1))
    shown = capture.get()
    assert "PAUSED" in shown
    assert "READY" not in shown
    assert "2 more samplers" in shown


def test_without_rich_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert cli.main(["top"]) == EXIT_BAD_USE
    assert "rich is needed and cannot be imported" in capsys.readouterr().err
