"""The user's code raises, whatever and wherever: one sampler fails, and the error says it all."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vectasks import RLStepResult, SamplerState, SetupError, TaskAttributeError, TaskError
from vectasks.errors import RemoteTraceback
from vectasks.testing import toy_args
from vectasks.testing.faults import Fault, fail, run_out_of_memory, with_faults
from vectasks.testing.toys import CountingTask, ToySampler

READY, FAILED = SamplerState.READY, SamplerState.FAILED


def faulty(
    kind: Any, faults: list[Fault], *, max_steps: Any = 9, count: int = 4, **vector: Any
) -> Any:
    """A vector of counting samplers in which these faults happen."""
    args = toy_args(CountingTask, count, max_steps=max_steps)
    return kind.make(*with_faults(ToySampler, args, faults), **vector)


# -- wherever it raises ---------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a fault is put, what reaches it, and what that leaves."""

    at: str
    call: int
    reach: Callable[[Any], Any]
    command: str
    state: SamplerState
    max_steps: int = 9


STEPS: dict[str, Callable[[Any], Any]] = {
    "step": lambda tasks: tasks.step([0] * 4),
    "async_step": lambda tasks: (tasks.async_step([0] * 4), tasks.wait_step())[1],
    "step_batch": lambda tasks: tasks.step_batch([0] * 4),
    "send": lambda tasks: (tasks.send([0] * 4), tasks.recv())[1],
    "command": lambda tasks: tasks.command("step", [0] * 4),
}

PLACES = {
    **{f"step by {way}": Place("step", 1, reach, "step", FAILED) for way, reach in STEPS.items()},
    "metrics": Place("metrics", 1, STEPS["step"], "step", FAILED, max_steps=1),
    "next_task in a step": Place("next_task", 2, STEPS["step"], "step", FAILED, max_steps=1),
    "observation after a step": Place(
        "get_observations", 3, STEPS["step"], "step", FAILED, max_steps=1
    ),
    "next_task": Place("next_task", 2, lambda tasks: tasks.next_task(), "next_task", FAILED),
    "reset": Place("reset", 1, lambda tasks: tasks.reset_all(), "reset", FAILED),
    "set_seed": Place("set_seed", 1, lambda tasks: tasks.set_seeds(3), "seed", FAILED),
    "get_observations": Place(
        "get_observations", 2, lambda tasks: tasks.get_observations(), "observe", READY
    ),
    "render": Place("render", 1, lambda tasks: tasks.render("raw_rgb_list"), "render", READY),
    "call": Place("add", 1, lambda tasks: tasks.call("add", [(1, 2)] * 4), "call", READY),
    "call_sampler": Place(
        "sampler.scale",
        1,
        lambda tasks: tasks.call_sampler("scale", [2] * 4),
        "call_sampler",
        READY,
    ),
}


@pytest.mark.guarantee("failed-sampler", "raises-in-step", "raises-in-call")
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_task_that_raises_fails_alone(every_lane: Any, place: Place) -> None:
    fault = Fault(fail(KeyError("the lamp", 3)), sampler=1, at=place.at, call=place.call)
    with faulty(every_lane, [fault], max_steps=place.max_steps) as tasks:
        with pytest.raises(TaskError, match=f"sampler 1 failed in {place.command}") as caught:
            place.reach(tasks)
        error = caught.value
        assert (error.sampler_id, error.command) == (1, place.command)
        assert isinstance(error.__cause__, KeyError)
        assert error.__cause__.args == ("the lamp", 3)
        assert "the lamp" in str(error)
        assert 'faults.py", line' in error.remote_traceback  # where it was raised
        assert isinstance(error.__cause__.__cause__, RemoteTraceback)
        assert sorted(error.results) == [0, 2, 3]
        assert tasks.sampler_states == {0: READY, 1: place.state, 2: READY, 3: READY}
        if place.state is FAILED:
            assert_the_others_go_on(tasks)
            tasks.next_task_at(1)
        assert [len(result) for result in tasks.step([0] * 4)] == [4] * 4


def assert_the_others_go_on(tasks: Any) -> None:
    before = tasks.call_at(0, "counts"), tasks.call_at(2, "counts")
    assert tasks.stats()["restarts"] == 0
    tasks.pause_at(1)
    first, second, _ = tasks.step([0] * 3)
    assert [r.observation[0] for r in (first, second)] == [counts[0] for counts in before]
    tasks.resume_all()


@pytest.mark.guarantee("raises-in-step")
def test_the_others_replies_are_those_of_this_step(every_kind: Any) -> None:
    fault = Fault(fail(), sampler=1, call=2)
    with faulty(every_kind, [fault]) as tasks:
        tasks.step([0] * 4)
        with pytest.raises(TaskError) as caught:
            tasks.step([0, 1, 2, 3])
        results = caught.value.results
        assert all(isinstance(result, RLStepResult) for result in results.values())
        assert {i: r.observation.tolist() for i, r in results.items()} == {
            i: [i, 0, 2] for i in (0, 2, 3)
        }
        assert {i: r.reward for i, r in results.items()} == {0: 0.25, 2: 2.25, 3: 3.25}


@pytest.mark.guarantee("several-raise")
def test_all_who_failed_are_named(every_kind: Any) -> None:
    with faulty(every_kind, [Fault(fail(), sampler=i) for i in (1, 3)]) as tasks:
        with pytest.raises(TaskError, match=r"sampler 1 .*so did sampler 3") as caught:
            tasks.step([0] * 4)
        assert sorted(caught.value.results) == [0, 2]
        assert [i for i, state in tasks.sampler_states.items() if state is FAILED] == [1, 3]
        ((sampler_id, other),) = caught.value.also_failed.items()
        assert (sampler_id, other.sampler_id, type(other)) == (3, 3, TaskError)
        assert type(other.__cause__) is type(caught.value.__cause__)
        assert "Traceback" in other.remote_traceback
        assert list(pickle.loads(pickle.dumps(caught.value)).also_failed) == [3]


REVIVALS: dict[str, Callable[[Any], Any]] = {
    "next_task_at": lambda tasks: tasks.next_task_at(1),
    "restart_at": lambda tasks: tasks.restart_at(1),
    "reset_all": lambda tasks: tasks.reset_all(),
    "next_task": lambda tasks: tasks.next_task(),
}


@pytest.mark.guarantee("failed-sampler", "raises-in-step")
@pytest.mark.parametrize("revive", REVIVALS.values(), ids=REVIVALS.keys())
def test_who_failed_can_be_revived(every_kind: Any, revive: Any) -> None:
    with faulty(every_kind, [Fault(fail(), sampler=1)]) as tasks:
        with pytest.raises(TaskError):
            tasks.step([0] * 4)
        revive(tasks)
        result = tasks.step([0] * 4)[1]
        assert result.observation.tolist()[::2] == [1, 1]  # the first step of a new task
        assert result.done is False


@pytest.mark.guarantee("sensor-raises")
def test_a_sensor_that_raises_can_be_told_apart(every_kind: Any) -> None:
    class Suite:
        def get_observations(self, *, env: Any, task: Any) -> Any:
            if env.sampler == 1 and task.episode == 0:
                raise ZeroDivisionError("no light on the sensor")
            return env.sampler

    with faulty(every_kind, [], max_steps=1, callback_sensors=Suite()) as tasks:
        with pytest.raises(TaskError, match="sampler 1 failed in step") as caught:
            tasks.step([0] * 4)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert "in get_observations" in caught.value.remote_traceback
        assert [caught.value.results[i].info["__AFTER_TASK_CALLBACK__"] for i in (0, 2, 3)] == [
            0,
            2,
            3,
        ]
        tasks.next_task_at(1)
        assert tasks.step([0] * 4)[1].info["__AFTER_TASK_CALLBACK__"] == 1


@pytest.mark.guarantee("raises-in-make")
@pytest.mark.parametrize(
    ("at", "call"), [("make", 1), ("next_task", 1), ("get_observations", 1), ("set_seed", 1)]
)
def test_a_sampler_that_cannot_be_made(every_kind: Any, at: str, call: int) -> None:
    fault = Fault(fail(KeyError("no scene")), sampler=2, at=at, call=call)
    with pytest.raises(SetupError, match="sampler 2 could not be made") as caught:
        faulty(every_kind, [fault], seed=1)
    assert caught.value.sampler_id == 2
    assert isinstance(caught.value.__cause__, KeyError)
    assert 'faults.py", line' in caught.value.remote_traceback


class OnceMade(ToySampler):
    """Sampler 1 can be made once, until its mark is taken away."""

    def __init__(self, sampler: int, home: str, **options: Any) -> None:
        mark = Path(home) / str(sampler)
        if mark.exists() and sampler == 1:
            raise KeyError("the scene is gone")
        mark.touch()
        super().__init__(CountingTask, sampler, **options)


@pytest.mark.guarantee("raises-in-remake")
def test_a_sampler_that_cannot_be_made_again(every_kind: Any, tmp_path: Path) -> None:
    args = [{"sampler": i, "home": str(tmp_path)} for i in range(3)]
    with every_kind.make(OnceMade, args) as tasks:
        with pytest.raises(SetupError, match="sampler 1 could not be made") as caught:
            tasks.restart_at(1)
        assert isinstance(caught.value.__cause__, KeyError)
        assert tasks.sampler_states == {0: READY, 1: FAILED, 2: READY}
        with pytest.raises(TaskError, match="restart_at"):  # there is no sampler to ask
            tasks.next_task_at(1)
        (tmp_path / "1").unlink()
        tasks.restart_at(1)
        assert len(tasks.step([0] * 3)) == 3


@pytest.mark.guarantee("raises-in-close")
@pytest.mark.parametrize("error", [KeyError("stuck"), SystemExit(3), asyncio.CancelledError()])
@pytest.mark.parametrize("at", ["close", "sampler.close"])
def test_what_closing_raises_is_told_when_all_is_closed(
    every_kind: Any, at: str, error: BaseException, tmp_path: Path
) -> None:
    args = toy_args(CountingTask, 4, marks=str(tmp_path))
    tasks = every_kind.make(*with_faults(ToySampler, args, [Fault(fail(error), sampler=1, at=at)]))
    tasks.step([0] * 4)
    with pytest.raises(TaskError, match="sampler 1 failed in close") as caught:
        tasks.close()
    assert type(caught.value.__cause__) is type(error)
    assert tasks.is_closed
    marks = {f"{what} {i}" for i in range(4) for what in ("task", "sampler")}
    failed = "sampler 1" if at == "sampler.close" else "task 1"
    assert {path.name for path in tmp_path.iterdir()} == marks - {failed}
    tasks.close()


# -- whatever it raises ---------------------------------------------------------------------------

HERE = os.getpid()


class TwoArguments(Exception):
    """Pickle rebuilds it from ``args``, which is one too few."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{why} in {where}")


class Forgetful(Exception):
    """Survives pickling, but its message does not."""

    def __init__(self, *words: str) -> None:
        super().__init__()
        self.words = words

    def __str__(self) -> str:
        return " ".join(self.words)

    def __reduce__(self) -> Any:
        return Forgetful, ()


class ExplodesWhenLoaded(Exception):
    def __reduce__(self) -> Any:
        return explode, (None,)


class ExplodesWhenLoadedHere(Exception):
    """Survives where it is raised, not where it is read."""

    def __reduce__(self) -> Any:
        return explode, (HERE, *self.args)


class ExplodesWhenPickled(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not to be pickled")


class ExitsWhenLoaded(Exception):
    def __reduce__(self) -> Any:
        return exit_now, ()


class ExplodesWhenShown(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not to be shown")


def explode(pid: int | None, *args: Any) -> Any:
    if pid is None or os.getpid() == pid:
        raise RuntimeError("not to be loaded")
    return ExplodesWhenLoadedHere(*args)


def exit_now() -> Any:
    raise SystemExit(4)


def local_class() -> Exception:
    class Local(Exception):
        pass

    return Local("the lamp is off")


def with_lock() -> Exception:
    error = ValueError("the lamp is off")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


def nested() -> Exception:
    error = ValueError("the lamp is off")
    error.__cause__ = TwoArguments("the kitchen", "no power")
    return error


class Case(NamedTuple):
    make: Callable[[], BaseException]
    told: str
    survives: bool


CASES = {
    "plain": Case(lambda: ValueError("the lamp is off"), "the lamp is off", True),
    "two arguments": Case(
        lambda: TwoArguments("the kitchen", "no power"), "no power in the kitchen", False
    ),
    "local class": Case(local_class, "the lamp is off", True),
    "a lock": Case(with_lock, "the lamp is off", False),
    "loses its message": Case(lambda: Forgetful("the", "lamp"), "the lamp", False),
    "explodes when loaded": Case(lambda: ExplodesWhenLoaded("bang"), "bang", False),
    "explodes when pickled": Case(lambda: ExplodesWhenPickled("bang"), "bang", False),
    "exits when loaded": Case(lambda: ExitsWhenLoaded("bang"), "bang", False),
    "explodes when shown": Case(ExplodesWhenShown, "could not be formatted", True),
    "with a cause": Case(nested, "the lamp is off", True),
    "a cancellation": Case(lambda: asyncio.CancelledError("stopped"), "stopped", True),
    "a generator's end": Case(lambda: GeneratorExit("stopped"), "stopped", True),
    "very long": Case(lambda: ValueError("x" * 3_000_000), "xxxx", True),
    "odd characters": Case(lambda: ValueError("\udcff \x00 é"), "é", True),
}
if sys.version_info >= (3, 11):
    group = ExceptionGroup("two", [ValueError("a"), KeyError("b")])  # noqa: F821
    CASES["a group"] = Case(lambda: group, "two", True)


@pytest.mark.guarantee("odd-exception")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_any_exception_is_told(quick_lane: Any, case: Case) -> None:
    with faulty(quick_lane, [Fault(fail(case.make), sampler=1)]) as tasks:
        with pytest.raises(TaskError) as caught:
            tasks.step([0] * 4)
        error = caught.value
        assert case.told in str(error)
        original = case.make()
        assert type(original).__qualname__ in str(error)
        assert 'faults.py", line' in error.remote_traceback
        if case.survives:
            assert type(error.__cause__).__name__ == type(original).__name__
            assert repr(error.__cause__.args) == repr(original.args)
        else:
            assert isinstance(error.__cause__, RemoteTraceback)
            assert str(error.__cause__).strip() == error.remote_traceback.strip()
        assert sorted(error.results) == [0, 2, 3]
        tasks.next_task_at(1)
        assert len(tasks.step([0] * 4)) == 4


@pytest.mark.guarantee("odd-exception")
def test_an_exception_that_only_explodes_here(process_kind: Any) -> None:
    with faulty(process_kind, [Fault(fail(ExplodesWhenLoadedHere), sampler=1)]) as tasks:
        with pytest.raises(TaskError, match="ExplodesWhenLoadedHere") as caught:
            tasks.step([0] * 4)
        assert isinstance(caught.value.__cause__, RemoteTraceback)


@pytest.mark.guarantee("raises-in-step")
def test_a_remote_cause_is_in_the_traceback(every_kind: Any) -> None:
    with (
        faulty(every_kind, [Fault(fail(nested), sampler=1)]) as tasks,
        pytest.raises(TaskError) as caught,
    ):
        tasks.step([0] * 4)
    assert "no power in the kitchen" in caught.value.remote_traceback


@pytest.mark.guarantee("no-memory")
def test_no_memory_is_an_error_like_others(every_kind: Any) -> None:
    with faulty(every_kind, [Fault(run_out_of_memory(), sampler=1)]) as tasks:
        with pytest.raises(TaskError, match="MemoryError") as caught:
            tasks.step([0] * 4)
        assert isinstance(caught.value.__cause__, MemoryError)
        tasks.next_task_at(1)
        assert len(tasks.step([0] * 4)) == 4


@pytest.mark.guarantee("attribute-error")
def test_an_attribute_that_raises_is_no_missing_one(every_kind: Any) -> None:
    faults = [Fault(fail(AttributeError("deep inside")), sampler=1, at="step")]
    with faulty(every_kind, faults) as tasks:
        with pytest.raises(TaskError) as caught:
            tasks.step([0] * 4)
        assert not isinstance(caught.value, TaskAttributeError)
