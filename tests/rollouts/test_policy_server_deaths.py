"""A policy server and the ends of its clients, of its process, and its own while somebody waits."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process_scripts import Script
from served_policies import (
    LONG_S,
    PATIENCE_S,
    Asking,
    GatedPolicy,
    ask_and_be_killed,
    double,
    see,
    wait_until,
)

from vectasks import PolicyServerClosed, ResourceLimit
from vectasks.rollouts import PolicyClient, PolicyServer
from vectasks.rollouts.policy_server.sockets import connect
from vectasks.transport.channel import Channel

# -- a client -------------------------------------------------------------------------------------


@pytest.mark.guarantee("policy-client-dies")
@pytest.mark.parametrize("is_at_work", [False, True])
def test_a_client_that_is_killed_is_dropped_and_counted(method: str, is_at_work: bool) -> None:
    policy = GatedPolicy(0)
    context: Any = multiprocessing.get_context(method)
    there, end = context.Pipe()
    options = {"max_batch": 1, "max_wait_s": 0} if is_at_work else {"max_batch": 2}
    with PolicyServer(policy, **{"max_wait_s": LONG_S, **options}) as server:
        child = context.Process(target=ask_and_be_killed, args=(server.client(), 1.0, end))
        child.start()
        end.close()
        wait_until(lambda: policy.entered.is_set() if is_at_work else server.stats()["waiting"] > 0)
        there.send("die")
        child.join(PATIENCE_S)
        assert child.exitcode == -signal.SIGKILL
        there.close()
        policy.open_gate()
        wait_until(lambda: server.stats()["clients"] == 0)
        stats = server.stats()
        assert (stats["dropped"], stats["waiting"], stats["answered"]) == (1, 0, 0)
        client = server.client()
        answers = client.ask_many([see(1), see(2)], PATIENCE_S)
        assert [answer.action for answer in answers] == [2, 4]


def test_who_has_gone_when_the_policy_fails_counts_as_dropped() -> None:
    policy = GatedPolicy(0)

    def fail(batch: Any) -> Any:
        policy(batch)
        raise ValueError

    with PolicyServer(fail, 1, 0) as server:
        client = server.client()
        asking = Asking(lambda: client(see(1)))
        policy.wait_until_entered()
        client.close()
        with pytest.raises(PolicyServerClosed):
            asking.result()
        policy.open_gate()
        wait_until(lambda: server.stats()["clients"] == 0)
        stats = server.stats()
    assert (stats["answered"], stats["failed"], stats["dropped"]) == (0, 0, 1)
    assert (stats["batches"], stats["failed_batches"], stats["mean_batch_size"]) == (1, 1, 1.0)


@pytest.mark.guarantee("policy-client-dies")
def test_a_client_that_stops_in_the_middle_of_a_message_holds_nobody_up() -> None:
    with PolicyServer(double, 1, 0) as server:
        client = server.client()
        message = b"".join(Channel.pack("x" * 1000))
        with connect(*client.__reduce__()[1], None) as end:
            end.sendall(message[:100])
            assert client(see(1), PATIENCE_S) == 2
            assert server.stats()["clients"] == 2
        wait_until(lambda: server.stats()["clients"] == 1)


@pytest.mark.guarantee("policy-client-dies")
def test_a_client_that_says_nonsense_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with PolicyServer(double, 1, 0) as server:
        client = server.client()
        with connect(*client.__reduce__()[1], None) as end, caplog.at_level(logging.ERROR):
            end.sendall(b"".join(Channel.pack("nonsense")))
            end.settimeout(PATIENCE_S)
            assert end.recv(1) == b""
        assert "dropped a client that it does not understand" in caplog.text
        assert client(see(1), PATIENCE_S) == 2


def test_ctrl_c_cuts_a_request_off_and_the_next_one_is_answered() -> None:
    def interrupt() -> None:
        policy.wait_until_entered()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    policy = GatedPolicy(0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with PolicyServer(policy, 1, 0) as server:
            client = server.client()
            interrupting = Asking(interrupt)
            with pytest.raises(KeyboardInterrupt):
                client(see(1))
            interrupting.result()
            policy.open_gate()
            assert client(see(2), PATIENCE_S) == 4
            wait_until(lambda: server.stats()["clients"] == 1)
    finally:
        signal.signal(signal.SIGINT, before)


# -- the server -----------------------------------------------------------------------------------


@pytest.mark.guarantee("policy-server-end")
@pytest.mark.parametrize("host", [None, "127.0.0.1"])
@pytest.mark.parametrize("is_at_work", [False, True])
def test_closing_fails_who_waits_at_once(host: str | None, is_at_work: bool) -> None:
    policy = GatedPolicy(0)
    server = PolicyServer(policy, 2 if is_at_work else 100, LONG_S, host=host)
    client = server.client()

    async def ask_many() -> list[Any]:
        asking = [client.act(see(k)) for k in range(3)]
        return await asyncio.gather(*asking, return_exceptions=True)

    waiting = [Asking(lambda: client(see(1))), Asking(lambda: asyncio.run(ask_many()))]
    if is_at_work:
        policy.wait_until_entered()
    else:
        wait_until(lambda: server.stats()["waiting"] == 4)
    closing = Asking(server.close)
    with pytest.raises(PolicyServerClosed, match="was closed, or its process ended"):
        waiting[0].result()
    assert [type(error) for error in waiting[1].result()] == [PolicyServerClosed] * 3
    policy.open_gate()  # only now: who waited was told while the policy was at work
    closing.result()
    assert server.is_closed
    assert server.stats()["clients"] == 0
    with pytest.raises(PolicyServerClosed):
        client(see(1))


@pytest.mark.guarantee("policy-server-end")
@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_a_policy_that_hangs_holds_close_up_for_the_grace_only(
    caplog: pytest.LogCaptureFixture, host: str | None
) -> None:
    policy = GatedPolicy(0)
    server = PolicyServer(policy, 1, 0, close_grace_s=0.05, host=host)
    client = server.client()
    asking = Asking(lambda: client(see(1)))
    policy.wait_until_entered()
    with caplog.at_level(logging.WARNING, "vectasks"):
        server.close()
    assert "still at work, 0.05 s after close()" in caplog.text
    for ask in (asking.result, lambda: client(see(1)), lambda: server.client()(see(1))):
        with pytest.raises(PolicyServerClosed):
            ask()
    policy.open_gate()


def test_closing_inside_an_update_waits_for_nobody() -> None:
    server = PolicyServer(double, 1, 0, close_grace_s=LONG_S)
    asking = Asking(lambda: server.client()(see(1)))
    assert asking.result() == 2
    with server.updating():
        waiting = Asking(lambda: server.client()(see(1)))
        wait_until(lambda: server.stats()["waiting"] > 0)
        server.close()
        with pytest.raises(PolicyServerClosed):
            waiting.result()


SERVER = """
import pickle
from vectasks.rollouts import PolicyServer

def policy(batch):
    Path("at work").touch()
    {policy}

server = PolicyServer(policy, 1, 0, host={host!r})
client = server.client()
print(repr(client))
Path("client.part").write_bytes(pickle.dumps(client))
Path("client.part").rename("client")
{then}
threading.Event().wait()
"""
FORK = """
while not Path("at work").exists():
    time.sleep(0.005)
if os.fork() == 0:  # holds a copy of every descriptor that it was not told to let go of
    Path("forked").touch()
    threading.Event().wait()
"""


def client_of(script: Script) -> PolicyClient:
    script.wait_for_files("client")
    client: PolicyClient = pickle.loads((script.cwd / "client").read_bytes())
    return client


@pytest.mark.guarantee("policy-server-dies")
@pytest.mark.parametrize("host", [None, "127.0.0.1"])
@pytest.mark.parametrize("then", ["", FORK], ids=["alone", "with a fork"])
def test_the_death_of_the_servers_process_fails_who_waits(
    start: Callable[[str], Script], then: str, host: str | None
) -> None:
    script = start(SERVER.format(policy="threading.Event().wait()", host=host, then=then))
    client = client_of(script)
    asking = Asking(lambda: client(see(1)))
    waiting = Asking(lambda: asyncio.run(client.act(see(2))))  # to be introduced
    script.wait_for_files("at work", *(["forked"] if then else []))
    os.kill(script.process.pid, signal.SIGKILL)
    script.process.wait()
    for each in (asking, waiting):
        with pytest.raises(PolicyServerClosed, match="was closed, or its process ended"):
            each.result()
    with pytest.raises(PolicyServerClosed):
        client(see(1))


def test_the_end_of_the_interpreter_closes_it(start: Callable[[str], Script]) -> None:
    script = start(SERVER.format(policy="return batch[:, 0]", host=None, then="sys.exit()"))
    assert script.wait() == 0
    folder = Path(script.stdout.split()[-1].rstrip(">")).parent
    assert folder.name.startswith("vectasks-policy-")
    assert not folder.exists()
    assert script.stderr == ""


def test_too_few_descriptors_hold_clients_up_and_fail_nobody() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    context: Any = multiprocessing.get_context("fork")
    there, end = context.Pipe()
    with PolicyServer(double, 1, 0) as server:
        client = server.client()
        assert client(see(1), PATIENCE_S) == 2
        go, told = context.Pipe()
        child = context.Process(target=_ask_when_told, args=(client, told, end))
        child.start()
        with os.scandir("/proc/self/fd") as listing:
            highest = max(int(entry.name) for entry in listing)
        spare = [os.dup(0) for _ in range(highest)]  # no number below the limit is free
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, hard))
        try:
            go.send("go")
            assert client(see(2), PATIENCE_S) == 4
            with pytest.raises(ResourceLimit, match="cannot connect"):
                server.client()(see(2))
            assert not there.poll(0.05)
        finally:
            for descriptor in spare:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert there.poll(PATIENCE_S)
        assert there.recv() == 6
        child.join()
    for pipe in (there, end, go, told):
        pipe.close()


def _ask_when_told(client: PolicyClient, told: Any, pipe: Any) -> None:
    told.recv()
    pipe.send(client(see(3), PATIENCE_S))


@pytest.mark.guarantee("policy-answers")
def test_nothing_is_lost_where_clients_come_and_go_and_policies_are_swapped() -> None:
    def ask_on(number: int) -> int:
        count = 0
        while not enough.is_set():
            client = server.client()
            for k in range(5):
                answer = client.ask(see(number + k), PATIENCE_S)
                assert answer.action == (number + k) * (answer.version + 1)
                count += 1
        return count

    enough = threading.Event()
    with PolicyServer(lambda batch: batch[:, 0], 3, 0) as server:
        asking = [Asking(lambda k=k: ask_on(10 * k)) for k in range(4)]
        try:
            for version in range(1, 30):
                server.update(lambda batch, v=version: batch[:, 0] * (v + 1))
        finally:
            enough.set()
        counts = [each.result() for each in asking]
        stats = server.stats()
    assert stats["answered"] == stats["requests"] == sum(counts)
    assert stats["dropped"] == stats["failed"] == 0
