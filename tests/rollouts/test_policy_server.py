"""PolicyServer: its batches, versions and failures, and what it refuses."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from served_policies import LONG_S, PATIENCE_S, Asking, GatedPolicy, double, see

from vectasks import (
    InvalidArgument,
    LayoutError,
    PolicyError,
    PolicyServerClosed,
    ResourceLimit,
    UsageError,
    WrongCount,
)
from vectasks.errors import RemoteTraceback
from vectasks.rollouts import Answer, PolicyServer

# -- batches --------------------------------------------------------------------------------------


@pytest.mark.guarantee("policy-batches")
def test_a_full_batch_waits_for_nobody() -> None:
    policy = GatedPolicy()
    with PolicyServer(policy, max_batch=4, max_wait_s=LONG_S) as server:
        client = server.client()
        asking = [Asking(lambda k=k: client(see(k), PATIENCE_S)) for k in range(4)]
        assert [each.result() for each in asking] == [0, 2, 4, 6]
    assert policy.sizes == [4]


@pytest.mark.guarantee("policy-batches")
def test_what_is_not_full_waits_for_the_deadline_and_no_longer() -> None:
    policy = GatedPolicy()
    with PolicyServer(policy, max_batch=100, max_wait_s=0.02) as server:
        answers = server.client().ask_many([see(k) for k in range(3)], PATIENCE_S)
        assert [answer.action for answer in answers] == [0, 2, 4]
        assert server.stats()["longest_wait_s"] >= 0.02
    assert sum(policy.sizes) == 3


@pytest.mark.guarantee("policy-batches")
def test_whoever_is_there_when_the_policy_is_free_is_a_batch_in_order_of_arrival() -> None:
    policy = GatedPolicy(1)

    async def main() -> list[float]:
        client = server.client()
        await client.act(see(0))  # now there is a connection
        first = asyncio.create_task(client.act(see(1)))
        await asyncio.to_thread(policy.wait_until_entered)
        others = [asyncio.create_task(client.act(see(k))) for k in range(2, 7)]
        await asyncio.sleep(0)  # all are sent
        policy.open_gate()
        return [await task for task in (first, *others)]

    with PolicyServer(policy, max_batch=3, max_wait_s=0) as server:
        actions = asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
        stats = server.stats()
    assert actions == [2, 4, 6, 8, 10, 12]
    assert policy.sizes == [1, 1, 3, 2]
    assert (stats["requests"], stats["answered"], stats["batches"]) == (7, 7, 4)
    assert stats["mean_batch_size"] == 7 / 4


class Hand(NamedTuple):
    joints: Any
    holds: Any


def test_nested_observations_are_stacked_leaf_by_leaf() -> None:
    seen: list[Any] = []

    def policy(batch: Any) -> Any:
        seen.append(batch)
        return {
            "action": {"move": batch["hand"][0], "say": [text.upper() for text in batch["say"]]}
        }

    def observe(k: int) -> Any:
        return {"hand": Hand(np.full((2, 3), k, np.uint8), bool(k)), "say": "a" * k, "age": 0.5}

    with PolicyServer(policy, max_batch=2, max_wait_s=LONG_S) as server:
        first, second = server.client().ask_many([observe(1), observe(2)], PATIENCE_S)
    (batch,) = seen
    assert batch["hand"][0].shape == (2, 2, 3)
    assert batch["hand"][0].dtype == np.uint8
    assert batch["hand"][1].tolist() == [True, True]
    assert batch["say"].tolist() == ["a", "aa"]
    assert batch["age"].dtype == np.float64
    assert first.action["say"] == "A"
    assert second.action["say"] == "AA"
    assert (second.action["move"] == 2).all()


@pytest.mark.parametrize(
    ("give", "extras"),
    [
        (lambda batch: {"action": batch[:, 0], "value": batch[:, 0] + 1}, {"value": 4.0}),
        (lambda batch: (batch[:, 0], {"value": batch[:, 0] + 1}), {"value": 4.0}),
        (lambda batch: batch[:, 0], {}),
        (lambda batch: [float(row[0]) for row in batch], {}),
    ],
    ids=["dict", "pair", "array", "list"],
)
def test_what_a_policy_may_return(give: Callable[[Any], Any], extras: Any) -> None:
    with PolicyServer(give, 1, 0, version=7) as server:
        assert server.client().ask(see(3), PATIENCE_S) == Answer(3.0, 7, extras)


def test_actions_that_are_tuples_and_dicts_of_arrays() -> None:
    def policy(batch: Any) -> Any:
        return (batch[:, 0], {"grip": batch > 0}), {"value": batch[:, 1]}

    with PolicyServer(policy, 1, 0) as server:
        answer = server.client().ask(see(3), PATIENCE_S)
    assert answer.action[0] == 3
    assert answer.action[1]["grip"].tolist() == [True, False]
    assert answer.extras == {"value": 0.0}


def test_large_observations_and_actions() -> None:
    with PolicyServer(lambda batch: batch[:, ::-1], 2, LONG_S) as server:
        images = [np.full((600, 800, 3), k, np.uint8) for k in range(2)]
        images[1][0] = 7
        answers = server.client().ask_many(images, PATIENCE_S)
    assert (answers[1].action == images[1][::-1]).all()
    assert answers[1].action.flags.writeable


# -- torch ----------------------------------------------------------------------------------------


def test_a_torch_module_on_a_device() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = torch.nn.Linear(2, 3)
    needed_gradients = []

    def policy(batch: Any) -> Any:
        logits = module(batch)
        needed_gradients.append(logits.requires_grad)
        return {"action": logits.argmax(1), "logits": logits}

    with PolicyServer(policy, 1, 0, device="cpu") as server:
        answer = server.client().ask(torch.tensor([1.0, 2.0]), PATIENCE_S)
    expected = module(torch.tensor([[1.0, 2.0]])).detach().numpy()[0]
    assert isinstance(answer.extras["logits"], np.ndarray)
    np.testing.assert_allclose(answer.extras["logits"], expected, rtol=1e-6)
    assert answer.action == expected.argmax()
    assert needed_gradients == [False]


# -- observations that do not fit -----------------------------------------------------------------


@pytest.mark.guarantee("policy-misfits")
@pytest.mark.parametrize("example", [None, {"x": np.zeros(2, np.float32), "n": np.int8(0)}])
def test_what_does_not_fit_fails_alone(example: Any) -> None:
    def policy(batch: Any) -> Any:
        sizes.append(len(batch["x"]))
        return batch["n"]

    def observe(x: Any = (0.5, 0.5), n: Any = 1) -> Any:
        return {"x": np.asarray(x, np.float32), "n": np.int8(n)}

    sizes: list[int] = []
    misfits = [
        (see(0), "observation does not fit what this policy server takes: array"),
        ({"x": np.zeros(2)}, "no mapping with the keys ['n', 'x']"),
        (observe(np.zeros(3)), "observation['x'] has the shape (3,)"),
        (observe() | {"x": np.zeros(2, complex)}, "observation['x'] is complex128"),
        (observe() | {"x": np.array(["a", "b"])}, "observation['x'] is <U1"),
        (observe() | {"x": [None, 0.0]}, "observation['x'] is of type list"),
        (observe() | {"x": [[1.0], 2.0]}, "observation['x'] cannot be an array"),
        (observe() | {"n": 300}, "observation['n'] is int64, which cannot be cast to int8"),
        (observe() | {"n": 0.5}, "observation['n'] is float64"),
    ]
    with PolicyServer(policy, max_batch=2, max_wait_s=LONG_S, example=example) as server:
        good = server.client()
        if example is None:
            good.ask_many([observe()] * 2, PATIENCE_S)  # the first one says how they are
            sizes.clear()
        waiting = Asking(lambda: good(observe(n=5), PATIENCE_S))
        bad = server.client()
        for misfit, message in misfits:
            with pytest.raises(LayoutError) as refused:
                bad.ask(misfit, PATIENCE_S)
            assert message in str(refused.value)
        assert not waiting.is_done
        further = {"x": np.zeros(2), "n": 6, "not": "wanted"}  # float64, int64: cast within kinds
        assert bad.ask(further, PATIENCE_S).action == 6
        assert waiting.result() == 5
        assert server.stats()["refused"] == len(misfits)
    assert sizes == [2]


@pytest.mark.parametrize("example", [{"x": object()}, [1, [2]], {"x": None}])
def test_an_example_that_is_no_observation(example: Any) -> None:
    with pytest.raises(LayoutError, match="observation"):
        PolicyServer(double, 1, 0, example=example)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ValueError("not me")


class Unloadable:
    def __reduce__(self) -> Any:
        return fail_to_load, (os.getpid(),)


def fail_to_load(pid: int) -> Any:
    raise ValueError(f"made in {pid}")


def test_what_cannot_travel_fails_alone() -> None:
    with PolicyServer(double, 1, 0) as server:
        client = server.client()
        with pytest.raises(InvalidArgument, match=r"ValueError: not me.*Nothing was sent"):
            client(Unpicklable())
        with pytest.raises(LayoutError, match=rf"cannot be rebuilt.*made in {os.getpid()}"):
            client(Unloadable())
        server.update(lambda batch: [Unpicklable()])
        with pytest.raises(PolicyError, match="what the policy gave cannot be sent"):
            client(see(1), PATIENCE_S)
        server.update(lambda batch: [Unloadable()])
        with pytest.raises(PolicyError, match="cannot be rebuilt in this process"):
            client(see(1), PATIENCE_S)
        server.update(double)
        assert client(see(1), PATIENCE_S) == 2
        stats = server.stats()
    assert (stats["refused"], stats["failed"]) == (1, 1)


# -- policies that fail ---------------------------------------------------------------------------


class Moody:
    """Raises for batches with a negative number."""

    def __call__(self, batch: Any) -> Any:
        if (batch < 0).any():
            raise ZeroDivisionError(f"no good: {batch.min()}")
        return double(batch)


@pytest.mark.guarantee("policy-raises")
def test_a_policy_that_raises_fails_its_batch_and_no_other() -> None:
    with PolicyServer(Moody(), max_batch=2, max_wait_s=LONG_S) as server:
        client = server.client()
        failing = [Asking(lambda k=k: client(see(k), PATIENCE_S)) for k in (-5, 1)]
        for each in failing:
            with pytest.raises(PolicyError, match=r"ZeroDivisionError: no good: -5\.0") as failed:
                each.result()
            assert "in __call__" in failed.value.remote_traceback
            assert isinstance(failed.value.__cause__, ZeroDivisionError)
            assert isinstance(failed.value.__cause__.__cause__, RemoteTraceback)
        assert [a.action for a in client.ask_many([see(1), see(2)], PATIENCE_S)] == [2, 4]
        stats = server.stats()
    assert (stats["failed"], stats["failed_batches"], stats["answered"]) == (2, 1, 2)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_no_exception_of_the_policy_ends_the_server(kind: type[BaseException]) -> None:
    def policy(batch: Any) -> Any:
        raise kind("now")

    with PolicyServer(policy, 1, 0) as server:
        client = server.client()
        for _ in range(2):
            with pytest.raises(PolicyError, match=f"{kind.__name__}: now"):
                client(see(1), PATIENCE_S)


@pytest.mark.guarantee("policy-raises")
@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda batch: np.zeros(3), "3 rows of actions for a batch of 2"),
        (lambda batch: [0], "1 rows of actions for a batch of 2"),
        (lambda batch: {"action": np.zeros(2), "value": np.zeros(1)}, "1 rows of 'value'"),
        (lambda batch: {"action": (np.zeros(2), np.zeros(4))}, r"4 rows of actions\[1\]"),
        (lambda batch: np.float32(0), "must return actions as an array"),
        (lambda batch: None, "must return actions as an array"),
        (lambda batch: "ab", "must return actions as an array"),
        (lambda batch: {}, "must return actions as an array"),
        (lambda batch: (np.zeros(2), {"loss": 0.5}), "must return 'loss' as an array"),
    ],
)
def test_a_policy_that_does_not_give_one_row_each(give: Callable[[Any], Any], message: str) -> None:
    with PolicyServer(give, 2, LONG_S) as server:
        client = server.client()
        with pytest.raises(PolicyError, match=message) as failed:
            client.ask_many([see(1), see(2)], PATIENCE_S)
        assert isinstance(failed.value.__cause__, (InvalidArgument, WrongCount))


# -- versions -------------------------------------------------------------------------------------


@pytest.mark.guarantee("policy-swap")
def test_an_update_waits_for_the_batch_that_is_at_work() -> None:
    policy = GatedPolicy(0)
    with PolicyServer(policy, 1, 0, version=3) as server:
        client = server.client()
        asking = Asking(lambda: client.ask(see(1), PATIENCE_S))
        policy.wait_until_entered()
        updating = Asking(lambda: server.update(lambda batch: -batch[:, 0]))
        assert not updating.is_done
        policy.open_gate()
        assert asking.result() == Answer(2.0, 3, {})
        updating.result()
        assert client.ask(see(1), PATIENCE_S) == Answer(-1.0, 4, {})
        server.update(double, version=10)
        assert client.ask(see(1), PATIENCE_S) == Answer(2.0, 10, {})
        server.update(version=2)
        assert client.ask(see(1), PATIENCE_S) == Answer(2.0, 2, {})
        assert server.version == server.stats()["version"] == 2


@pytest.mark.guarantee("policy-swap")
def test_no_batch_sees_weights_that_are_being_changed() -> None:
    weights = {"a": 0, "b": 0}
    interval_s = sys.getswitchinterval()

    def policy(batch: Any) -> Any:
        a = weights["a"]
        sum(range(200))
        return [(a, weights["b"])] * len(batch)

    def ask_on() -> None:
        client = server.client()
        while not enough.is_set():
            answer = client.ask(see(0), PATIENCE_S)
            assert answer.action == (answer.version, answer.version)

    enough = threading.Event()
    sys.setswitchinterval(1e-5)
    try:
        with PolicyServer(policy, 4, 0) as server:
            asking = [Asking(ask_on) for _ in range(3)]
            for version in range(1, 200):
                with server.updating():
                    weights["a"] = version
                    sum(range(200))
                    weights["b"] = version
            enough.set()
            for each in asking:
                each.result()
            assert server.version == 199
    finally:
        enough.set()
        sys.setswitchinterval(interval_s)


def test_an_update_that_raises_changes_no_version_and_holds_nobody_up() -> None:
    with PolicyServer(double, 1, 0) as server:
        with pytest.raises(KeyError), server.updating():
            raise KeyError
        assert server.client().ask(see(1), PATIENCE_S).version == 0


def test_an_update_inside_a_batch_or_an_update_is_refused() -> None:
    def policy(batch: Any) -> Any:
        server.update(double)

    with PolicyServer(policy, 1, 0) as server:
        with pytest.raises(
            PolicyError, match="UsageError: the policy cannot be updated from insid"
        ):
            server.client()(see(1), PATIENCE_S)
        with server.updating(), pytest.raises(UsageError, match="wait for itself"):
            server.update(double)
        server.update(double)
        assert server.client()(see(1), PATIENCE_S) == 2


# -- arguments, and the end -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"policy": None},
        {"policy": asyncio.sleep},
        {"max_batch": 0},
        {"max_batch": -1},
        {"max_batch": True},
        {"max_batch": 2.0},
        {"max_batch": None},
        {"max_wait_s": -0.1},
        {"max_wait_s": math.nan},
        {"max_wait_s": math.inf},
        {"max_wait_s": False},
        {"max_wait_s": "1"},
        {"max_wait_s": None},
        {"close_grace_s": -1},
        {"version": -1},
        {"version": True},
        {"version": 1.5},
        {"host": 5},
        {"host": ""},
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"port": 80},
        {"port": -1, "host": "localhost"},
        {"port": 70_000, "host": "localhost"},
        {"device": "no such thing"},
    ],
    ids=lambda arguments: str(arguments).partition(" at 0x")[0],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any]) -> None:
    if "device" in arguments:
        pytest.importorskip("torch", reason="torch is not installed")
    given = {"policy": double, "max_batch": 2, "max_wait_s": 0.1, **arguments}
    with pytest.raises(InvalidArgument, match=next(iter(arguments))):
        PolicyServer(**given)


def test_updates_that_cannot_be() -> None:
    with PolicyServer(double, 1, 0) as server:
        for arguments in ({"policy": 5}, {"version": -1}, {"version": True}):
            with pytest.raises(InvalidArgument):
                server.update(**arguments)
        with pytest.raises(InvalidArgument, match="version"), server.updating(version=0.5):
            pass
        assert server.client().ask(see(1), PATIENCE_S) == Answer(2.0, 0, {})


def test_a_host_that_is_not_this_one_and_a_port_that_is_taken() -> None:
    with pytest.raises(ResourceLimit, match="cannot listen"):
        PolicyServer(double, 1, 0, host="host.invalid")
    with PolicyServer(double, 1, 0, host="localhost") as server:
        port = int(repr(server.client()).rstrip(">").rpartition(":")[2])
        with pytest.raises(ResourceLimit, match=f"cannot listen on localhost:{port}"):
            PolicyServer(double, 1, 0, host="localhost", port=port)


@pytest.mark.guarantee("policy-server-end")
def test_closing_works_twice_and_leaves_no_file(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short_folder))
    server = PolicyServer(double, 1, 0)
    (folder,) = short_folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700  # for this user alone
    client = server.client()
    assert client(see(1), PATIENCE_S) == 2
    assert not server.is_closed
    for _ in range(2):
        server.close()
        assert server.is_closed
    assert list(short_folder.iterdir()) == []
    with pytest.raises(PolicyServerClosed):
        client(see(1))
    for change in (server.update, lambda: server.updating().__enter__()):
        with pytest.raises(PolicyServerClosed, match="closed"):
            change()
    assert server.stats()["answered"] == 1


@pytest.mark.guarantee("policy-server-end")
def test_a_server_that_nobody_holds_ends() -> None:
    client = PolicyServer(double, 1, 0).client()
    with pytest.raises(PolicyServerClosed):
        client(see(1))


def test_a_folder_for_temporary_files_that_is_too_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with PolicyServer(double, 1, 0) as server:
        assert server.client()(see(1), PATIENCE_S) == 2
    assert list(deep.iterdir()) == []


def test_a_server_is_not_pickled() -> None:
    import pickle

    with PolicyServer(double, 1, 0) as server, pytest.raises(TypeError, match="PolicyServer"):
        pickle.dumps(server)
