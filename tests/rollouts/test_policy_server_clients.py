"""Clients of a policy server: in threads, event loops, processes and runners."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_policies import (
    LONG_S,
    PATIENCE_S,
    Asking,
    GatedPolicy,
    ask_in_child,
    double,
    see,
    wait_until,
)

from vectasks import (
    InvalidArgument,
    LayoutError,
    PolicyError,
    PolicyServerClosed,
    SingleProcessVectorSampledTasks,
    WaitTimeout,
)
from vectasks.envs import GymnasiumTaskSampler
from vectasks.rollouts import Answer, PolicyClient, PolicyServer, RolloutBuffer, collect
from vectasks.rollouts.episodes import EpisodeRunner, EpisodeTask
from vectasks.rollouts.policy_server import serving
from vectasks.rollouts.scheduler import Scheduler
from vectasks.testing.toys import CountingTask, ToySampler, toy_args


@pytest.fixture(params=[None, "127.0.0.1", "localhost"])
def host(request: pytest.FixtureRequest) -> str | None:
    """A Unix socket and TCP."""
    return request.param


def run(main: Any) -> Any:
    """Run a coroutine, which has an end."""
    return asyncio.run(asyncio.wait_for(main, PATIENCE_S))


# -- threads and event loops ----------------------------------------------------------------------


@pytest.mark.guarantee("policy-answers")
def test_many_threads_of_one_client_each_get_their_own_answers(host: str | None) -> None:
    def ask(k: int) -> list[Any]:
        return [client(see(1000 * k + i), PATIENCE_S) for i in range(30)]

    with PolicyServer(double, 8, 0, host=host) as server:
        client = server.client()
        asking = [Asking(lambda k=k: ask(k)) for k in range(8)]
        for k, each in enumerate(asking):
            assert each.result() == [2 * (1000 * k + i) for i in range(30)]
        assert server.stats()["answered"] == 240


@pytest.mark.guarantee("policy-answers")
def test_many_are_out_in_one_event_loop_on_one_connection(host: str | None) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(*(client.act(see(k), PATIENCE_S) for k in range(50)))

    with PolicyServer(double, 50, LONG_S, host=host) as server:
        client = server.client()
        for _ in range(2):  # two event loops, one after the other
            assert run(main()) == [2 * k for k in range(50)]
        assert server.stats()["batches"] == 2


def test_what_does_not_go_at_once_goes_later() -> None:
    image = np.zeros((500, 500, 3), np.uint8)

    async def main() -> list[Answer]:
        asking = [client.ask_async(np.full_like(image, k)) for k in range(40)]
        return await asyncio.gather(*asking)

    with PolicyServer(lambda batch: batch, 16, 0.001) as server:
        client = server.client()
        assert (run(client.act(image, PATIENCE_S)) == 0).all()  # no answer wakes it up meanwhile
        for k, answer in enumerate(run(main())):
            assert answer.action.shape == image.shape
            assert (answer.action == k).all()


def test_an_event_loop_and_threads_share_a_client() -> None:
    async def main() -> Any:
        there = asyncio.to_thread(client.ask, see(1), PATIENCE_S)
        here = client.ask_async(see(2), PATIENCE_S)
        return await asyncio.gather(there, here)

    with PolicyServer(double, 2, LONG_S) as server:
        client = server.client()
        assert run(main()) == [Answer(2.0, 0, {}), Answer(4.0, 0, {})]


def test_errors_are_those_of_their_own_request_in_an_event_loop_too() -> None:
    def policy(batch: Any) -> Any:
        if (batch < 0).any():
            raise ValueError("negative")
        return double(batch)

    async def main() -> list[Any]:
        asking = [client.act(value) for value in (see(1), see(-1), see(2), "no", object())]
        return await asyncio.gather(*asking, return_exceptions=True)

    with PolicyServer(policy, 1, 0) as server:
        client = server.client()
        good, failed, again, misfit, unsent = run(main())
    assert (good, again) == (2, 4)
    assert isinstance(failed, PolicyError)
    assert "has the shape" in str(misfit)
    assert "observation is of type object" in str(unsent)


# -- time -----------------------------------------------------------------------------------------


@pytest.mark.guarantee("policy-timeout")
@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_late_is_told_and_its_answer_dropped(is_async: bool) -> None:
    policy = GatedPolicy(1)

    async def main() -> None:
        client = server.client()

        async def ask(number: float, timeout_s: float | None) -> Any:
            if is_async:
                return await client.act(see(number), timeout_s)
            return client(see(number), timeout_s)

        assert await ask(0, PATIENCE_S) == 0
        with pytest.raises(WaitTimeout, match=r"within 0\.02 s") as late:
            await ask(1, 0.02)
        assert late.value.timeout_s == 0.02
        policy.open_gate()
        assert await ask(2, PATIENCE_S) == 4

    with PolicyServer(policy, 1, 0) as server:
        run(main())


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, True, "1"])
def test_limits_that_cannot_be(timeout_s: Any) -> None:
    with PolicyServer(double, 1, 0) as server:
        client = server.client()
        asks = [lambda: client(see(0), timeout_s), lambda: run(client.act(see(0), timeout_s))]
        for ask in [*asks, lambda: client.as_policy(timeout_s)]:
            with pytest.raises(InvalidArgument, match="timeout_s"):
                ask()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_server_that_does_not_answer_the_introduction_is_late(is_async: bool) -> None:
    policy = GatedPolicy(0)
    with PolicyServer(policy, 1, 0) as server:
        asking = Asking(lambda: server.client()(see(1), PATIENCE_S))
        policy.wait_until_entered()  # so that nobody is introduced
        client = server.client()
        with pytest.raises(WaitTimeout):
            run(client.act(see(0), 0.02)) if is_async else client(see(0), 0.02)
        policy.open_gate()
        assert asking.result() == 2


def test_a_request_that_is_cancelled_takes_nobody_elses_answer() -> None:
    policy = GatedPolicy(1)

    async def main() -> None:
        client = server.client()
        await client.act(see(0))
        cancelled = asyncio.create_task(client.act(see(1)))
        await asyncio.to_thread(policy.wait_until_entered)
        cancelled.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cancelled
        policy.open_gate()
        assert await client.act(see(2)) == 4

    with PolicyServer(policy, 1, 0) as server:
        run(main())


def test_whoever_waits_for_a_connection_is_not_cancelled_with_the_first() -> None:
    async def main() -> None:
        client = server.client()
        first = asyncio.create_task(client.act(see(1)))
        second = asyncio.create_task(client.act(see(2)))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 4
        with pytest.raises(asyncio.CancelledError):
            await first

    with PolicyServer(double, 1, 0) as server:
        run(main())


# -- processes ------------------------------------------------------------------------------------


@pytest.mark.guarantee("policy-any-process")
def test_a_client_is_sent_to_processes_of_every_kind(method: str, host: str | None) -> None:
    context: Any = multiprocessing.get_context(method)
    with PolicyServer(double, 2, LONG_S, host=host) as server:
        client = server.client()
        here = Asking(lambda: client.ask(see(1), PATIENCE_S))  # a connection that a fork has too
        there, end = context.Pipe()
        child = context.Process(target=ask_in_child, args=(client, 2.0, end))
        child.start()
        end.close()
        assert there.poll(PATIENCE_S)
        assert there.recv() == Answer(4.0, 0, {})
        assert here.result() == Answer(2.0, 0, {})
        child.join()
        there.close()


@pytest.mark.guarantee("policy-any-process")
def test_a_fork_makes_a_connection_of_its_own() -> None:
    with PolicyServer(double, 1, 0) as server:
        client = server.client()
        assert client(see(1), PATIENCE_S) == 2
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                right = [client(see(k), PATIENCE_S) for k in range(5)] == [0, 2, 4, 6, 8]
                try:
                    server.update(double)
                except Exception as error:
                    code = 0 if right and "fork" in str(error) else 2
                server.close()  # does nothing here
            os._exit(code)
        assert client(see(3), PATIENCE_S) == 6
        assert os.waitpid(pid, 0)[1] == 0
        assert client(see(4), PATIENCE_S) == 8
        while server.stats()["clients"] > 1:  # the child's end is noticed
            assert client(see(4), PATIENCE_S) == 8


def test_a_copy_of_a_client_tells_nobody_the_key() -> None:
    with PolicyServer(double, 1, 0) as server:
        client = server.client()
        copy = pickle.loads(pickle.dumps(client))
        assert copy(see(1), PATIENCE_S) == 2
        assert repr(copy) == repr(client)
        assert "socket>" in repr(client)


# -- strangers ------------------------------------------------------------------------------------


@pytest.mark.guarantee("policy-key")
def test_who_does_not_hold_the_key_is_refused(host: str | None) -> None:
    with PolicyServer(double, 1, 0, host=host) as server:
        good = server.client()
        address = good.__reduce__()[1][0]
        for ask in (
            lambda: PolicyClient(address, b"another key")(see(1), PATIENCE_S),
            lambda: run(PolicyClient(address, b"another key").act(see(1), PATIENCE_S)),
        ):
            with pytest.raises(PolicyServerClosed, match="does not know this client's key"):
                ask()
        assert good(see(1), PATIENCE_S) == 2
        assert server.stats()["requests"] == 1


@pytest.mark.guarantee("policy-key")
def test_a_stranger_that_says_nothing_or_nonsense_holds_nobody_up() -> None:
    with PolicyServer(double, 1, 0) as server:
        client = server.client()
        silent, hasty, chatty = (socket.socket(socket.AF_UNIX) for _ in range(3))
        address = client.__reduce__()[1][0]
        with silent, hasty, chatty:
            for stranger in (silent, hasty, chatty):
                stranger.connect(address)
            chatty.sendall(pickle.dumps("x" * 1000))
            hasty.close()
            assert client(see(1), PATIENCE_S) == 2
            chatty.settimeout(PATIENCE_S)
            received = b"?"
            with contextlib.suppress(ConnectionResetError):
                while received:
                    received = chatty.recv(100)
            assert client(see(1), PATIENCE_S) == 2
            assert server.stats()["requests"] == 2


@pytest.mark.guarantee("policy-key")
def test_a_stranger_that_stays_silent_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LONGEST_INTRODUCTION_S", 0.02)
    with PolicyServer(double, 1, 0) as server, socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(PATIENCE_S)
        stranger.connect(server.client().__reduce__()[1][0])
        assert len(stranger.recv(100)) == 32  # a nonce
        assert stranger.recv(100) == b""
        assert server.stats()["clients"] == 0


@pytest.mark.guarantee("policy-key")
def test_a_client_unpickles_nothing_of_a_server_without_the_key(short_folder: Path) -> None:
    path = str(short_folder / "socket")
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(path)
        impostor.listen()
        asking = Asking(lambda: PolicyClient(path, b"the key")(see(1), PATIENCE_S))
        end, _ = impostor.accept()
        with end:
            end.sendall(bytes(32 + 32))  # a nonce, and what is no proof
            with pytest.raises(PolicyServerClosed, match="does not hold this client's key"):
                asking.result()


# -- closing --------------------------------------------------------------------------------------


def test_a_client_that_is_closed_or_forgotten_leaves_nothing_and_may_ask_again() -> None:
    async def main(client: PolicyClient) -> None:
        assert await client.act(see(1)) == 2
        client.close()
        assert await client.act(see(2)) == 4

    with PolicyServer(double, 1, 0) as server:
        client = server.client()
        for _ in range(2):
            assert client(see(1), PATIENCE_S) == 2
            client.close()
        run(main(client))
        assert client(see(1), PATIENCE_S) == 2
        del client
        gc.collect()
        last = server.client()
        while server.stats()["clients"] > 1:  # those that are gone are noticed
            assert last(see(1), PATIENCE_S) == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_client_whose_last_answer_was_an_error_is_let_go(is_async: bool) -> None:
    def ask() -> None:
        client = server.client()
        with pytest.raises(LayoutError):
            run(client.act("no")) if is_async else client("no")

    with PolicyServer(double, 1, 0, example=see(0)) as server:
        ask()
        gc.collect()
        wait_until(lambda: server.stats()["clients"] == 0)


@pytest.mark.parametrize("is_async", [False, True])
def test_closing_a_client_fails_who_waits(is_async: bool) -> None:
    policy = GatedPolicy(0)
    with PolicyServer(policy, 1, 0) as server:
        client = server.client()
        ask: Callable[[], Any]
        ask = (lambda: run(client.act(see(1)))) if is_async else (lambda: client(see(1)))
        asking = Asking(ask)
        policy.wait_until_entered()
        client.close()
        with pytest.raises(PolicyServerClosed):
            asking.result()
        policy.open_gate()
        assert client(see(1), PATIENCE_S) == 2


def test_closing_a_client_fails_who_waits_in_the_same_event_loop() -> None:
    policy = GatedPolicy(0)

    async def main() -> None:
        client = server.client()
        asking = asyncio.create_task(client.act(see(1)))
        await asyncio.to_thread(policy.wait_until_entered)
        client.close()
        with pytest.raises(PolicyServerClosed):
            await asking
        policy.open_gate()
        assert await client.act(see(2)) == 4

    with PolicyServer(policy, 1, 0) as server:
        run(main())


# -- runners --------------------------------------------------------------------------------------


def act(observation: Any) -> dict[str, Any]:
    """A policy of the toys, as collect() calls it."""
    return {"action": observation[:, 2] % 4, "value": observation[:, 2] / 2}


@pytest.mark.guarantee("policy-runners")
def test_runners_in_processes_play_what_they_would_play_with_a_policy_of_their_own() -> None:
    def lean(observation: Any) -> dict[str, Any]:
        return {"action": (observation[:, 2] > 0).astype(np.int64), "tilt": observation[:, 2]}

    async def play(policy: Any, backend: Any) -> Any:
        def make_runner() -> EpisodeRunner:
            return EpisodeRunner(GymnasiumTaskSampler, {"env": "CartPole-v1"}, policy=policy)

        async with Scheduler(make_runner, 3, backend=backend) as scheduler:
            scheduler.schedule([EpisodeTask(seed=0)] * 6, 0)
            statuses, episodes = await scheduler.get_results(0)
            assert all(status.ok for status in statuses), statuses
            return sorted(episodes, key=lambda episode: episode.run_id)

    with PolicyServer(lean, 3, 0.001, version=5) as server:
        episodes = run(play(server.client().as_policy(PATIENCE_S), "process"))
        assert server.stats()["answered"] == sum(len(episode.rewards) for episode in episodes)
    for episode, expected in zip(episodes, run(play(lean, "inline")), strict=True):
        np.testing.assert_array_equal(episode.observations, expected.observations)
        np.testing.assert_array_equal(episode.actions, expected.actions)
        np.testing.assert_array_equal(episode.kept["tilt"], expected.kept["tilt"])
        assert episode.kept["policy_version"].tolist() == [5] * len(episode.rewards)


class Asker:
    """An async runner: as many requests as its task says are out at once."""

    def __init__(self, client: PolicyClient) -> None:
        self._client = client

    async def run(self, task: int) -> Any:
        return await asyncio.gather(*(self._client.act(see(k), PATIENCE_S) for k in range(task)))


@pytest.mark.parametrize("backend", ["process", "inline"])
def test_async_runners_have_many_out(backend: Any) -> None:
    async def main(client: PolicyClient) -> Any:
        async with Scheduler(lambda: Asker(client), 2, backend=backend) as scheduler:
            scheduler.schedule([10, 10], 0)
            return await scheduler.get_results(0)

    with PolicyServer(double, 20, LONG_S) as server:
        statuses, actions = run(main(server.client()))
        assert all(status.ok for status in statuses)
        assert sorted(actions) == sorted([2 * k for k in range(10)] * 2)
        assert server.stats()["batches"] == 1


@pytest.mark.guarantee("policy-raises")
def test_a_policy_that_raises_fails_the_episodes_concerned_and_they_are_tried_again() -> None:
    failed: list[int] = []

    def policy(batch: Any) -> Any:
        if not failed:
            failed.append(len(batch))
            raise ValueError("once")
        return act(batch)

    async def main(client: PolicyClient) -> Any:
        def make_runner() -> EpisodeRunner:
            arguments = toy_args(CountingTask, 1, max_steps=4)[0]
            return EpisodeRunner(ToySampler, arguments, policy=client.as_policy(PATIENCE_S))

        async with Scheduler(make_runner, 2) as scheduler:
            scheduler.schedule([EpisodeTask(seed=k) for k in range(4)], 0)
            statuses, _ = await scheduler.get_results(0)
            return statuses, scheduler.stats()["retries"]

    with PolicyServer(policy, 1, 0) as server:
        statuses, num_retries = run(main(server.client()))
    assert [status.ok for status in statuses] == [True] * 4
    assert num_retries == 1


def test_a_recurrent_policy_is_given_its_memory() -> None:
    def policy(batch: Any) -> Any:
        observation, memory = batch
        action = (memory[:, 0].astype(np.int64) + observation[:, 2]) % 4
        return {"action": action, "memory": memory + 1}

    def alone(observation: Any, memory: Any) -> Any:
        return policy((observation, memory))

    def play_with(policy: Any) -> Any:
        arguments = toy_args(CountingTask, 1, max_steps=4)[0]
        runner = EpisodeRunner(ToySampler, arguments, policy=policy, memory_shape=(1,))
        try:
            return runner.run(EpisodeTask(seed=0))
        finally:
            runner.close()

    with PolicyServer(policy, 1, 0) as server:
        served = play_with(server.client().as_policy())
    np.testing.assert_array_equal(served.actions, play_with(alone).actions)


def test_a_vector_collects_with_a_served_policy() -> None:
    def rollout(policy: Any) -> Any:
        with SingleProcessVectorSampledTasks(
            ToySampler, toy_args(CountingTask, 3, max_steps=4), seed=0
        ) as tasks:
            buffer = RolloutBuffer(tasks, horizon=6)
            collect(tasks, policy, buffer)
            return buffer.actions.copy(), buffer["value"].copy()

    with PolicyServer(act, 3, LONG_S, example=np.zeros(3, np.int64)) as server:
        actions, values = rollout(server.client().as_policy(PATIENCE_S))
        assert set(server.stats()) >= {"mean_batch_size"}
        assert server.stats()["mean_batch_size"] == 3
    expected_actions, expected_values = rollout(act)
    np.testing.assert_array_equal(actions, expected_actions)
    np.testing.assert_array_equal(values, expected_values)


@pytest.mark.parametrize("batch", [np.zeros(()), {"a": np.zeros(2), "b": np.zeros(3)}, {}])
def test_a_served_policy_wants_rows(batch: Any) -> None:
    with PolicyServer(double, 1, 0) as server:
        policy = server.client().as_policy()
        with pytest.raises(InvalidArgument, match="leading axis"):
            policy(batch)
