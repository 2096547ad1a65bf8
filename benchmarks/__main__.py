"""The driver: makes the environments, measures in turn, reports."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import environments, processes, report
from benchmarks.contenders import CONTENDERS, CORES, REAL, RESETS, TOYS, Cell, Contender

_QUICK_BUDGET_S = 105.0
_QUICK_CELLS = [Cell("W1", 32), Cell("W3", 8), Cell("W5", 32)]
_FULL_CELLS = [
    *(Cell(workload, num_envs) for workload in sorted(TOYS) for num_envs in (2, 8, 32)),
    *(Cell(workload, 8) for workload in sorted(REAL)),
    *(Cell(workload, 16) for workload in sorted(RESETS)),
]
_START_CELL = Cell("W1", 32)
_CYCLE_CELL = Cell("W1", 8)
_RESETS_S = 6.0  # at least: an episode of all takes long where a reset does
_QUICK_STARTERS = ("vectasks", "gymnasium")


def main() -> None:
    """Run what the command line says."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends what runs, too
    if options.report is None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        _measure_all(options)
    source = options.report or options.out
    _plot(options, source)
    text = report.render(json.loads(source.read_text()))
    sys.stdout.write(text + "\n")
    if options.docs is not None:
        report.write_into(options.docs, text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few cells, once; under two minutes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--workloads", nargs="+", metavar="W", help="only these")
    parser.add_argument("--contenders", nargs="+", metavar="TEXT", help="only names with this")
    parser.add_argument("--env-dir", type=Path, default=environments.DEFAULT_DIR)
    parser.add_argument("--retry-installs", action="store_true", help="of what failed before")
    parser.add_argument("--out", type=Path, default=Path("build", "benchmarks.json"),
                        help="the JSON; a plot lies beside it")  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="JSON", help="measure nothing, report this")
    parser.add_argument("--docs", type=Path, metavar="PAGE",
                        help="put the report into this page, the plot beside it")  # fmt: skip
    return parser.parse_args()


class _Job(NamedTuple):
    """A measurement that is to be made: who, where, and how."""

    contender: Contender
    cell: Cell
    repeat: int
    options: Mapping[str, Any]  # of the adapter
    purpose: str = "rate"
    seconds: float = 0.2
    cycles: int = 0

    def request(self) -> dict[str, Any]:
        """Return the arguments of ``benchmarks.measure``."""
        cores = min(_num_cores(), self.cell.num_envs)
        return {
            "adapter": self.contender.adapter,
            "options": {k: cores if v == CORES else v for k, v in self.options.items()},
            **self.cell._asdict(),
            "seconds": self.seconds,
            "cycles": self.cycles,
        }


def _jobs(options: argparse.Namespace) -> Iterator[_Job]:
    """Every measurement, in turn: all contenders of a cell, all cells, and again."""
    chosen = [
        contender
        for contender in CONTENDERS
        if not options.contenders
        or any(text.lower() in contender.name.lower() for text in options.contenders)
    ]
    cells = [
        cell
        for cell in (_QUICK_CELLS if options.quick else _FULL_CELLS)
        if not options.workloads or cell.workload in options.workloads
    ]
    repeats = 1 if options.quick else options.repeats
    seconds = 0.25 if options.quick else options.seconds
    starters = [contender for contender in chosen if contender.start is not None]
    for repeat in range(repeats):
        for contender in starters:
            fast = contender.env in _QUICK_STARTERS
            if fast or (repeat == 0 and not options.quick):
                yield _Job(contender, _START_CELL, repeat, contender.start, "start")
        for number, cell in enumerate(cells):
            present = [contender for contender in chosen if cell.workload in contender.only]
            shift = (repeat + number) % len(present) if present else 0
            for contender in present[shift:] + present[:shift]:
                if not options.quick or _is_quick(contender, cell):
                    its_s = max(seconds, _RESETS_S) if cell.workload in RESETS else seconds
                    yield _Job(contender, cell, repeat, contender.options, seconds=its_s)
    cycles = 12 if options.quick else 100
    for contender in starters:
        if contender.kind == "vectasks":
            yield _Job(contender, _CYCLE_CELL, 0, contender.options, "cycles", cycles=cycles)


def _is_quick(contender: Contender, cell: Cell) -> bool:
    """Leave out what the table "to reach" does not need of a cell."""
    if cell.workload == "W5":
        return "first half" in contender.name
    return contender.name != "Tianshou SubprocVectorEnv" and "in process" not in contender.name


def _measure_all(options: argparse.Namespace) -> None:
    """Make every measurement; the JSON is rewritten after each, so that none is lost."""
    options.env_dir.mkdir(parents=True, exist_ok=True)
    jobs = list(_jobs(options))
    names = sorted({job.contender.env for job in jobs})
    missing = environments.prepare(names, options.env_dir, options.retry_installs)
    results: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "machine": _machine(),
        "versions": {
            name: environments.versions(options.env_dir, name)
            for name in names
            if name not in missing
        },
        "missing": missing,
        "measurements": [],
    }
    deadline = time.monotonic() + (_QUICK_BUDGET_S if options.quick else float("inf"))
    for number, job in enumerate(jobs, 1):
        if job.contender.env in missing:
            continue
        if time.monotonic() > deadline:
            answer: dict[str, Any] = {"error": "left out: the time of --quick was up"}
        else:
            python = environments.python_of(options.env_dir, job.contender.env)
            answer = processes.answer_of(python, "benchmarks.measure", job.request())
        results["measurements"].append(
            {
                "contender": job.contender.name,
                "kind": job.contender.kind,
                **job.cell._asdict(),
                "repeat": job.repeat,
                "purpose": job.purpose,
                **answer,
            }
        )
        outcome = answer.get("error") or ", ".join(f"{k} {v:,.4g}" for k, v in answer.items())
        sys.stderr.write(
            f"[{number}/{len(jobs)}] {job.purpose} {job.cell.workload} N={job.cell.num_envs} "
            f"{job.contender.name}: {outcome}\n"
        )
        options.out.write_text(json.dumps(results, indent=1))


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
