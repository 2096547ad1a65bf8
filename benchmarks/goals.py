"""What is to be reached: each goal as contenders, a cell and a ratio."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.contenders import PREPARED_TASKS, SIMULATED, Cell, Contender

BATCH = "vectasks step_batch"
BATCH_ONE_EACH = "vectasks step_batch, one each"
FIRST_HALF = "vectasks first half ready"
IN_PROCESS = "vectasks in-process vector step_batch"
LOOP = "plain loop, one core"
COPY = "copying the batch once"
SYNC = "Gymnasium SyncVectorEnv"
_LOCKSTEP = ("parallel", "in process", "batch")


class Goal(NamedTuple):
    """A goal that is a ratio of rates.

    Attributes:
        what: in words, without the cell.
        cell: the workload and N.
        ours: the contender of vectasks.
        against: whether a contender is one of those of which the best is the measure.
        at_least: the ratio that is wanted.
        unit: "times", or "of" for a share of what is possible.
        of_all_cores: whether the measure is multiplied by the number of cores.
    """

    what: str
    cell: Cell
    ours: str
    against: Callable[[str, str], bool]  # name, kind
    at_least: float
    unit: str = "times"
    of_all_cores: bool = False

    def needs(self, contender: Contender) -> bool:
        """Whether it cannot be judged without this contender."""
        return contender.name == self.ours or self.against(contender.name, contender.kind)


def _of_kinds(*kinds: str) -> Callable[[str, str], bool]:
    return lambda _, kind: kind in kinds


def _named(*names: str) -> Callable[[str, str], bool]:
    return lambda name, _: name in names


def _cells(*workloads: str, sizes: tuple[int, ...] = (8, 32)) -> list[Cell]:
    return [Cell(workload, num_envs) for workload in workloads for num_envs in sizes]


RATIOS = [
    *(Goal("step_batch", cell, BATCH, _of_kinds("parallel"), 10) for cell in _cells("W1", "W2")),
    *(Goal("step_batch", cell, BATCH, _of_kinds("parallel"), 8) for cell in _cells("W3")),
    *(Goal("step_batch", cell, BATCH, _named(COPY), 0.5, "of") for cell in _cells("W3")),
    *(
        Goal("step_batch", Cell("W4", num_envs), BATCH, _named(LOOP), share, "of", True)
        for num_envs, share in ((8, 0.9), (32, 0.95))
    ),
    Goal("send/recv, first half", Cell("W5", 32), FIRST_HALF,
         _named(f"{SIMULATED}, first half ready"), 0.95, "of"),
    *(
        Goal("in process", cell, IN_PROCESS, _named(SYNC), 1)
        for cell in _cells("W1", "CartPole")
    ),
    *(
        Goal("in-place tasks", cell, "vectasks in-place tasks",
             lambda name, kind: kind == "batch" and "batch env" in name, 1)
        for cell in _cells("W1", "W2", sizes=(32,))
    ),
    *(
        Goal("step (list of RLStepResult)", cell, "vectasks step (list)",
             lambda name, kind: kind == "parallel" and "AllenAct" in name, 4)
        for cell in _cells("W1", "W3", sizes=(32,))
    ),
    *(
        Goal(f"prepared_tasks={number}, lockstep", Cell(workload, 16),
             f"vectasks prepared_tasks={number}", _of_kinds(*_LOCKSTEP), at_least)
        for workload, at_least in (("R1", 20), ("R2", 2))
        for number in PREPARED_TASKS
    ),
]  # fmt: skip

#: Seconds and megabytes; and the time of SB3's PPO over the adapter, of that over DummyVecEnv.
MAX_START_S = 1.0
MAX_WORKER_MB = 12.0
MAX_TRAINING = 0.97
