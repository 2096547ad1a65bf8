"""The random state of worker processes: no two share any, and a seed makes it reproducible."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np


class WorkerSeed(NamedTuple):
    """The seed of a worker process's random state.

    Attributes:
        seeds: of the samplers that live in it.
        worker: its number, from 0.
        starts: how often it was started before.
    """

    seeds: Sequence[int]
    worker: int
    starts: int

    def sequence(self) -> np.random.SeedSequence:
        """The same for the same three, and unlike any other."""
        # SeedSequence takes no negative numbers.
        entropy = [seed & 0xFFFF_FFFF_FFFF_FFFF for seed in self.seeds]
        return np.random.SeedSequence(entropy, spawn_key=(self.worker, self.starts))


def seed_generators(seed: WorkerSeed | None) -> None:
    """Seed the global generators of ``random``, numpy and torch in a process that is ours.

    What was imported before a fork carries the state of who was forked.

    Args:
        seed: what they are derived from; None: from the system's entropy.
    """
    sequence = np.random.SeedSequence() if seed is None else seed.sequence()
    for_random, for_torch, *for_numpy = (int(n) for n in sequence.generate_state(6, np.uint64))
    random.seed(for_random)
    np.random.seed([n & 0xFFFF_FFFF for n in for_numpy])
    # A fork of a worker has the worker's.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _SeedsTorch)]
    if "torch" in sys.modules:
        _seed_torch(sys.modules["torch"], for_torch)
    elif seed is not None:  # else torch takes entropy itself when it is imported
        sys.meta_path.insert(0, _SeedsTorch(for_torch))


def _seed_torch(torch: Any, seed: int) -> None:
    if hasattr(torch, "manual_seed"):  # a fork may have copied one that was being imported
        torch.manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)


class _SeedsTorch(MetaPathFinder):
    """Seeds torch once it is imported."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find torch as the other finders do, and seed it once it is imported."""
        if fullname != "torch":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_seed(module: ModuleType) -> None:
                load(module)
                sys.meta_path.remove(self)
                _seed_torch(module, self._seed)

            spec.loader.exec_module = load_and_seed  # type: ignore[method-assign]
        return spec
