"""No two worker processes share random state, and nobody else's is changed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vectasks
from vectasks import SingleProcessVectorSampledTasks, VectorSampledTasks
from vectasks.compute import Task, TaskManager
from vectasks.pool.pool import WorkerPool
from vectasks.testing import toy_args
from vectasks.testing.toys import CountingTask, ToySampler
from vectasks.workers.randomness import WorkerSeed

COUNT = 2


class Drawing(ToySampler):
    """Draws from the global generators."""

    def draw(self) -> tuple[float, ...]:
        return draw()

    def pid(self) -> int:
        return os.getpid()


def draw() -> tuple[float, ...]:
    numbers = [random.random(), float(np.random.random())]
    if "torch" in sys.modules:  # a forked worker has what its parent has imported
        numbers.append(float(sys.modules["torch"].rand(1)))
    return tuple(numbers)


def draw_later_too() -> tuple[float, float, float]:
    import torch

    return random.random(), float(np.random.random()), float(torch.rand(1))


def draws(restarts: int = 0, **options: Any) -> list[Any]:
    """Return what each worker draws first, and then what the first one's successors do."""
    with VectorSampledTasks(
        Drawing,
        toy_args(CountingTask, COUNT),
        should_log=False,
        on_worker_death="restart",
        **options,
    ) as tasks:
        drawn = list(tasks.call_sampler("draw"))
        for _ in range(restarts):
            os.kill(tasks.call_sampler("pid")[0], signal.SIGKILL)
            assert "worker_restarted" in tasks.step([0] * COUNT)[0].info
            drawn.append(tasks.call_sampler("draw")[0])
        return drawn


def all_differ(drawn: list[Any]) -> bool:
    return all(len(set(numbers)) == len(drawn) for numbers in zip(*drawn, strict=True))


def test_all_workers_of_all_vectors_differ(method: str) -> None:
    options = {"multiprocessing_start_method": method}
    assert all_differ([*draws(restarts=2, **options), *draws(**options)])


def test_a_seed_makes_them_reproducible(method: str) -> None:
    options = {"multiprocessing_start_method": method, "seed": 3}
    drawn = draws(restarts=2, **options)
    assert all_differ(drawn)
    assert draws(restarts=2, **options) == drawn


def test_each_seed_has_numbers_of_its_own() -> None:
    assert all_differ([*draws(seed=3), *draws(seed=[5] * COUNT)])


def test_a_context_is_no_other_way() -> None:
    context = multiprocessing.get_context("forkserver")
    assert draws(mp_ctx=context, seed=3) == draws(seed=3)


class OwnProcess(ForkServerProcess):
    """A process of somebody who has taken the start into his own hands."""


class OwnContext(ForkServerContext):
    """A context with such processes."""

    Process = OwnProcess


def test_a_context_that_has_processes_of_its_own_starts_them() -> None:
    drawn = draws(mp_ctx=OwnContext(), seed=3)
    assert drawn == draws(seed=3)


class Drawer:
    """The object that a pool's worker holds."""

    def draw(self) -> tuple[float, ...]:
        return draw()


def test_all_workers_of_all_pools_differ() -> None:
    drawn = []
    with WorkerPool(Drawer, num_workers=2) as one, WorkerPool(Drawer, num_workers=2) as other:
        for pool in (one, other):
            drawn += [pool.submit_at(worker, "draw").result() for worker in range(2)]
            pool.restart_at(0)
            drawn.append(pool.submit_at(0, "draw").result())
    assert all_differ(drawn)


class DrawTogether(Task[Any, Any]):
    """Draws in a worker that computes."""

    def do(self, batch: Any, folder: Path) -> Any:
        (folder / str(batch[0])).touch()
        while len(list(folder.iterdir())) < 2:  # so that both workers have one
            pass
        return draw()


def test_workers_that_compute_differ(tmp_path: Path) -> None:
    manager = TaskManager(DrawTogether, backend="process", num_workers=2)
    results = manager.submit([0, 1], batch_size=1, args=(tmp_path,)).get()
    assert all_differ([result.value for result in results])


def test_in_process_nobody_is_seeded() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = draw()[:2]
    random.seed(1)
    np.random.seed(1)
    with SingleProcessVectorSampledTasks(
        Drawing, toy_args(CountingTask, 1), should_log=False, seed=3
    ) as tasks:
        assert tasks.call_sampler("draw")[0][:2] == expected


@pytest.mark.slow  # torch is imported in six processes
def test_torch_is_seeded_when_it_is_imported() -> None:
    pytest.importorskip("torch")

    class Later(ToySampler):
        def draw(self) -> Any:
            return draw_later_too()

    def draw_later(**options: Any) -> Any:
        with VectorSampledTasks(
            Later, toy_args(CountingTask, 2), should_log=False, **options
        ) as tasks:
            return tasks.call_sampler("draw")

    seeded = draw_later(seed=3)
    assert draw_later(seed=3) == seeded
    assert all_differ([*seeded, *draw_later()])


def test_torch_is_seeded_when_it_is_imported_at_last(tmp_path: Path) -> None:
    # Who only asks whether there is torch does not import it. (This one is quick to import.)
    (tmp_path / "torch.py").write_text("def manual_seed(seed): globals()['seed'] = seed\n")
    code = """
        import importlib.util, sys
        from vectasks.workers.randomness import WorkerSeed, seed_generators
        for worker in (0, 1, 0):
            sys.modules.pop("torch", None)
            seed_generators(WorkerSeed([3], 7, 1))  # what a fork of a worker has from the worker
            seed_generators(WorkerSeed([3], worker, 1))
            assert importlib.util.find_spec("torch") is not None and "torch" not in sys.modules
            import torch
            print(torch.seed)
        del sys.modules["torch"], torch.seed
        seed_generators(WorkerSeed([3], 7, 1))
        seed_generators(None)
        import torch
        print(hasattr(torch, "seed"))
    """
    first, second, third, unseeded = run_alone(code, tmp_path)
    assert first == third != second
    assert unseeded == "False"


def test_a_worker_is_seeded_by_all_that_tells_it_from_others() -> None:
    given = [
        WorkerSeed(seeds, worker, starts)
        for seeds in ([1], [2], [1, 2], [2**64 - 2])
        for worker in (0, 1)
        for starts in (0, 1)
    ]
    states = [tuple(seed.sequence().generate_state(4)) for seed in given]
    assert len(set(states)) == len(given)


# -- others' children -----------------------------------------------------------------------------


def run_alone(code: str, folder: Path) -> list[str]:
    """The lines that code prints; as it has no file, no child imports it."""
    root = str(Path(vectasks.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_others_children_of_a_forkserver_are_as_without_us(tmp_path: Path) -> None:
    lines = run_alone(
        """
        import multiprocessing
        from vectasks import VectorSampledTasks
        from vectasks.testing.toys import CountingTask, ToySampler, toy_args
        seen = "import sys; print('numpy' in sys.modules, 'vectasks' in sys.modules, flush=True)"

        def start_another():
            process = multiprocessing.get_context("forkserver").Process(target=exec, args=(seen,))
            process.start()
            process.join()

        class Sampler(ToySampler):
            def start_another(self):
                start_another()

        context = multiprocessing.get_context("forkserver")
        for options in ({}, {"mp_ctx": context}):
            with VectorSampledTasks(Sampler, toy_args(CountingTask, 1), **options) as tasks:
                start_another()
                tasks.call_sampler("start_another")  # a worker's children are others' too
        """,
        tmp_path,
    )
    assert lines == ["False False"] * 4


def test_what_the_program_has_its_forkserver_import_is_imported_by_ours_too(tmp_path: Path) -> None:
    (tmp_path / "preloaded.py").write_text("import os\nHOME = os.getpid()\n")
    lines = run_alone(
        """
        import multiprocessing, os, sys
        from vectasks import VectorSampledTasks
        from vectasks.testing.toys import CountingTask, ToySampler, toy_args
        multiprocessing.set_forkserver_preload(["__main__", "preloaded"])

        class Sampler(ToySampler):
            def is_preloaded(self):
                return sys.modules["preloaded"].HOME == os.getppid()

        with VectorSampledTasks(Sampler, toy_args(CountingTask, 1)) as tasks:
            print(tasks.call_sampler("is_preloaded"))
        """,
        tmp_path,
    )
    assert lines == ["[True]"]
