"""Calls that cannot be: refused at the call, nothing sent, nothing lost."""

from __future__ import annotations

import copy
import os
import pickle
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vectasks import (
    AlreadyPending,
    InvalidArgument,
    NothingPending,
    SamplerIndexError,
    SamplerState,
    SingleProcessVectorSampledTasks,
    UsageError,
)
from vectasks.testing.toys import ToySampler, ToyTask, toy_args

#: Every method that sends something or changes something, with arguments that fit four toys.
CALLS: dict[str, Callable[[Any], Any]] = {
    "async_step": lambda v: v.async_step([0] * 4),
    "step_async": lambda v: v.step_async([0] * 4),
    "step": lambda v: v.step([0] * 4),
    "step_at": lambda v: v.step_at(0, 0),
    "step_batch": lambda v: v.step_batch([0] * 4),
    "send": lambda v: v.send([0] * 4),
    "next_task": lambda v: v.next_task(),
    "next_task_at": lambda v: v.next_task_at(0),
    "get_observations": lambda v: v.get_observations(),
    "reset_all": lambda v: v.reset_all(),
    "set_seeds": lambda v: v.set_seeds(1),
    "restart_at": lambda v: v.restart_at(0),
    "pause_at": lambda v: v.pause_at(0),
    "resume_all": lambda v: v.resume_all(),
    "command": lambda v: v.command("attr", ["note"] * 4),
    "command_at": lambda v: v.command_at(0, "attr", "note"),
    "call": lambda v: v.call("counts"),
    "call_at": lambda v: v.call_at(0, "counts"),
    "call_sampler": lambda v: v.call_sampler("scale", [[1]] * 4),
    "call_sampler_at": lambda v: v.call_sampler_at(0, "scale", [1]),
    "attr": lambda v: v.attr("note"),
    "attr_at": lambda v: v.attr_at(0, "note"),
    "set_attr": lambda v: v.set_attr("note", [1] * 4),
    "render": lambda v: v.render("raw_rgb_list"),
}
COLLECTING = {
    "wait_step": lambda v: v.wait_step(),
    "step_wait": lambda v: v.step_wait(),
    "recv": lambda v: v.recv(),
}
AT_ANY_TIME = {"close", "stats", "trace", "recording_at", "record_episodes"}


def test_no_method_is_left_out() -> None:
    methods = {
        name
        for name in dir(SingleProcessVectorSampledTasks)
        if not name.startswith("_")
        and isinstance(getattr(SingleProcessVectorSampledTasks, name), types.FunctionType)
    }
    assert methods == CALLS.keys() | COLLECTING.keys() | AT_ANY_TIME


FIRST = [[i, 0, 1] for i in range(4)]


@pytest.mark.guarantee("one-step-out")
@pytest.mark.parametrize("begin", ["async_step", "step_async", "send"])
def test_everything_else_is_refused_while_a_step_is_out(every_kind: Any, begin: str) -> None:
    with every_kind.toys(max_steps=9) as vector:
        CALLS[begin](vector)
        collect = "recv" if begin == "send" else "wait_step"
        for name, call in CALLS.items():
            if begin == "send" and name == "send":
                continue  # of samplers that are not out: see below
            with pytest.raises(AlreadyPending, match=rf"{collect}\(\)") as caught:
                call(vector)
            assert isinstance(caught.value, RuntimeError), name
        if begin == "send":
            with pytest.raises(RuntimeError):
                vector.send([0, 0], [1, 2])
            assert vector.recv().observation.tolist() == FIRST
        else:
            with pytest.raises(NothingPending, match="recv"):
                vector.recv()
            assert [r.observation.tolist() for r in vector.wait_step()] == FIRST
        for call in COLLECTING.values():
            with pytest.raises(NothingPending):
                call(vector)
        assert vector.call("counts") == [tuple(first) for first in FIRST]
        assert vector.attr("note") == ["unset"] * 4  # set_attr was not sent


def test_send_and_recv_misused(make: Any) -> None:
    vector = make(max_steps=9)
    for samplers in ([0, 0], [4], [-1]):
        with pytest.raises(SamplerIndexError, match="each once"):
            vector.send([0] * len(samplers), samplers)
    with pytest.raises(InvalidArgument):
        vector.send([0], [0, 1])
    vector.send([0, 0], [3, 1])
    for count in (0, 3, -1):
        with pytest.raises(InvalidArgument, match="from 1 to 2"):
            vector.recv(count)
    with pytest.raises(NothingPending):
        vector.wait_step()
    vector.send([0], [0])  # allowed: it was not out
    assert vector.recv().observation.tolist() == [[0, 0, 1], [1, 0, 1], [3, 0, 1]]
    assert [n for _, _, n in vector.call("counts")] == [1, 1, 0, 1]


@pytest.mark.guarantee("one-step-out")
@pytest.mark.parametrize("begin", ["async_step", "send"])
def test_close_while_a_step_is_out_is_made_right(
    every_kind: Any, begin: str, tmp_path: Path
) -> None:
    vector = every_kind.toys(marks=str(tmp_path))
    CALLS[begin](vector)
    vector.close()
    assert vector.is_closed
    assert len(list(tmp_path.iterdir())) == 8  # four tasks and four samplers


class GatedTask(ToyTask):
    """``meet`` returns when the file ``gate`` can be read to its end."""

    def meet(self) -> str:
        with Path(self.options.inside).open("wb"):  # a FIFO: opens when the other side does
            pass
        return Path(self.options.gate).read_text()


@pytest.mark.guarantee("misuse-refused")
def test_two_threads_at_once(processes: Any, tmp_path: Path) -> None:
    inside, gate = tmp_path / "inside", tmp_path / "gate"
    os.mkfifo(inside)
    os.mkfifo(gate)
    with processes.toys(GatedTask, inside=str(inside), gate=str(gate), max_steps=9) as vector:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(vector.call_at(0, "meet")))
        thread.start()
        inside.read_bytes()  # the other thread's call is under way now
        for name, call in {**CALLS, **COLLECTING, "close": lambda v: v.close()}.items():
            with pytest.raises(AlreadyPending, match="another thread"):
                call(vector)
            assert not vector.is_closed, name
        gate.write_text("done")
        thread.join()
        assert answers == ["done"]
        assert [r.observation.tolist() for r in vector.step([0] * 4)] == FIRST


@pytest.mark.guarantee("misuse-refused")
def test_no_method_works_in_a_fork(kind: Any) -> None:
    with kind.toys(max_steps=9) as vector:
        vector.async_step([0] * 4)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # no assertion may leave this process
            told = []
            try:
                for name, call in {**CALLS, **COLLECTING}.items():
                    try:
                        call(vector)
                        told.append(f"{name} was let in")
                    except UsageError as error:
                        if "make a new vector here" not in str(error):
                            told.append(f"{name}: {error}")
                vector.close()  # nothing of the parent's is closed by it
                del vector
            except BaseException as error:
                told.append(repr(error))
            os.write(writer, "\n".join(told or ["fine"]).encode())
            os._exit(0)
        os.close(writer)
        with open(reader, encoding="utf-8") as file:  # noqa: PTH123
            assert file.read() == "fine"
        os.waitpid(child, 0)
        assert [r.observation.tolist() for r in vector.wait_step()] == FIRST
        assert len(vector.step([0] * 4)) == 4


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_vector_cannot_be_duplicated(make: Any, duplicate: Callable[[Any], Any]) -> None:
    vector = make(count=2)
    with pytest.raises(TypeError, match="holds processes and cannot be pickled; pickle what"):
        duplicate(vector)
    assert len(vector.step([0, 0])) == 2


def test_the_in_process_is_restarted_from_within_a_step() -> None:
    class RestartingTask(ToyTask):
        def move(self, action: Any) -> None:
            if action == 3:
                tasks.restart_at(0)

    with SingleProcessVectorSampledTasks(
        ToySampler, toy_args(RestartingTask, 3, max_steps=9), should_log=False
    ) as tasks:
        tasks.step_batch([0, 3, 0])
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
        assert len(tasks.step_batch([0, 0, 0]).reward) == 3
