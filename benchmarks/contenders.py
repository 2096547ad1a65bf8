"""The contenders, the workloads, and what has to be installed for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Stands for as many worker processes as there are cores, until the driver puts in the number.
CORES = "cores"

TOYS = frozenset({"W1", "W2", "W3", "W4", "W5"})
REAL = frozenset({"CartPole", "MiniGrid", "Breakout"})
RESETS = frozenset({"R1", "R2"})
CHEAP = frozenset({"W1", "W2", "W3"}) | REAL
_EXTRAS = ["minigrid==3.2.0", "ale-py==0.12.1"]

#: Arguments of the ``pip install`` calls that fill each virtual environment.
ENVIRONMENTS: dict[str, list[list[str]]] = {
    "vectasks": [["gymnasium==1.4.0", "numpy==2.4.6", "cloudpickle==3.1.2", *_EXTRAS]],
    "gymnasium": [["gymnasium==1.4.0", "numpy==2.4.6", "matplotlib", *_EXTRAS]],
    "sb3": [["stable-baselines3==2.9.2", "opencv-python", *_EXTRAS]],
    "tianshou": [["tianshou==2.0.1", *_EXTRAS]],
    "torchrl": [["torchrl==0.14.1", *_EXTRAS]],
    # Later releases build from source and fetch a graphics library while they do; this one's own
    # pins (numpy 1.23, pygame ...) do not matter to its vector module.
    "pufferlib": [
        ["gymnasium==0.29.1", "gym==0.23", "pettingzoo==1.24.1", "numpy<2", "psutil"],
        ["--no-deps", "--only-binary=:all:", "pufferlib==2.0.2"],
    ],
    # It imports moviepy.editor, which moviepy 2 has no more.
    "allenact": [["allenact==0.5.4", "moviepy<2", "numpy<2", "gymnasium==1.4.0", *_EXTRAS]],
}


@dataclass(frozen=True)
class Contender:
    """One way to step a workload.

    Attributes:
        name: as in the tables.
        env: name of its virtual environment.
        adapter: its module in ``benchmarks.adapters``.
        kind: "limit", "vectasks", "parallel" (a peer with worker processes), "in process" (a peer
            without) or "batch" (a peer that needs environments written as batches).
        options: for the adapter.
        only: workloads that it is measured on.
        start: options for measuring start-up and memory, with the library's own start method;
            None: not measured.
    """

    name: str
    env: str
    adapter: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    only: frozenset[str] = TOYS | REAL
    start: Mapping[str, Any] | None = None


class Cell(NamedTuple):
    """A workload and how many environments of it."""

    workload: str
    num_envs: int


_FORK = {"start_method": "fork"}

CONTENDERS = [
    Contender("plain loop, one core", "gymnasium", "loop", "limit"),
    Contender("copying the batch once", "gymnasium", "loop", "limit",
              {"copy_only": True}, frozenset({"W3"})),
    Contender("vectasks step_batch", "vectasks", "vectasks", "vectasks",
              {"processes": CORES}, start={}),
    Contender("vectasks step_batch, out=", "vectasks", "vectasks", "vectasks",
              {"processes": CORES, "api": "step_batch out="}, frozenset({"W2", "W3"})),
    Contender("vectasks step_batch, copy=False", "vectasks", "vectasks", "vectasks",
              {"processes": CORES, "api": "step_batch copy=False"}, frozenset({"W1", "W2", "W3"})),
    Contender("vectasks step (list)", "vectasks", "vectasks", "vectasks",
              {"processes": CORES, "api": "step"}),
    Contender("vectasks in-place tasks", "vectasks", "vectasks", "vectasks",
              {"processes": CORES, "in_place": True}, frozenset({"W1", "W2"})),
    Contender("vectasks in-place tasks, copy=False", "vectasks", "vectasks", "vectasks",
              {"processes": CORES, "in_place": True, "api": "step_batch copy=False"},
              frozenset({"W1", "W2"})),
    Contender("vectasks first half ready", "vectasks", "vectasks", "vectasks",
              {"api": "first half"}, frozenset({"W5"}) | RESETS),
    Contender("vectasks, a process each", "vectasks", "vectasks", "vectasks", {}, RESETS),
    Contender("vectasks, prepared tasks", "vectasks", "vectasks", "vectasks",
              {"prepared": True}, RESETS),
    Contender("vectasks in-process vector step_batch", "vectasks", "vectasks", "vectasks",
              {"processes": 0}, CHEAP),
    Contender("vectasks in-process vector step", "vectasks", "vectasks", "vectasks",
              {"processes": 0, "api": "step"}, CHEAP),
    Contender("AllenAct, one each", "allenact", "allenact", "parallel", _FORK,
              TOYS | REAL | RESETS, start={}),
    Contender("AllenAct, a process a core", "allenact", "allenact", "parallel",
              {"processes": CORES, **_FORK}),
    Contender("Gymnasium AsyncVectorEnv", "gymnasium", "gym", "parallel", {},
              TOYS | REAL | RESETS, start={}),
    Contender("Gymnasium AsyncVectorEnv, next step", "gymnasium", "gym", "parallel",
              {"next_step": True}, RESETS),
    Contender("SB3 SubprocVecEnv", "sb3", "sb3", "parallel", _FORK,
              TOYS | REAL | RESETS, start={}),
    Contender("Tianshou ShmemVectorEnv", "tianshou", "tianshou", "parallel", {},
              TOYS | REAL | RESETS, start={}),
    Contender("Tianshou SubprocVectorEnv", "tianshou", "tianshou", "parallel",
              {"shared_memory": False}),
    Contender("Tianshou Shmem, first half", "tianshou", "tianshou", "parallel",
              {"first_half": True}, frozenset({"W5"}) | RESETS),
    Contender("TorchRL ParallelEnv", "torchrl", "torchrl", "parallel", _FORK,
              TOYS | REAL | RESETS, start={}),
    Contender("Gymnasium SyncVectorEnv", "gymnasium", "gym", "in process",
              {"in_process": True}, CHEAP),
    Contender("AllenAct, in process", "allenact", "allenact", "in process",
              {"processes": 0}, CHEAP),
    Contender("PufferLib batch env, 1 worker", "pufferlib", "puffer", "batch",
              only=frozenset({"W1", "W2", "W4", "W5"})),
    Contender("PufferLib batch env, a worker a core", "pufferlib", "puffer", "batch",
              {"workers": CORES}, frozenset({"W1", "W2", "W4", "W5"})),
]  # fmt: skip
