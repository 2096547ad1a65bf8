"""Scenarios on a Ray cluster of two nodes on this machine; a process of its own runs them.

Ray's threads and processes are its own business: the test looks only at what is left of them. It
also says by the environment where Ray keeps its files, and that it uses loopback addresses alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray.cluster_utils import Cluster

from vectasks import (
    CallError,
    InvalidArgument,
    PolicyServerClosed,
    SetupError,
    VectorSampledTasks,
    WorkerDied,
)
from vectasks.pool.pool import WorkerPool
from vectasks.rollouts import PolicyServer
from vectasks.rollouts.episodes import EpisodeRunner, RolloutRunner
from vectasks.rollouts.scheduler import Scheduler, Status
from vectasks.testing.toys import CountingTask, ToySampler, toy_args

PATIENCE_S = 60.0
SPREAD = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}


class Thing:
    """An object and a runner; waits are for files."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.calls: list[Any] = []

    def note(self, value: Any) -> list[Any]:
        self.calls.append(value)
        return list(self.calls)

    def fail(self) -> None:
        raise KeyError("no such thing")

    def die(self) -> None:
        os._exit(3)

    async def later(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return value

    def echo(self, value: Any) -> Any:
        return value

    def run(self, task: Any, run_id: int) -> dict[str, Any]:
        name, *rest = task
        node = ray.get_runtime_context().get_node_id()
        (self.folder / f"at {name} {run_id} {node}").touch()
        if name == "raise":
            raise ValueError("bad task")
        if name == "hang":
            self.wait_for("never")
        if name == "gate":
            self.wait_for(rest[0])
        return {"run_id": run_id, "node": node}

    def wait_for(self, name: str) -> None:
        while not (self.folder / name).exists():
            time.sleep(0.005)

    def close(self) -> None:
        with (self.folder / "closed").open("a") as file:
            file.write("closed\n")


def error_of(future: Future[Any]) -> Any:
    return future.exception(PATIENCE_S)


def num_ok(statuses: list[Status]) -> int:
    return sum(status.ok for status in statuses)


def a_pool_of_actors(folder: str, cluster: Cluster, second: Any) -> None:
    with WorkerPool(lambda: Thing(folder), 2, kind="ray") as pool:
        futures = [pool.submit_at(i % 2, "note", i) for i in range(6)]
        assert [f.result(PATIENCE_S) for f in futures][-2:] == [[0, 2, 4], [1, 3, 5]]
        assert pool.submit_at(0, "later", 5).result(PATIENCE_S) == 5
        failed = error_of(pool.submit_at(0, "fail"))
        assert isinstance(failed, CallError)
        assert isinstance(failed.__cause__, KeyError)
        array = np.arange(1_000_000)
        assert (pool.submit_at(0, "echo", array).result(PATIENCE_S) == array).all()
        dead = [pool.submit_at(1, "die"), pool.submit_at(1, "note", 1)]
        assert all(isinstance(error_of(future), WorkerDied) for future in dead)
        assert isinstance(error_of(pool.submit_at(1, "note", 1)), WorkerDied)
        assert not pool.is_alive(1)
        assert pool.submit_at(0, "note", 6).result(PATIENCE_S) == [0, 2, 4, 6]
        hung = pool.submit_at(0, "wait_for", "never")
        for worker in (0, 1):
            pool.restart_at(worker)
            assert pool.submit_at(worker, "note", "new").result(PATIENCE_S) == ["new"]
        assert isinstance(error_of(hung), WorkerDied)
    assert (Path(folder) / "closed").read_text() == "closed\n" * 2


def what_cannot_be(folder: str, cluster: Cluster, second: Any) -> None:
    import threading

    lock = threading.Lock()
    for arguments in ({"make_object": lambda: lock}, {"resources": {"num_cups": 1}}):
        try:
            WorkerPool(**{"make_object": list, "num_workers": 1, "kind": "ray", **arguments})
            raise AssertionError(arguments)
        except InvalidArgument:
            pass
    with WorkerPool(lambda: 1 / 0, 1, kind="ray") as pool:
        assert isinstance(error_of(pool.submit_at(0, "append", 1)), SetupError)
    nowhere = {"resources": {"a planet": 1}}
    with WorkerPool(list, 1, kind="ray", start_timeout_s=0.5, resources=nowhere) as pool:
        assert "no node has room" in str(error_of(pool.submit_at(0, "append", 1)))
    with WorkerPool(list, 1, kind="ray") as pool:
        try:
            pool.submit_at(0, "append", lock)
            raise AssertionError("a lock was sent")
        except InvalidArgument:
            pass
        assert pool.submit_at(0, "append", 1).result(PATIENCE_S) is None


def the_scheduler(folder: str, cluster: Cluster, second: Any) -> None:
    async def main() -> None:
        options: Any = {"backend": "ray", "resources": SPREAD, "close_grace_s": 1.0}
        async with Scheduler(
            lambda: Thing(folder), 2, max_timeout=PATIENCE_S, max_retry_times=1, **options
        ) as scheduler:
            scheduler.schedule([("a",)] * 8, 0)
            statuses, experiences = await scheduler.get_results(0)
            assert num_ok(statuses) == 8
            assert {e["run_id"] for e in experiences} == set(range(8))
            assert len({e["node"] for e in experiences}) == 2
            scheduler.schedule([("a",), ("raise",)], 1)
            statuses, _ = await scheduler.get_results(1)
            assert (len(statuses), num_ok(statuses)) == (2, 1)
            scheduler.schedule([("hang",), ("a",), ("a",)], 2)
            statuses, _ = await scheduler.get_results(2, min_num=2)
            assert num_ok(statuses) == 2
            assert await scheduler.get_results(2, timeout=0.1) == ([], [])  # and the hung one goes
            scheduler.schedule([("a",)] * 4, 3)
            statuses, _ = await scheduler.get_results(3)
            assert num_ok(statuses) == 4

    asyncio.run(main())


def actors_run_on_no_cpu_of_their_own(folder: str, cluster: Cluster, second: Any) -> None:
    with WorkerPool(list, 10, kind="ray") as pool:  # on two nodes of four
        for worker in range(10):
            assert pool.submit_at(worker, "append", 1).result(PATIENCE_S) is None


def what_has_no_place_is_told_within_seconds(folder: str, cluster: Cluster, second: Any) -> None:
    async def main() -> None:
        scheduler = Scheduler(
            lambda: Thing(folder), 3, backend="ray", resources={"num_cpus": 4}, close_grace_s=1.0
        )
        began = time.monotonic()
        starting = asyncio.create_task(scheduler.start())
        while not caught and time.monotonic() - began < 10:
            await asyncio.sleep(0.01)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await scheduler.stop()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
    (told,) = [str(each.message) for each in caught]
    assert told.startswith("1 of 3 Ray actors have not started after 8 s. Each asks for"), told
    assert "{'num_cpus': 4}" in told, told
    assert "CPU 0 of 8" in told, told


def rebuilding_a_task_has_its_own_limit(folder: str, cluster: Cluster, second: Any) -> None:
    async def main() -> None:
        async with Scheduler(
            lambda: Thing(folder), 1, backend="ray", max_timeout=1.0, max_retry_times=0
        ) as scheduler:
            scheduler.schedule([RebuiltSlowly(), RebuiltSlowly()], 0)
            statuses, _ = await scheduler.get_results(0)
            assert num_ok(statuses) == 2, statuses
            scheduler.schedule([("hang",)], 1)
            (status,), _ = await scheduler.get_results(1)
            assert "no answer within 1 s" in status.message, status

    asyncio.run(main())


class RebuiltSlowly:
    """A task that takes longer to be rebuilt than it may take to run."""

    def __reduce__(self) -> Any:
        return rebuild, ()


def rebuild() -> Any:
    time.sleep(1.5)
    return ("a",)


def rollouts_of_local_vectors(folder: str, cluster: Cluster, second: Any) -> None:
    def act(observation: Any) -> dict[str, Any]:
        return {"action": observation[:, 2] % 4, "value": observation[:, 2]}

    def make_runner() -> RolloutRunner:
        def make_tasks() -> VectorSampledTasks:
            return VectorSampledTasks(ToySampler, toy_args(CountingTask, 4, max_steps=3))

        return RolloutRunner(make_tasks, policy=act, horizon=6)

    async def main() -> None:
        async with Scheduler(make_runner, 2, backend="ray", resources=SPREAD) as scheduler:
            scheduler.schedule([None] * 4, 0)
            statuses, rollouts = await scheduler.get_results(0)
            assert num_ok(statuses) == 4, statuses
            for rollout in rollouts:
                assert rollout.observations.shape == (6, 4, 3)
                assert rollout.dones.sum() == rollout.metrics["num_episodes"] == 8

    asyncio.run(main())


def runners_ask_one_policy_server(folder: str, cluster: Cluster, second: Any) -> None:
    def act(observation: Any) -> dict[str, Any]:
        return {"action": observation[:, 2] % 4}

    async def main(client: Any) -> None:
        def make_runner() -> EpisodeRunner:
            arguments = toy_args(CountingTask, 1, max_steps=4)[0]
            return EpisodeRunner(ToySampler, arguments, policy=client.as_policy(PATIENCE_S))

        async with Scheduler(make_runner, 2, backend="ray", resources=SPREAD) as scheduler:
            scheduler.schedule([None] * 6, 0)
            statuses, episodes = await scheduler.get_results(0)
            assert num_ok(statuses) == 6, statuses
            for episode in episodes:
                assert (episode.actions == episode.observations[:-1, 2] % 4).all()
                assert episode.kept["policy_version"].tolist() == [3] * 4

    host = ray.util.get_node_ip_address()
    with PolicyServer(act, 2, 0.001, version=3, host=host) as server:
        asyncio.run(main(server.client()))
        assert server.stats()["answered"] == 6 * 4
        ask = ray.remote(lambda client: client(np.array([0, 0, 6]), PATIENCE_S))
        asked = ask.remote(server.client())  # without a scheduler
        assert ray.get(asked, timeout=PATIENCE_S) == 2
        server.close()
        try:
            ray.get(ask.remote(server.client()), timeout=PATIENCE_S)
            raise AssertionError("a closed server answered")
        except PolicyServerClosed:  # Ray raises what its task raised as that, too
            pass


def a_node_is_lost(folder: str, cluster: Cluster, second: Any) -> None:
    def at(name: str) -> list[Path]:
        return sorted(Path(folder).glob(f"at {name} *"))

    async def main() -> None:
        async with Scheduler(
            lambda: Thing(folder), 4, backend="ray", resources=SPREAD, close_grace_s=1.0
        ) as scheduler:
            scheduler.schedule([("gate", "open")] * 8, 0)
            while len(at("gate")) < 4:
                await asyncio.sleep(0.01)
            lost = second.node_id
            assert any(path.name.endswith(lost) for path in at("gate"))
            await asyncio.to_thread(cluster.remove_node, second, False)
            while scheduler.stats()["retries"] < 1:
                await asyncio.sleep(0.01)
            (Path(folder) / "open").touch()
            statuses, experiences = await scheduler.get_results(0)
            assert num_ok(statuses) == 8, statuses
            assert {e["run_id"] for e in experiences} == set(range(8))  # each once: nothing lost
            assert lost not in {e["node"] for e in experiences}

    asyncio.run(main())


SCENARIOS = [
    a_pool_of_actors,
    what_cannot_be,
    the_scheduler,
    actors_run_on_no_cpu_of_their_own,
    what_has_no_place_is_told_within_seconds,
    rebuilding_a_task_has_its_own_limit,
    rollouts_of_local_vectors,
    runners_ask_one_policy_server,
    a_node_is_lost,
]


def main() -> None:
    """Run the scenarios and write what came of each to a file, then what was left running."""
    results = {}
    node = {
        "include_dashboard": False,
        "num_cpus": 4,
        "object_store_memory": 80_000_000,
    }
    # A node that is gone without a word is missed within a second or two, not within fifteen.
    checks = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 300,
        "health_check_timeout_ms": 1000,
        "health_check_failure_threshold": 3,
    }
    cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": checks})
    second = cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        for scenario in SCENARIOS:
            folder = tempfile.mkdtemp(dir=os.environ["RAY_TMPDIR"])
            began = time.monotonic()
            try:
                scenario(folder, cluster, second)
                told = "ok"
            except BaseException:
                told = traceback.format_exc()
            results[scenario.__name__] = told
            print(f"{scenario.__name__}: {time.monotonic() - began:.1f} s", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()
    _, alive = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=10)
    results["left"] = [" ".join(process.cmdline()[:3]) for process in alive]
    Path(sys.argv[1]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
