"""As :mod:`test_same_everywhere`, but tasks raise and workers are killed meanwhile.

The in-process vector is the model here too. It raises what it is told to raise, but cannot die:
where a worker is killed, the same samplers are made again there by ``restart_at``, and the other
ones are stepped one by one.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from test_same_everywhere import TestVectorAndInProcess, VectorAndInProcess

from vectasks import Command, RLStepResult, VectasksError
from vectasks.testing import assert_identical
from vectasks.testing.faults import Action, Fault, Proceed, fail, with_faults
from vectasks.testing.toys import ToySampler

# Set-up is spared: the first call of these is part of it.
PLACES = {"step": 1, "metrics": 1, "reset": 1, "next_task": 2, "set_seed": 2}

faults = st.builds(
    lambda at, later, action, sampler, times: (action, sampler, at, PLACES[at] + later, times),
    at=st.sampled_from(list(PLACES)),
    later=st.integers(0, 6),
    action=st.sampled_from([fail(), fail(functools.partial(KeyError, "x"))]),
    sampler=st.integers(0, 3),
    times=st.sampled_from([1, 1, 2, 5]),
)


def die_once_told(path: Path) -> Action:
    """An action that kills the worker where there is a file."""
    name = str(path)

    def act(proceed: Proceed) -> Any:
        if os.path.exists(name):  # noqa: PTH110  (travels by value)
            os.unlink(name)  # noqa: PTH108
            os.kill(os.getpid(), signal.SIGKILL)
        return proceed()

    return act


class FaultsInVectorAndInProcess(VectorAndInProcess):
    """Adds faults of the tasks' and deaths of the workers'."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()

    def prepare(self, data: Any) -> None:
        self.drawn = data.draw(st.lists(faults, max_size=3))
        self.restarts = data.draw(st.booleans())
        self.vector_options = {
            "on_worker_death": "restart" if self.restarts else "raise",
            "max_restarts": 1000,
        }

    def made_from(self, arguments: Any) -> tuple[Any, Any]:
        place = f"{'vector' if self.pair else 'in-process vector'} {{}}"
        self.orders = [Path(self.directory.name) / place.format(i) for i in range(len(arguments))]
        faults = [
            Fault(die_once_told(order), sampler=i, times=math.inf)
            for i, order in enumerate(self.orders)
        ]
        faults += [Fault(*given) for given in self.drawn if given[1] < len(arguments)]
        return with_faults(ToySampler, arguments, faults)

    def revive_everybody(self) -> None:
        self.both(lambda tasks: tasks.resume_all())
        while len(self.ready) < self.count:  # faults do not fire for ever
            index = next(i for i in range(self.count) if i not in self.ready)
            self.both(lambda tasks, index=index: tasks.restart_at(index))

    @precondition(lambda self: self.pair)
    @rule(data=st.data(), amid=st.booleans())
    def kill_a_worker(self, data: Any, amid: bool) -> None:
        """Kill a worker that is asked nothing, or in the midst of a step; and step."""
        self.revive_everybody()
        in_process, vector = self.pair
        pids = vector.call("pid")
        workers = [[i for i in range(self.count) if pids[i] == pid] for pid in dict.fromkeys(pids)]
        dead = data.draw(st.sampled_from(workers))
        if amid and not self.lockstep:  # where a done task waits, it is not stepped
            self.orders[dead[0]].touch()  # the first of its worker: no mate was stepped before
        else:
            _end(vector.call_at(dead[0], "pid"))
        actions = self.draw_actions(self.count)
        given, errors = _results(lambda: vector.step(actions))

        expected: dict[int, Any] = {}
        failures = {}
        for i in dead:
            in_process.restart_at(i)
        for i in range(self.count):
            if i in dead and self.restarts:
                observation = in_process.command_at(i, Command.OBSERVE)
                told = given[i].info.pop("worker_restarted")
                assert "SIGKILL" in told
                expected[i] = RLStepResult(observation, 0.0, True, {"truncated": True})
                self.lost += 1
            elif i in dead:
                failures[i] = "WorkerDied"
            else:
                one, error = _results(lambda i=i: in_process.step_at(i, actions[i]))
                if error is None:
                    expected[i] = one[0]
                else:
                    failures[i] = error
        assert_identical(dict(sorted(given.items())), expected, "step with a death")
        assert errors == (failures[min(failures)] if failures else None)
        if not self.restarts:
            vector.restart_at(dead[0])

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


def _results(step: Any) -> tuple[dict[int, Any], str | None]:
    """Return a step's results by sampler, and the name of its error."""
    try:
        return dict(enumerate(step())), None
    except VectasksError as error:
        return dict(error.results), type(error).__name__


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.001)


TestFaultsInVectorAndInProcess = pytest.mark.timeout(600)(FaultsInVectorAndInProcess.TestCase)
TestFaultsInVectorAndInProcess.settings = settings(TestVectorAndInProcess.settings, max_examples=15)
del TestVectorAndInProcess, VectorAndInProcess  # these are run where they are defined
