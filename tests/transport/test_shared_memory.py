"""The step transport's protocol: who rings whom, and that nobody sleeps through it."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from vectasks import SamplerState, VectorSampledTasks
from vectasks.protocol import Failure
from vectasks.task import RLStepResult
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, ToySampler, ToyTask
from vectasks.transport import cpu as cores
from vectasks.transport.channel import Channel
from vectasks.transport.cpu import WakesOnOwnCore, current_core, polls_before_blocking
from vectasks.transport.layout import OUT_OF_BAND_BYTES, Layout
from vectasks.transport.row_pool import WORKING_ROW
from vectasks.transport.shared_memory import SharedMemoryTransport
from vectasks.transport.step_buffer import OutOfBand
from vectasks.transport.step_protocol import (
    AS_BATCH,
    ONE_BY_ONE,
    ROW_BITS,
    TIMED,
    Steps,
    StepsOutOfBand,
    is_batch,
    row_of,
)
from vectasks.transport.step_results import StepForm, StepResults
from vectasks.workers import step_loop as step_loop
from vectasks.workers.process import ProcessWorker
from vectasks.workers.step_loop import StepServer

PATIENCE_S = 20.0
SPACE = spaces.Box(0, 99, (2,), np.int64)


class StubGroup:
    """Steps that tell their sampler and action; infos and failures where they are asked for."""

    def __init__(self) -> None:
        self.hosts: dict[int, Any] = {}  # none that could be asked without us
        self.stepped: list[tuple[int, Any]] = []
        self.infos: dict[int, Any] = {}
        self.failing: set[int] = set()
        self.before: Callable[[int], None] = lambda sampler_id: None
        self.hosts: dict[int, Any] = {}

    def end_steps(self) -> None:
        pass

    def step(self, sampler_id: int, action: Any, place: Any = None) -> RLStepResult | Failure:
        self.before(sampler_id)
        self.stepped.append((sampler_id, action))
        if sampler_id in self.failing:
            return Failure.of(ValueError("on purpose"))
        observation = np.array([sampler_id, action], np.int64)
        info = self.infos.get(sampler_id)
        return RLStepResult(observation, float(action), False, info)


class StubHomes:
    """One worker, in which all samplers live."""

    residents = np.ones(1, np.int64)

    def show_in(self, numbers: Any) -> None:
        numbers[:] = 0

    def of(self, sampler_id: int) -> Any:
        raise AssertionError("nobody else is asked")

    def of_all(self, ids: Any) -> list[Any]:
        return []

    def ids_in(self, worker: Any) -> tuple[int, ...]:
        return tuple(worker.sampler_ids)


class StubExchange:
    """Nothing came in the place of a step."""

    def __init__(self) -> None:
        self.answers: dict[int, Any] = {}
        self.homes = StubHomes()
        self.unread: dict[int, Any] = {}


class StubMemory:
    """Memory that both halves have in this process."""

    def __init__(self, size_bytes: int) -> None:
        self._bytes = bytearray(size_bytes)

    def map(self, size_bytes: int = 0, offset: int = 0) -> bytearray:
        return self._bytes


class Pair:
    """Both halves of a transport with one worker, which is a thread here."""

    def __init__(self, num_samplers: int = 4) -> None:
        first = np.zeros(2, np.int64)
        layout = Layout.of(SPACE, spaces.Discrete(99), first, num_samplers, 1)
        layout = layout._replace(out_of_band_bytes=OUT_OF_BAND_BYTES)
        self.ids = list(range(num_samplers))
        memory: Any = StubMemory(layout.size_bytes())
        self.results = StepResults(layout, memory.map())
        self.parent = SharedMemoryTransport(self.results, memory, [], StubExchange())
        self.signals = self.parent.signals
        here, there = socket.socketpair()
        self.channel = Channel(here)
        self._there = Channel(there)
        self.group = StubGroup()
        self.as_worker: Any = SimpleNamespace(number=0, sampler_ids=tuple(self.ids))
        attach = self.parent.attach_message(self.as_worker)
        group: Any = self.group
        self.worker = StepServer(attach, memory, self._there, group)
        self.messages: list[Any] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                message = self.worker.next_message()
                if isinstance(message, Steps):
                    self.worker.serve_message(message)
                else:
                    self.messages.append(message)

    def ask(self, ids: list[int], actions: list[int], one_by_one: bool = False) -> int:
        ticket = self.results.begin(ids, StepForm(as_batch=False, one_by_one=one_by_one))
        self.signals.ask(ids, actions, ticket)
        self.signals.ring(0)
        self.signals.fence()
        if self.signals.is_asleep(0):
            self.channel.ring()
        return ticket

    def send(self, message: Any) -> None:
        self.channel.send(message)
        self.signals.announce_message(0)

    def take_in(self) -> None:
        while (message := self.channel.receive()) is not None:
            assert isinstance(message, StepsOutOfBand)
            self.parent.keep(message.extras)

    def answers(self, ids: list[int]) -> list[Any]:
        until(lambda: self.take_in() or self.signals.poll(ids, 10))
        until(lambda: self.take_in() or not self.results.owing(ids))
        return self.results.outcomes(ids)

    def close(self) -> None:
        self.channel.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._there.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.0005)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sleep at once, and so long that a wake-up that is missed is seen."""
    monkeypatch.setattr(step_loop, "polls_before_blocking", lambda num_workers: 0)
    monkeypatch.setattr(step_loop, "_FIRST_NAP_MS", 60_000)
    monkeypatch.setattr(step_loop, "_LONGEST_NAP_MS", 60_000)
    monkeypatch.setattr(
        "vectasks.transport.shared_memory.polls_before_blocking", lambda num_workers: 0
    )
    monkeypatch.setattr("vectasks.transport.shared_memory._FIRST_NAP_S", 60.0)
    monkeypatch.setattr("vectasks.transport.shared_memory._LONGEST_NAP_S", 60.0)


# -- tickets ---------------------------------------------------------------------------------------


def test_tickets() -> None:
    layout = Layout.of(SPACE, spaces.Discrete(2), np.zeros(2, np.int64), 2, 1)
    parent = StepResults(layout)
    rollout_rows = parent.add_rollout_rows(3, None)
    last_row = rollout_rows.place.first_row + 2
    tickets = []
    for into, row in ((None, WORKING_ROW), ((rollout_rows, 2), last_row)):
        for timed, batch, single in itertools.product((0, TIMED), (False, True), (False, True)):
            form = StepForm(batch, one_by_one=single, rows=into)
            ticket = parent.begin([0, 1], form, timed=bool(timed))
            assert row_of(ticket) == row
            assert is_batch(ticket) == bool(ticket & AS_BATCH) == batch
            assert bool(ticket & ONE_BY_ONE) == single
            assert ticket & TIMED == timed
            # The way that it goes back is no other for being timed.
            assert parent.row_writers.at(ticket) is parent.row_writers.at(ticket & ~TIMED)
            tickets.append(ticket)
    assert len(set(tickets)) == 16
    assert tickets == sorted(tickets)  # later steps have greater ones
    assert min(tickets) > 0  # 0 is what a new step buffer holds


def test_a_ticket_has_room_for_every_row_and_many_steps() -> None:
    layout = Layout.of(SPACE, spaces.Discrete(2), np.zeros(2, np.int64), 2, 1)
    parent = StepResults(layout)
    parent.step_number = 2**38 - 2
    place: Any = SimpleNamespace(first_row=(1 << ROW_BITS) - 1)
    rollout_rows: Any = SimpleNamespace(place=place)
    ticket = parent.begin(
        [0, 1], StepForm(True, one_by_one=True, rows=(rollout_rows, 0)), timed=True
    )
    assert ticket == 2**63 - 1
    assert row_of(ticket) == (1 << ROW_BITS) - 1
    assert parent.tickets.tolist() == [ticket] * 2


def test_polling_gives_way_to_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert polls_before_blocking(2) > polls_before_blocking(3) > 0
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    assert polls_before_blocking(1) == 0


class Affinity:
    """On which cores this process may run, as the system would have it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: set[int]) -> None:
        self.cores = cores
        self.available = set(cores)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(self.cores))
        monkeypatch.setattr("os.sched_setaffinity", self._set, raising=False)

    def _set(self, pid: int, cores: set[int]) -> None:
        if not self.available.issuperset(cores):
            raise OSError(22, "Invalid argument")
        self.cores = set(cores)


@pytest.mark.parametrize(
    ("num_workers", "cores", "own"),
    [
        (2, {0, 1}, [{0}, {1}]),
        (3, {4, 6, 7}, [{4}, {6}, {7}]),
        (2, {0, 1, 2}, [{0, 1, 2}] * 2),  # the kernel finds an idle one
        (3, {0, 1}, [{0, 1}] * 3),
        (1, {0}, [{0}]),
    ],
)
def test_workers_sleep_bound_to_cores_of_their_own(
    monkeypatch: pytest.MonkeyPatch, num_workers: int, cores: set[int], own: list[set[int]]
) -> None:
    affinity = Affinity(monkeypatch, cores)
    for worker in range(num_workers):
        sleep = WakesOnOwnCore(worker, num_workers)
        for _ in range(2):
            with sleep:
                assert affinity.cores == own[worker]
            assert affinity.cores == cores


def test_who_says_otherwise_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = Affinity(monkeypatch, {0, 1, 2})
    affinity.available |= {3}
    sleep = WakesOnOwnCore(2, 3)
    with sleep:
        assert affinity.cores == {2}
        affinity.cores = {0, 3}  # from outside, while it sleeps
    assert affinity.cores == {0, 3}
    for said in ({0, 3}, {2}):  # or while it is awake
        affinity.cores = said
        with sleep:
            assert affinity.cores == said
        assert affinity.cores == said


def test_a_core_that_was_taken_away_binds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = Affinity(monkeypatch, {0, 1})
    sleep = WakesOnOwnCore(1, 2)
    affinity.available = {0}
    with sleep:
        assert affinity.cores == {0, 1}
    assert affinity.cores == {0, 1}


@pytest.mark.parametrize(("took_s", "is_prompt"), [(1e-6, True), (1e-3, False)])
def test_who_gets_the_core_back_late_shares_it(
    monkeypatch: pytest.MonkeyPatch, took_s: float, is_prompt: bool
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(cores, "yield_core", lambda: now_s.__setitem__(0, now_s[0] + took_s))
    assert cores.yields_promptly() is is_prompt


@pytest.mark.parametrize("shares_core", [False, True])
def test_who_shares_its_core_polls_no_more(
    monkeypatch: pytest.MonkeyPatch, shares_core: bool
) -> None:
    monkeypatch.setattr(step_loop, "polls_before_blocking", lambda num_workers: 1_000_000_000)
    prompt_s = 0.0 if shares_core else 1e9  # so long may it take until the core is given back
    monkeypatch.setattr(step_loop, "PROMPT_S", prompt_s)
    monkeypatch.setattr(cores, "PROMPT_S", prompt_s)
    pair = Pair()
    if shares_core:
        until(lambda: pair.signals.is_asleep(0))
    pair.ask([0], [1])
    assert len(pair.answers([0])) == 1
    assert shares_core or not pair.signals.is_asleep(0)
    pair.send("now it sleeps, where it can" if shares_core else "it polls still")
    until(lambda: bool(pair.messages))
    assert shares_core or not pair.signals.is_asleep(0)
    monkeypatch.setattr(step_loop, "polls_before_blocking", lambda num_workers: 0)
    monkeypatch.setattr(pair.worker, "_polls", 0)
    pair.ask([0], [1])
    assert len(pair.answers([0])) == 1
    pair.close()


def test_we_are_on_one_of_our_cores() -> None:
    core = current_core()
    assert core is None or core in os.sched_getaffinity(0)
    assert (core is None) == (sys.platform != "linux")


@pytest.mark.parametrize("here", [0, 1, 2, None])
def test_who_would_keep_us_from_waking_another_is_woken_last(
    monkeypatch: pytest.MonkeyPatch, sleepy: None, here: int | None
) -> None:
    monkeypatch.setattr(
        "vectasks.transport.shared_memory.own_core", lambda worker, num_workers: worker
    )
    monkeypatch.setattr("vectasks.transport.shared_memory.current_core", lambda: here)
    woken: list[int] = []
    wake = ProcessWorker.wake
    monkeypatch.setattr(
        ProcessWorker, "wake", lambda worker: woken.append(worker.number) or wake(worker)
    )

    def all_were_asleep() -> bool:
        woken.clear()
        tasks.step([0] * 3)
        return len(woken) == 3

    with VectorSampledTasks(ToySampler, toy_args(CountingTask, 3), should_log=False) as tasks:
        until(all_were_asleep)
    assert woken == {0: [1, 2, 0], 1: [0, 2, 1]}.get(-1 if here is None else here, [0, 1, 2])


# -- asking and answering --------------------------------------------------------------------------


def test_only_those_who_are_asked_step_and_only_once(pair: Pair) -> None:
    for ids, actions in (([0, 1, 2, 3], [5, 6, 7, 8]), ([2], [9]), ([3, 1], [1, 2])):
        pair.ask(ids, actions)
        outcomes = pair.answers(ids)
        assert [o.observation.tolist() for o in outcomes] == [
            [i, a] for i, a in zip(ids, actions, strict=True)
        ]
        assert [o.reward for o in outcomes] == [float(a) for a in actions]
    expected = [(0, 5), (1, 6), (2, 7), (3, 8), (2, 9), (1, 2), (3, 1)]
    assert pair.group.stepped == expected


def test_actions_belong_to_the_samplers_that_were_named(pair: Pair) -> None:
    ids = [3, 1, 0, 2]
    pair.ask(ids, [30, 10, 0, 20])
    pair.answers(ids)
    assert pair.group.stepped == [(0, 0), (1, 10), (2, 20), (3, 30)]


def test_steps_by_message(pair: Pair) -> None:
    ticket = pair.results.begin([1, 2], StepForm(as_batch=False))
    pair.send(Steps(ticket, {1: 11, 2: 22}))
    assert [o.reward for o in pair.answers([1, 2])] == [11.0, 22.0]
    pair.ask([1], [5])
    assert pair.answers([1])[0].reward == 5.0
    until(lambda: pair.signals.is_asleep(0))
    assert pair.group.stepped == [(1, 11), (2, 22), (1, 5)]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_one_by_one_does_not_wait_for_mates(pair: Pair, one_by_one: bool) -> None:
    go_on = threading.Event()
    pair.group.before = lambda i: None if i == 0 else go_on.wait(PATIENCE_S) and None  # type: ignore[func-returns-value]
    pair.ask([0, 1], [0, 0], one_by_one)
    if one_by_one:
        until(lambda: pair.signals.has_answered(0))
    else:
        time.sleep(0.1)
        assert not pair.signals.has_answered(0)
    assert not pair.signals.has_answered(1)
    go_on.set()
    pair.answers([0, 1])
    assert pair.signals.answered_at(0) <= pair.signals.answered_at(1) <= time.monotonic()


def test_messages_and_steps_in_any_order(pair: Pair) -> None:
    rng = random.Random(0)
    sent: list[int] = []
    for number in range(400):
        if rng.random() < 0.5:
            pair.send(number)
            sent.append(number)
        else:
            ids = rng.sample(pair.ids, rng.randint(1, 4))
            pair.ask(ids, [number % 90] * len(ids))
            assert {o.reward for o in pair.answers(ids)} == {float(number % 90)}
        if rng.random() < 0.05:
            time.sleep(0.01)
    until(lambda: len(pair.messages) == len(sent))
    assert pair.messages == sent


# -- what goes beside the arrays ---------------------------------------------------------------


def test_infos_come_with_their_step(pair: Pair) -> None:
    for number in range(50):
        pair.group.infos = {1: {"number": number}, 3: {}}
        pair.ask(pair.ids, [0] * 4)
        infos = [o.info for o in pair.answers(pair.ids)]
        assert infos == [None, {"number": number}, None, {}]


def test_a_failure_is_one_samplers_own(pair: Pair) -> None:
    pair.group.failing = {2}
    pair.ask(pair.ids, [1] * 4)
    answers = pair.answers(pair.ids)
    assert [isinstance(answer, Failure) for answer in answers] == [False, False, True, False]
    assert answers[2].message == "on purpose"


def test_small_infos_take_no_message_and_large_ones_do(pair: Pair) -> None:
    large = {"map": np.arange(OUT_OF_BAND_BYTES)}
    for infos in ({0: {"small": 1}, 1: {"also": 2}}, {0: {"small": 3}, 2: large}, {2: {"not": 4}}):
        pair.group.infos = infos
        pair.ask(pair.ids, [1] * 4)
        before = pair.channel.num_bytes
        answers = pair.answers(pair.ids)
        rings = 1000
        assert (pair.channel.num_bytes - before > rings) == (2 in infos and infos[2] is large)
        for i, answer in enumerate(answers):
            np.testing.assert_equal(answer.info, infos.get(i))


def test_an_info_that_cannot_travel_is_one_samplers_own(pair: Pair) -> None:
    pair.group.infos = {0: {"lock": threading.Lock()}, 1: {"fine": 1}}
    pair.ask(pair.ids, [1] * 4)
    answers = pair.answers(pair.ids)
    assert isinstance(answers[0], Failure)
    assert "cannot be sent" in answers[0].message
    assert answers[1].info == {"fine": 1}


def test_extras_of_a_predecessor_are_dropped(pair: Pair) -> None:
    """A worker that died between sending an info and announcing its step leaves nothing behind."""
    parent = pair.parent
    parent.keep([OutOfBand(0, info={"old": True})])
    parent.attach_message(pair.as_worker)
    pair.group.infos = {0: {"new": True}}
    pair.ask([0], [1])
    assert pair.answers([0])[0].info == {"new": True}
    parent.keep([OutOfBand(0, info={"old": True})])
    parent.attach_message(pair.as_worker)
    assert not pair.results.failures([0])
    pair.group.infos = {0: {"newer": True}}
    pair.ask([0], [1])
    until(lambda: pair.signals.poll([0], 10))
    assert pair.results.needs_extra(0)


# -- sleeping and waking ---------------------------------------------------------------------------


def test_a_worker_with_nothing_to_do_sleeps(pair: Pair) -> None:
    until(lambda: pair.signals.is_asleep(0))
    pair.ask([0], [1])
    pair.answers([0])
    until(lambda: pair.signals.is_asleep(0))


def test_a_sleeping_worker_hears_steps_and_messages(sleepy: None) -> None:
    pair = Pair()
    for number in range(200):
        if number % 3:
            pair.ask([number % 4], [7])
            assert pair.answers([number % 4])[0].reward == 7.0
        else:
            pair.send(number)
            until(lambda number=number: bool(pair.messages) and pair.messages[-1] == number)  # type: ignore[misc]
        if number % 10 == 0:
            until(lambda: pair.signals.is_asleep(0))
    pair.close()


def test_a_worker_rings_only_a_sleeping_parent(pair: Pair) -> None:
    pair.ask([0], [1])
    pair.answers([0])
    assert pair.channel.doze(50) is False
    rung = threading.Event()
    pair.channel.receive = rung.set  # type: ignore[method-assign, assignment]
    pair.signals.fall_asleep()
    pair.ask([0], [1])
    started = time.monotonic()
    pair.channel.doze(10_000)
    assert time.monotonic() - started < 5
    pair.signals.wake_up()
    del pair.channel.receive
    pair.answers([0])


class NappingTask(ToyTask):
    """Steps take no time, or a moment; infos come with some of them."""

    actions = spaces.Discrete(4)

    def begin(self) -> None:
        self.dice = random.Random(self.env.sampler)

    def move(self, action: Any) -> None:
        if self.dice.random() < 0.3:
            time.sleep(self.dice.random() * 0.002)

    def info(self) -> Any:
        return {"n": self.step_number} if self.dice.random() < 0.3 else None


def test_no_wake_up_is_lost(sleepy: None) -> None:
    """Everybody blocks at once and for a minute, in real processes: each ring is needed."""
    dice = random.Random(0)
    args = toy_args(NappingTask, 4, max_steps=40)
    with VectorSampledTasks(
        ToySampler, args, None, True, "fork", max_processes=2, read_timeout=PATIENCE_S
    ) as tasks:
        for number in range(1500):
            if dice.random() < 0.1:
                time.sleep(dice.random() * 0.003)
            if number % 3 == 0:
                tasks.step_batch([number % 4] * 4)
            elif number % 3 == 1:
                tasks.step([number % 4] * 4)
            elif number % 50 == 2:
                assert tasks.call("pid")[0] > 0
            else:
                tasks.send([0] * 4)
                for left in (1, 2, 1):
                    assert len(tasks.recv(left).samplers) == left


# -- warnings --------------------------------------------------------------------------------------


class Wrong(CountingTask):
    """Gives another dtype than it declares, from the second step on."""

    def get_observations(self) -> Any:
        dtype = np.int64 if self.step_number >= 2 else np.int32
        return np.array(self.counts(), dtype)


def test_a_warning_that_is_an_error_loses_no_step() -> None:
    args = toy_args(Wrong, 4, max_steps=30)
    with VectorSampledTasks(ToySampler, args, None, True, "fork", max_processes=1) as tasks:
        tasks.step([0] * 4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match="left the shared memory"):
                tasks.step([0] * 4)
        try:
            results = tasks.wait_step(timeout=5)
        except RuntimeError:  # NothingPending: the warning took the results along
            results = tasks.step([0] * 4)
        assert [r.observation.dtype for r in results] == [np.dtype(np.int64)] * 4
        assert set(tasks.sampler_states.values()) == {SamplerState.READY}
