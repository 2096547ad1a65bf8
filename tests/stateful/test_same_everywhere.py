"""Whatever is done with a vector of processes, the in-process one gives the same, to the last bit.

A Hypothesis state machine: it draws spaces, tasks, start method, number of processes and transport,
makes a vector of processes and an in-process one of them, and does the same things with both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vectasks import (
    RLStepResult,
    SamplerState,
    SingleProcessVectorSampledTasks,
    StepBatch,
    VectasksError,
    VectorSampledTasks,
)
from vectasks.testing import assert_identical, toy_args
from vectasks.testing.toys import ToySampler, ToyTask

# -- spaces ---------------------------------------------------------------------------------------

FLOATS = (np.float16, np.float32, np.float64)
INTEGERS = (np.uint8, np.int16, np.int32, np.int64, np.uint64)
SHAPES = ((), (1,), (3,), (2, 3), (0,), (2, 0), (40, 30))

boxes = st.one_of(
    st.builds(
        lambda shape, dtype: spaces.Box(-np.inf, np.inf, shape, dtype),
        st.sampled_from(SHAPES),
        st.sampled_from(FLOATS),
    ),
    st.builds(
        lambda shape, dtype: spaces.Box(0, 100, shape, dtype),
        st.sampled_from(SHAPES),
        st.sampled_from(INTEGERS),
    ),
)
discrete = st.builds(spaces.Discrete, st.integers(1, 9), start=st.integers(-3, 3))
leaf_spaces = st.one_of(
    boxes,
    discrete,
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 9), min_size=1, max_size=3)),
    st.builds(spaces.MultiBinary, st.integers(1, 4)),
    st.just(spaces.Text(8)),
)
observation_spaces = st.recursive(
    leaf_spaces,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("zyxab"), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, max_size=3).map(lambda parts: spaces.Tuple(tuple(parts))),
    ),
    max_leaves=5,
)
action_spaces = st.one_of(
    discrete,
    st.builds(
        lambda shape, dtype: spaces.Box(-1, 1, shape, dtype),
        st.sampled_from([(), (2,), (2, 2)]),
        st.sampled_from((np.float32, np.float64, np.int8)),
    ),
    st.just(spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32)))),
    st.just(spaces.MultiDiscrete([3, 4])),
)

# -- tasks ----------------------------------------------------------------------------------------


class FuzzTask(ToyTask):
    """Observes what a seeded generator says, as odd as its options ask for.

    Options:
        space, actions: of observations and actions.
        odds: probability that a leaf comes as another type or dtype than usual.
        misfits: probability that a leaf does not fit its space.
        forms: "array" (also of single numbers), "numpy" (scalars) or "python" (numbers).
        reverse: give the keys of dicts in reverse order.
        reuse: write every observation into the same arrays.
        in_place: write observations where they are wanted.
        truncate: what ``info["truncated"]`` says at an end, or None.
        infos: probability of an info.
    """

    def begin(self) -> None:
        self.length = int(self.env.rng.integers(1, 7))
        self.seen = self._look()

    @property
    def observation_space(self) -> Any:
        return self.options.space

    @property
    def action_space(self) -> Any:
        return self.options.actions

    def move(self, action: Any) -> None:
        self.received_action = repr(action)
        self.seen = self._look()

    def _step(self, action: Any) -> RLStepResult:
        result = super()._step(action)
        return result._replace(observation=None) if self.options.in_place else result

    def reached_terminal_state(self) -> bool:
        return self.step_number >= self.length

    def reward(self, action: Any) -> Any:
        draw = self.env.rng.integers(10)
        if draw == 0:
            return float("nan")
        return int(draw) if draw < 4 else float(self.env.rng.normal())

    def info(self) -> Any:
        rng, options = self.env.rng, self.options
        if self.reached_terminal_state() and options.truncate is not None:
            return {"truncated": options.truncate}
        if rng.random() >= options.infos:
            return None if rng.random() < 0.5 else {}
        return {"action": self.received_action, "array": rng.normal(size=2), "seen": self.seen}

    def get_observations(self) -> Any:
        return self.seen

    def __getattr__(self, name: str) -> Any:
        # Only tasks that are asked to write in place have this method.
        if name == "write_observation" and self.__dict__["options"].in_place:
            return lambda out: _write(out, self.seen)
        raise AttributeError(name)

    def _look(self) -> Any:
        seen = self._draw(self.options.space)
        if not self.options.reuse:
            return seen
        if "seen" in self.env.notes and _fill(self.env.notes["seen"], seen):
            return self.env.notes["seen"]
        self.env.notes["seen"] = seen
        return seen

    def _draw(self, space: Any) -> Any:
        rng, options = self.env.rng, self.options
        if isinstance(space, spaces.Dict):
            keys = list(space.spaces)
            keys = keys[::-1] if options.reverse else keys
            return {key: self._draw(space[key]) for key in keys}
        if isinstance(space, spaces.Tuple):
            return tuple(self._draw(sub) for sub in space.spaces)
        if isinstance(space, spaces.Text):
            return "x" * int(rng.integers(1, 9))
        value: Any = rng.integers(0, 2, space.shape)
        if space.dtype.kind == "f":
            value = rng.normal(size=space.shape)
            strange = np.array([np.nan, -0.0, np.inf, -np.inf])[rng.integers(0, 4, space.shape)]
            value = np.where(rng.random(space.shape) < 0.2, strange, value)
        value = np.asarray(value, space.dtype)
        if rng.random() < options.misfits:
            return "a misfit" if rng.random() < 0.5 else np.zeros((7, 7, 7))
        if rng.random() < options.odds:
            kinds = {"f": np.float64, "i": np.int8, "u": np.uint8}
            odd = value.astype(kinds[value.dtype.kind])
            return odd if rng.random() < 0.5 else odd.tolist()
        if value.shape == () and options.forms != "array":
            return value[()] if options.forms == "numpy" else value.item()
        return value


def _fill(old: Any, new: Any) -> bool:
    """Write a new observation into the arrays of an old one; False if it cannot be."""
    if isinstance(new, dict):
        if type(old) is not dict or list(old) != list(new):
            return False
        for key in new:
            if not _fill(old[key], new[key]):
                old[key] = new[key]
        return True
    if isinstance(new, np.ndarray) and isinstance(old, np.ndarray):
        if old.dtype != new.dtype or old.shape != new.shape:
            return False
        old[...] = new
        return True
    return False


def _write(out: Any, seen: Any) -> None:
    if isinstance(seen, dict):
        for key, item in seen.items():
            _write(out[key], item)
    elif isinstance(seen, tuple):
        for target, item in zip(out, seen, strict=True):
            _write(target, item)
    else:
        out[...] = seen


# -- the machine ----------------------------------------------------------------------------------

START_METHODS = ["fork"] * 4 + ["forkserver"] * 4 + ["spawn"]


class VectorAndInProcess(RuleBasedStateMachine):
    """Does the same with a vector of processes and with its in-process vector, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.pair: list[Any] = []
        self.kept: list[tuple[Any, Any]] = []
        self.actions = np.random.default_rng(0)
        self.lockstep = False
        self.vector_options: dict[str, Any] = {}
        self.lost = 0  # steps that the vector gave and the in-process vector did not

    def prepare(self, data: Any) -> None:
        """Draw what a subclass adds."""

    def made_from(self, arguments: Any) -> tuple[Any, Any]:
        """Return the arguments that one of the two is made from."""
        return ToySampler, arguments

    def options_of_one(self) -> dict[str, Any]:
        """Further options of one of the two."""
        return {}

    @initialize(
        space=observation_spaces,
        actions=action_spaces,
        count=st.integers(1, 4),
        processes=st.integers(1, 4),
        start_method=st.sampled_from(START_METHODS),
        transport=st.sampled_from(["auto", "auto", "slab", "pipe"]),
        seed=st.integers(0, 2**31),
        odds=st.sampled_from([0.0, 0.0, 0.2]),
        misfits=st.sampled_from([0.0, 0.0, 0.05]),
        forms=st.sampled_from(["array", "numpy", "python"]),
        num_tasks=st.sampled_from([2, 5, float("inf")]),
        style=st.sampled_from(["plain", "reverse", "reuse", "in_place"]),
        truncate=st.sampled_from([None, False, True]),
        infos=st.sampled_from([0.0, 0.3, 1.0]),
        lockstep=st.booleans(),
        data=st.data(),
    )
    def make(
        self,
        space: Any,
        actions: Any,
        count: int,
        processes: int,
        start_method: str,
        transport: str,
        seed: int,
        lockstep: bool,
        style: str,
        data: Any,
        **options: Any,
    ) -> None:
        self.prepare(data)
        if transport == "slab":  # which refuses what the in-process vector takes
            options.update(odds=0.0, misfits=0.0)
        if style == "in_place":  # an odd observation cannot be written in place
            options.update(odds=0.0, misfits=0.0)
        arguments = toy_args(
            FuzzTask,
            count,
            max_steps=6,
            space=space,
            actions=actions,
            **dict.fromkeys(("reverse", "reuse", "in_place"), False) | {style: True},
            **options,
        )
        actions.seed(seed)
        self.action_space = actions
        self.lockstep = lockstep
        common: dict[str, Any] = {
            "auto_resample_when_done": not lockstep,
            "seed": seed,
            "should_log": False,
        }
        for arguments_of_one in arguments:
            arguments_of_one.pop("plain", None)
        in_process = SingleProcessVectorSampledTasks(
            *self.made_from(arguments), **common, **self.options_of_one()
        )
        self.pair = [in_process]
        vector = VectorSampledTasks(
            *self.made_from(arguments),
            multiprocessing_start_method=start_method,
            max_processes=processes,
            observation_transport=transport,
            **self.vector_options,
            **common,
            **self.options_of_one(),
        )
        self.pair = [in_process, vector]
        self.both(lambda tasks: tasks.get_observations())

    def both(self, act: Callable[[Any], Any]) -> Any:
        """Return what both give, which must be the same; an exception is something given."""
        given = []
        for tasks in self.pair:
            try:
                given.append(act(tasks))
            except VectasksError as error:
                results = getattr(error, "results", {})
                given.append((type(error).__name__, dict(sorted(results.items()))))
        one, other = given
        assert_identical(one, other, "result")
        if isinstance(other, StepBatch):
            self.kept.append((one, other))
            del self.kept[:-6]
        return other

    @property
    def count(self) -> int:
        return int(self.pair[0].num_unpaused_tasks)

    @property
    def ready(self) -> list[int]:
        states = self.pair[0].sampler_states
        return [i for i in self.pair[0].sampler_ids if states[i] is SamplerState.READY]

    def draw_actions(self, count: int) -> list[Any]:
        return [self.action_space.sample() for _ in range(count)]

    @rule()
    def pause_whoever_cannot_step(self) -> None:
        while len(self.ready) < self.count:
            ids = self.pair[0].sampler_ids
            index = next(k for k, i in enumerate(ids) if i not in self.ready)
            self.both(lambda tasks, index=index: tasks.pause_at(index))

    @rule(times=st.integers(1, 4))
    def step(self, times: int) -> None:
        for _ in range(times):
            actions = self.draw_actions(self.count)
            self.both(lambda tasks, actions=actions: tasks.step(actions))

    @rule(times=st.integers(1, 4), copy=st.booleans())
    def step_batch(self, times: int, copy: bool) -> None:
        for _ in range(times):
            actions = self.draw_actions(self.count)
            got = self.both(lambda tasks, a=actions: tasks.step_batch(a, copy=copy))
            if not copy and isinstance(got, StepBatch):
                self.kept.pop()  # views change; the comparison was made

    @rule()
    def step_batch_into_out(self) -> None:
        outs: dict[int, Any] = {}
        for _ in range(2):
            actions = self.draw_actions(self.count)

            def act(tasks: Any, actions: Any = actions) -> Any:
                outs[id(tasks)] = tasks.step_batch(actions, out=outs.get(id(tasks)))
                return outs[id(tasks)]

            if isinstance(self.both(act), StepBatch):
                self.kept.pop()

    @rule()
    def async_step(self) -> None:
        actions = self.draw_actions(self.count)
        self.both(lambda tasks: tasks.async_step(actions))
        self.both(lambda tasks: tasks.wait_step())

    @precondition(lambda self: self.pair and not self.lockstep)
    @rule(data=st.data())
    def send_and_receive(self, data: Any) -> None:
        some = self.ready
        if some:
            some = data.draw(st.lists(st.sampled_from(some), unique=True, min_size=1))
        actions = self.draw_actions(len(some))
        chunk = data.draw(st.integers(1, 4))

        def act(tasks: Any) -> Any:
            tasks.send(actions, samplers=some)
            if chunk == 4:
                return tasks.recv() if some else None
            rows: dict[int, Any] = {}
            failed: set[int] = set()
            while waiting := len(some) - len(rows) - len(failed):
                try:
                    rows.update(_by_id(tasks, min(chunk, waiting)))
                except VectasksError as error:  # who is received with it is a matter of time
                    rows.update(error.results)
                    states = tasks.sampler_states
                    failed = {i for i in some if states[i] is SamplerState.FAILED}
            return sorted(failed) if failed else dict(sorted(rows.items()))

        self.both(act)

    @rule(data=st.data())
    def act_at_one(self, data: Any) -> None:
        if not self.count:
            return
        index = data.draw(st.integers(0, self.count - 1))
        (action,) = self.draw_actions(1)
        acts: list[Callable[[Any], Any]] = [
            lambda tasks: tasks.step_at(index, action),
            lambda tasks: tasks.next_task_at(index),
            lambda tasks: tasks.pause_at(index),
            lambda tasks: tasks.restart_at(index),
            lambda tasks: tasks.call_at(index, "counts"),
            lambda tasks: tasks.command_at(index, "step", action),
        ]
        self.both(data.draw(st.sampled_from(acts)))

    @rule(
        act=st.sampled_from(
            [
                lambda tasks: tasks.next_task(),
                lambda tasks: tasks.reset_all(),
                lambda tasks: tasks.resume_all(),
                lambda tasks: tasks.set_seeds(7),
                lambda tasks: tasks.attr("task_info"),
                lambda tasks: tasks.call("num_steps_taken"),
                lambda tasks: tasks.command("sampler_attr", ["length"] * tasks.num_unpaused_tasks),
            ]
        )
    )
    def act_at_all(self, act: Callable[[Any], Any]) -> None:
        self.both(act)

    @invariant()
    def agree(self) -> None:
        if not self.pair:
            return
        self.both(lambda tasks: tasks.get_observations())
        self.both(lambda tasks: tasks.sampler_ids)
        self.both(lambda tasks: tasks.sampler_states)
        lost = {id(self.pair[-1]): self.lost}
        for name in ("steps", "episodes"):
            self.both(lambda tasks, name=name: tasks.stats()[name] - lost.get(id(tasks), 0))
        for one, other in self.kept:  # nothing that was given has changed since
            assert_identical(one, other, "kept")

    def teardown(self) -> None:
        for tasks in self.pair:
            tasks.close()


def _by_id(tasks: Any, count: int) -> dict[int, Any]:
    """Each row of the next ``count`` rows, by sampler."""
    batch = tasks.recv(count)
    rows = {}
    for k, i in enumerate(batch.samplers.tolist()):
        rows[i] = [_row(part, k) for part in batch]
    return rows


def _row(part: Any, k: int) -> Any:
    if isinstance(part, dict):
        return {key: _row(item, k) for key, item in part.items()}
    if isinstance(part, tuple):
        return tuple(_row(item, k) for item in part)
    return part[k]


TestVectorAndInProcess = pytest.mark.timeout(600)(
    VectorAndInProcess.TestCase
)  # to shrink what fails
TestVectorAndInProcess.settings = settings(
    max_examples=25,
    stateful_step_count=14,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    phases=set(Phase) - {Phase.explain},
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
