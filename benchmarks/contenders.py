"""Who is measured, on what, and what has to be installed for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Stands for as many worker processes as there are cores, until the driver puts in the number.
CORES = "cores"

SLOW = frozenset({"R1", "R2"})
TOYS = frozenset({"W1", "W2", "W3", "W4", "W5"}) | SLOW
REAL = frozenset({"CartPole", "MiniGrid", "Breakout", "Atari"})
ALL = TOYS | REAL
CHEAP = frozenset({"W1", "W2", "W3"}) | REAL
#: Their steps sleep, so that a worker each is right for them.
WAITING = frozenset({"W5", "R1"})
_NEEDS_MORE = frozenset({"MiniGrid", "Breakout", "Atari"})  # than PufferLib's environment has
#: How many tasks beforehand are measured.
PREPARED_TASKS = (1, 4, 8)
SIMULATED = "simulated sleeps"
_EXTRAS = ["minigrid==3.2.0", "ale-py==0.12.1", "opencv-python-headless"]

#: Pip takes gigabytes of CUDA for any other, so that this one is there before what asks for one.
_TORCH = ["torch==2.13.0"]

#: The ``pip install`` calls that fill each virtual environment; a leading ``NAME=value`` is an
#: environment variable of a call, in which {benchmarks} is this folder.
ENVIRONMENTS: dict[str, list[list[str]]] = {
    "vectasks": [["gymnasium==1.4.0", "numpy==2.4.6", "cloudpickle==3.1.2", *_EXTRAS]],
    "gymnasium": [["gymnasium==1.4.0", "numpy==2.4.6", "matplotlib", *_EXTRAS]],
    "sb3": [_TORCH, ["stable-baselines3==2.9.2", *_EXTRAS]],
    "tianshou": [_TORCH, ["tianshou==2.0.1", *_EXTRAS]],
    "torchrl": [_TORCH, ["torchrl==0.14.1", *_EXTRAS]],
    # Its environments fetch a graphics library while they are built. Without them (NO_OCEAN) its
    # setup.py takes a list that it never made: sitecustomize.py in that folder gives one.
    "pufferlib": [
        _TORCH,
        ["gymnasium==0.29.1", "gym==0.23", "pettingzoo==1.24.1", "shimmy[gym-v21]", "numpy<2",
         "psutil", "setuptools<81", "wheel"],
        ["NO_OCEAN=1", "NO_TRAIN=1", "PYTHONPATH={benchmarks}/pufferlib_build",
         "--no-deps", "--no-build-isolation", "pufferlib==3.0.0"],
    ],
    # It asks for torch 2.9.0, to train with.
    "pufferlib-core": [
        _TORCH,
        ["gymnasium==1.4.0", "numpy==2.4.6", "psutil", "rich", "rich-argparse", "pyro-ppl"],
        ["--no-deps", "pufferlib-core==3.0.23"],
    ],
    "envpool": [["envpool==1.2.5", "gymnasium==1.4.0"]],
    # It imports moviepy.editor, which moviepy 2 has no more.
    "allenact": [
        _TORCH,
        ["allenact==0.5.4", "moviepy<2", "numpy<2", "gymnasium==1.4.0",
         *_EXTRAS],
    ],
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Contender:
    """One way to step a workload.

    Attributes:
        name: as in the tables.
        env: name of its virtual environment.
        adapter: its module in ``benchmarks.adapters``.
        kind: "limit"; "vectasks"; and of peers "parallel" (a worker process an environment or a
            core, in lockstep), "first ready" (a step waits for half of them), "in process", "batch"
            (PufferLib, whose workers spin) or "native" (C++ that steps games of its own).
        options: for the adapter.
        only: workloads that it is measured on.
        start: options for measuring start-up and memory, with the library's own start method;
            None: not measured.
        is_variant: one of several settings of a peer; ``--quick`` leaves it out, and ``--targets``
            except where resets are slow.
    """

    name: str
    env: str
    adapter: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    only: frozenset[str] = TOYS | REAL
    start: Mapping[str, Any] | None = None
    is_variant: bool = False


class Cell(NamedTuple):
    """A workload and how many environments of it."""

    workload: str
    num_envs: int


_FORK = {"start_method": "fork"}
_ONE_EACH = {"processes": None}


def _vectasks(name: str, only: frozenset[str], **options: Any) -> Contender:
    options = {"processes": CORES, **options}
    return Contender(f"vectasks {name}", "vectasks", "vectasks", "vectasks", options, only)


_OURS = [
    Contender("vectasks step_batch", "vectasks", "vectasks", "vectasks",
              {"processes": CORES}, ALL - SLOW, start={}),
    _vectasks("step_batch, one each", WAITING | {"R2"}, **_ONE_EACH),
    _vectasks("step_batch, out=", frozenset({"W2", "W3"}), api="step_batch out="),
    _vectasks("step_batch, copy=False", frozenset({"W1", "W2", "W3"}), api="step_batch copy=False"),
    _vectasks("step (list)", ALL - SLOW, api="step"),
    _vectasks("in-place tasks", frozenset({"W1", "W2"}), in_place=True),
    _vectasks("in-place tasks, copy=False", frozenset({"W1", "W2"}), in_place=True,
              api="step_batch copy=False"),
    _vectasks("first half ready", WAITING | {"R2"}, api="first half", **_ONE_EACH),
    *(
        _vectasks(f"prepared_tasks={k}{name}", SLOW, prepared_tasks=k, **options, **_ONE_EACH)
        for name, options in (("", {}), (", first half ready", {"api": "first half"}))
        for k in PREPARED_TASKS
    ),
    _vectasks("in-process vector step_batch", CHEAP, processes=0),
    _vectasks("in-process vector step", CHEAP, processes=0, api="step"),
    _vectasks("AtariTaskSampler", frozenset({"Atari"}), own_atari=True),
]  # fmt: skip

_LIMITS = [
    Contender("plain loop, one core", "gymnasium", "loop", "limit", only=ALL - SLOW),
    Contender("copying the batch once", "gymnasium", "loop", "limit",
              {"copy_only": True}, frozenset({"W3"})),
    Contender(f"{SIMULATED}, lockstep", "gymnasium", "simulation", "limit", only=WAITING),
    Contender(f"{SIMULATED}, first half ready", "gymnasium", "simulation", "limit",
              {"first_half": True}, WAITING),
    *(
        Contender(f"{SIMULATED}, prepared_tasks={k}{name}", "gymnasium", "simulation", "limit",
                  {"prepared_tasks": k, **options}, frozenset({"R1"}))
        for name, options in (("", {}), (", first half ready", {"first_half": True}))
        for k in PREPARED_TASKS
    ),
]  # fmt: skip

_PEERS = [
    Contender("AllenAct, one each", "allenact", "allenact", "parallel", _FORK, start={}),
    Contender("AllenAct, a process a core", "allenact", "allenact", "parallel",
              {"processes": CORES, **_FORK}, ALL - SLOW),
    Contender("Gymnasium AsyncVectorEnv", "gymnasium", "gym", "parallel", start={}),
    Contender("Gymnasium AsyncVectorEnv, reset in the next step", "gymnasium", "gym", "parallel",
              {"autoreset": "NEXT_STEP"}, is_variant=True),
    Contender("Gymnasium AsyncVectorEnv, max_concurrency", "gymnasium", "gym", "parallel",
              {"max_concurrency": CORES}, is_variant=True),
    Contender("SB3 SubprocVecEnv", "sb3", "sb3", "parallel", _FORK, start={}),
    Contender("Tianshou ShmemVectorEnv", "tianshou", "tianshou", "parallel", start={}),
    Contender("Tianshou SubprocVectorEnv", "tianshou", "tianshou", "parallel",
              {"shared_memory": False}, is_variant=True),
    Contender("TorchRL ParallelEnv", "torchrl", "torchrl", "parallel", _FORK, start={}),
    Contender("TorchRL AsyncEnvPool", "torchrl", "torchrl", "parallel", {"pool": True, **_FORK},
              start={"pool": True}),
    Contender("Tianshou ShmemVectorEnv, first half", "tianshou", "tianshou", "first ready",
              {"first_half": True}, WAITING | {"R2"}),
    Contender("TorchRL AsyncEnvPool, first half", "torchrl", "torchrl", "first ready",
              {"pool": True, "first_half": True, **_FORK}, WAITING | {"R2"}),
    Contender("Gymnasium SyncVectorEnv", "gymnasium", "gym", "in process",
              {"in_process": True}, CHEAP | SLOW),
    Contender("Gymnasium SyncVectorEnv, reset in the next step", "gymnasium", "gym", "in process",
              {"in_process": True, "autoreset": "NEXT_STEP"}, CHEAP | SLOW, is_variant=True),
    Contender("SB3 DummyVecEnv", "sb3", "sb3", "in process", {"in_process": True}, CHEAP | SLOW),
    Contender("AllenAct, in process", "allenact", "allenact", "in process",
              {"processes": 0}, CHEAP, is_variant=True),
    Contender("PufferLib batch env, 1 worker", "pufferlib", "puffer", "batch",
              only=frozenset({"W1", "W2", "W4", "W5"})),
    Contender("PufferLib batch env, a worker a core", "pufferlib", "puffer", "batch",
              {"workers": CORES}, frozenset({"W1", "W2", "W4", "W5"}), is_variant=True),
    Contender("pufferlib-core batch env, 1 worker", "pufferlib-core", "puffer", "batch",
              only=frozenset({"W1", "W2", "W4", "W5"})),
    Contender("PufferLib ordinary envs, 1 worker", "pufferlib", "puffer", "batch",
              {"ordinary": True}, ALL - SLOW - WAITING - _NEEDS_MORE),
    Contender("PufferLib ordinary envs, one each", "pufferlib", "puffer", "batch",
              {"ordinary": True, "workers": None}, WAITING | {"R2"}),
    Contender("PufferLib ordinary envs, first half", "pufferlib", "puffer", "first ready",
              {"ordinary": True, "workers": None, "first_half": True}, WAITING | {"R2"},
              is_variant=True),
    Contender("ALE AtariVectorEnv", "gymnasium", "native", "native",
              {"library": "ale", "threads": CORES}, frozenset({"Atari"})),
    Contender("EnvPool", "envpool", "native", "native",
              {"library": "envpool", "threads": CORES}, frozenset({"Atari"})),
]  # fmt: skip

CONTENDERS = [*_LIMITS, *_OURS, *_PEERS]

#: What ``benchmarks.training`` measures, as a contender of the goals.
TRAINING = Contender("SB3 PPO over the adapter, against DummyVecEnv", "sb3", "", "vectasks")
