"""The driver: makes the environments, measures in turn, reports."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import environments, processes, report
from benchmarks.contenders import CONTENDERS, CORES, REAL, SLOW, TOYS, TRAINING, Cell, Contender
from benchmarks.goals import RATIOS
from benchmarks.training import TURNS

_QUICK_CELLS = [Cell("W1", 32), Cell("W3", 8), Cell("W5", 32), Cell("R1", 16)]
_TARGET_CELLS = [
    *(Cell(workload, num_envs) for workload in ("W1", "W2", "W3", "W4") for num_envs in (8, 32)),
    Cell("W5", 32),
    *(Cell("CartPole", num_envs) for num_envs in (8, 32)),
    *(Cell(workload, 16) for workload in sorted(SLOW)),
]
_FULL_CELLS = [
    *(Cell(workload, num_envs) for workload in sorted(TOYS - SLOW) for num_envs in (2, 8, 32)),
    *(Cell(workload, 16) for workload in sorted(SLOW)),
    *(Cell("CartPole", num_envs) for num_envs in (8, 32)),
    *(Cell(workload, 8) for workload in sorted(REAL - {"CartPole"})),
]
_START_CELL = Cell("W1", 32)
_CYCLE_CELL = Cell("W1", 8)
#: Resets are rare, so that slow ones need longer to be measured: times as long, in fewer rounds.
_STRETCH = {"R1": 20, "R2": 10}
_MAX_SLOW_ROUNDS = 3
_QUICK_STARTERS = ("vectasks", "gymnasium")
_TRAINING = {**TURNS[0], "steps": 32_768}  # SB3's PPO on CartPole


class _Scale(NamedTuple):
    """How much is measured."""

    cells: list[Cell]
    rounds: int
    seconds: float
    start_rounds: int
    cycles: int
    trainings: int


_SCALES = {
    "quick": _Scale(_QUICK_CELLS, 2, 0.1, 1, 12, 0),
    "targets": _Scale(_TARGET_CELLS, 7, 0.25, 3, 0, 3),
    "full": _Scale(_FULL_CELLS, 5, 0.5, 3, 100, 3),
}


def main() -> None:
    """Run what the command line says."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends what runs, too
    if options.report is None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        _Run(options).measure()
    source = options.report or options.out
    results = json.loads(source.read_text())
    if options.scale == "targets":
        sys.stdout.write(report.render_targets(results) + "\n")
    else:
        sys.stdout.write(report.render(results) + "\n")
    if options.docs is not None:
        _plot(options, source)
        report.write_into(options.docs, report.render(results))
    if options.readme is not None:
        report.write_between(options.readme, report.summary(results), *report.SUMMARY_MARKS)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", dest="scale", action="store_const", const="quick",
                        default="full", help="a few cells, briefly")  # fmt: skip
    parser.add_argument("--targets", dest="scale", action="store_const", const="targets",
                        help="what the goals need alone, in 20 minutes on 2 cores")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="of each cell; contenders take turns in each")
    parser.add_argument("--seconds", type=float, help="of each contender's turn")
    parser.add_argument("--workloads", nargs="+", metavar="W", help="only these")
    parser.add_argument("--contenders", nargs="+", metavar="TEXT", help="only names with this")
    parser.add_argument("--env-dir", type=Path, default=environments.DEFAULT_DIR)
    parser.add_argument("--retry-installs", action="store_true", help="of what failed before")
    parser.add_argument("--out", type=Path, default=Path("build", "benchmarks.json"))
    parser.add_argument("--report", type=Path, metavar="JSON", help="measure nothing, report this")
    parser.add_argument("--docs", type=Path, metavar="PAGE",
                        help="put the report into this page, a plot beside it")  # fmt: skip
    parser.add_argument("--readme", type=Path, metavar="PAGE", help="put the short table there")
    return parser.parse_args()


class _Run:
    """All measurements of a run; the JSON is written anew after each, so that none is lost."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        scale = _SCALES[options.scale]
        self._scale = scale._replace(
            cells=[c for c in scale.cells if c.workload in (options.workloads or TOYS | REAL)],
            rounds=options.rounds or scale.rounds,
            seconds=options.seconds or scale.seconds,
        )
        self._contenders = [
            contender
            for contender in CONTENDERS
            if any(text.lower() in contender.name.lower() for text in options.contenders or [""])
        ]
        self._began_s = time.monotonic()
        names = {contender.env for contender in self._contenders}
        if scale.trainings:
            names.add(TRAINING.env)
        options.env_dir.mkdir(parents=True, exist_ok=True)
        self._missing = environments.prepare(sorted(names), options.env_dir, options.retry_installs)
        there = sorted(names - set(self._missing))
        self._results: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
            "machine": _machine(),
            "steps": self._kind_of_steps(),
            "versions": {name: environments.versions(options.env_dir, name) for name in there},
            "missing": self._missing,
            "measurements": [],
        }

    def _kind_of_steps(self) -> str:
        """Whether vectasks has its compiled core there."""
        python = environments.python_of(self._options.env_dir, "vectasks")
        code = "from vectasks.transport import compiled; print(compiled.describe())"
        said = subprocess.run(
            [python, "-c", code], cwd=processes.ROOT, capture_output=True, text=True
        )
        return said.stdout.strip() or "not to be had"

    def measure(self) -> None:
        """Cell by cell; then what starting costs, what is left behind, and training."""
        for cell in self._scale.cells:
            self._rates(cell)
        everything = not (self._options.workloads or self._options.contenders)
        if everything or "start" in (self._options.workloads or []):
            self._starts()
            self._trainings()
        self._results["took_s"] = round(time.monotonic() - self._began_s)
        self._write()

    def _rates(self, cell: Cell) -> None:
        """All contenders of a cell at once, each idle but in its turn; rounds of such turns."""
        rounds, seconds = self._scale.rounds, self._scale.seconds
        if cell.workload in SLOW:
            rounds = self._options.rounds or min(rounds, _MAX_SLOW_ROUNDS)
            seconds = self._options.seconds or seconds * _STRETCH[cell.workload]
        with contextlib.ExitStack() as stack:
            runners = {}
            for contender in self._present(cell):
                runner = stack.enter_context(self._runner(contender, cell, seconds=seconds))
                answer = runner.ask()
                if "error" in answer:
                    self._tell(contender, cell, 0, "rate", answer)
                else:
                    runners[contender] = runner
            order = list(runners)
            for number in range(rounds):
                shift = number % len(order) if order else 0
                for contender in order[shift:] + order[:shift]:
                    if contender in runners:
                        answer = runners[contender].ask("rate")
                        self._tell(contender, cell, number, "rate", answer)
                        if "error" in answer:
                            del runners[contender]

    def _present(self, cell: Cell) -> list[Contender]:
        return [
            contender
            for contender in self._contenders
            if cell.workload in contender.only
            and contender.env not in self._missing
            and (self._options.scale == "full" or _is_needed(contender, cell, self._options.scale))
        ]

    def _starts(self) -> None:
        starters = [
            contender
            for contender in self._contenders
            if contender.start is not None and contender.env not in self._missing
        ]
        for number in range(self._scale.start_rounds):
            for contender in starters:
                is_slow = contender.env not in _QUICK_STARTERS
                if is_slow and (number > 0 or self._options.scale != "full"):
                    continue
                assert contender.start is not None
                runner = self._runner(contender, _START_CELL, contender.start, "start")
                with runner:
                    self._tell(contender, _START_CELL, number, "start", runner.ask())
        for contender in starters:
            if contender.kind == "vectasks" and self._scale.cycles:
                with self._runner(contender, _CYCLE_CELL, purpose="cycles") as runner:
                    self._tell(contender, _CYCLE_CELL, 0, "cycles", runner.ask())

    def _trainings(self) -> None:
        if "sb3" in self._missing:
            return
        python = environments.python_of(self._options.env_dir, "sb3")
        for number in range(self._scale.trainings):
            answer = processes.answer_of(python, "benchmarks.train_once", _TRAINING)
            if "ratios" in answer:
                answer = {"ratio": statistics.median(answer["ratios"])}
            self._tell(TRAINING, Cell("CartPole", 8), number, "training", answer)

    def _runner(
        self,
        contender: Contender,
        cell: Cell,
        options: Mapping[str, Any] | None = None,
        purpose: str = "rate",
        seconds: float = 0.2,
    ) -> processes.Runner:
        cores = min(_num_cores(), cell.num_envs)
        options = contender.options if options is None else options
        job = {
            "adapter": contender.adapter,
            "options": {k: cores if v == CORES else v for k, v in options.items()},
            **cell._asdict(),
            "purpose": purpose,
            "seconds": seconds,
            "cycles": self._scale.cycles,
        }
        python = environments.python_of(self._options.env_dir, contender.env)
        return processes.Runner(python, "benchmarks.measure", job)

    def _tell(
        self, contender: Contender, cell: Cell, number: int, purpose: str, answer: Mapping[str, Any]
    ) -> None:
        self._results["measurements"].append(
            {
                "contender": contender.name,
                "kind": contender.kind,
                **cell._asdict(),
                "round": number,
                "purpose": purpose,
                **answer,
            }
        )
        outcome = answer.get("error") or ", ".join(f"{k} {v:,.4g}" for k, v in answer.items())
        sys.stderr.write(
            f"[{time.monotonic() - self._began_s:.0f} s] {purpose} {cell.workload} "
            f"N={cell.num_envs} {contender.name}: {outcome}\n"
        )
        self._write()

    def _write(self) -> None:
        self._options.out.write_text(json.dumps(self._results, indent=1))


def _is_needed(contender: Contender, cell: Cell, scale: str) -> bool:
    """Whether a goal is about this, directly or as the best of some."""
    if contender.is_variant and (scale == "quick" or cell.workload not in SLOW):
        return False
    if contender.kind == "limit" and cell.workload == "R1":
        return True
    return any(goal.cell == cell and goal.needs(contender) for goal in RATIOS)


def _machine() -> dict[str, Any]:
    cpu = "unknown"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": cpu,
        "cores": _num_cores(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _plot(options: argparse.Namespace, source: Path) -> None:
    """Draw with the one environment that has matplotlib."""
    python = environments.python_of(options.env_dir, "gymnasium")
    if not python.exists():
        return
    path = (options.docs or source).with_suffix(".png")
    paths = [str(source.resolve()), str(path.resolve())]
    subprocess.run([str(python), "-m", "benchmarks.plot", *paths], cwd=processes.ROOT, check=False)


if __name__ == "__main__":
    main()
