"""Whole training runs: ``python -m benchmarks.training``.

PPO over each kind of vector, on CartPole, where next to nothing but overhead costs, and on Breakout
as agents see it. One table has the seconds a million steps, and how many of them were spent in the
vector; the other one trains over two vectors in turns, and has the ratio of their times.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import environments, processes, report

PLAIN = "plain loop"
_EVERYWHERE = [PLAIN, "DummyVecEnv", "SubprocVecEnv", "vectasks adapter", "vectasks collect"]
#: What each workload is trained over: kinds of vector, and what is special about them.
VECTORS = {
    "CartPole": _EVERYWHERE,
    "Breakout": [
        *_EVERYWHERE,
        "vectasks collect, 2 splits",
        "vectasks adapter, AtariTaskSampler",
        "vectasks collect, AtariTaskSampler",
    ],
}
#: Trainings in turns: over ours, and over what is there without us.
TURNS = [
    {"trainer": "SB3", "workload": "CartPole", "vector": "vectasks adapter",
     "against": "DummyVecEnv"},
    {"trainer": "CleanRL", "workload": "CartPole", "vector": "vectasks VectorEnv",
     "against": "SyncVectorEnv"},
    {"trainer": "SB3", "workload": "Breakout", "vector": "vectasks adapter",
     "against": "SubprocVecEnv"},
    {"trainer": "SB3", "workload": "Breakout", "vector": "vectasks adapter, AtariTaskSampler",
     "against": "SubprocVecEnv"},
    {"trainer": "CleanRL", "workload": "Breakout", "vector": "vectasks VectorEnv",
     "against": "AsyncVectorEnv"},
]  # fmt: skip
_STEPS = {"CartPole": 65_536, "Breakout": 8_192}
_QUICK_STEPS = {"CartPole": 4_096, "Breakout": 2_048}
_BEGIN, _END = "<!-- training: begin -->", "<!-- training: end -->"


def main() -> None:
    """Run what the command line says."""
    options = _parse()
    if options.report is None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        _measure(options)
    results = json.loads((options.report or options.out).read_text())
    text = render(results)
    sys.stdout.write(text + "\n")
    if options.docs is not None:
        report.write_between(options.docs, text, _BEGIN, _END)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps, once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--in-turns", action="store_true", help="only what is trained in turns")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT",
                        help="of an older vectasks, for another column")  # fmt: skip
    parser.add_argument("--env-dir", type=Path, default=environments.DEFAULT_DIR)
    parser.add_argument("--out", type=Path, default=Path("build", "training.json"))
    parser.add_argument("--report", type=Path, metavar="JSON", help="measure nothing, report this")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the tables into this page")
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> None:
    """Train in every way, all ways once and then again; the JSON is written anew after each."""
    missing = environments.prepare(["sb3"], options.env_dir, again=False)
    if missing:
        sys.exit(f"SB3 could not be installed: {missing['sb3']}")
    python = environments.python_of(options.env_dir, "sb3")
    steps = _QUICK_STEPS if options.quick else _STEPS
    jobs: list[dict[str, Any]] = []
    for _ in range(1 if options.quick else options.repeats):
        for turns in TURNS:
            jobs.append({**turns, "version": "now"})
            if options.before is not None:
                jobs.append({**turns, "version": "before"})
        if not options.in_turns:
            jobs += [
                {"workload": workload, "vector": vector}
                for workload, vectors in VECTORS.items()
                for vector in vectors
            ]
    results: dict[str, Any] = {
        "date": str(datetime.date.today()),
        "command": " ".join(["python -m benchmarks.training", *sys.argv[1:]]),
        "cores": len(os.sched_getaffinity(0)),
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        roots = {"now": processes.ROOT}
        if options.before is not None:  # these benchmarks, with the vectasks of then
            roots["before"] = Path(folder)
            (Path(folder) / "benchmarks").symlink_to(processes.ROOT / "benchmarks")
            (Path(folder) / "vectasks").symlink_to((options.before / "vectasks").resolve())
        for number, job in enumerate(jobs, 1):
            job["steps"] = steps[job["workload"]]
            root = roots[job.get("version", "now")]
            answer = processes.answer_of(python, "benchmarks.train_once", job, root)
            results["runs"].append({**job, **answer})
            told = " ".join(str(value) for value in job.values())
            sys.stderr.write(f"[{number}/{len(jobs)}] {told}: {str(answer)[:120]}\n")
            options.out.write_text(json.dumps(results, indent=1))


def render(results: Mapping[str, Any]) -> str:
    """Both tables, in Markdown."""
    turns = [run for run in results["runs"] if "against" in run]
    others = [run for run in results["runs"] if "against" not in run]
    parts = [f"Command: `{results['command']}`, {results['date']}.", _turns(turns)]
    if others:
        parts.append(_table(others, results["cores"]))
    return "\n\n".join(parts)


def _turns(runs: list[dict[str, Any]]) -> str:
    has_before = any(run["version"] == "before" for run in runs)
    versions = ["before", "now"] if has_before else ["now"]
    lines = [
        "| trainer | on | over | time, of that over | "
        + " | ".join(f"{version}: median (quartiles)" for version in versions)
        + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(versions),
    ]
    for turns in TURNS:
        cells = []
        for version in versions:
            mine = [run for run in runs if {**turns, "version": version}.items() <= run.items()]
            cells.append(_quartiles(mine))
        lines.append("| " + " | ".join([*turns.values(), *cells]) + " |")
    return "\n".join(lines)


def _quartiles(runs: list[dict[str, Any]]) -> str:
    ratios = [ratio for run in runs for ratio in run.get("ratios", [])]
    if len(ratios) < 2:
        return next((run["error"] for run in runs if "error" in run), "not measured")
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _table(measured: list[dict[str, Any]], cores: int) -> str:
    runs: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in measured:
        runs[run["workload"], run["vector"]].append(run)
    lines = [
        "| PPO on | over | s a million steps | of these in the vector | share | "
        f"of the plain loop on {cores} cores |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for workload in _STEPS:
        limit = _a_million(runs[workload, PLAIN], "vector_s")
        for vector in VECTORS[workload]:
            wall, inside = (
                _a_million(runs[workload, vector], name) for name in ("wall_s", "vector_s")
            )
            if wall is None or inside is None:
                errors = (run["error"] for run in runs[workload, vector] if "error" in run)
                reason = next(errors, "not measured")
                lines.append(f"| {workload} | {vector} | {reason} | - | - | - |")
                continue
            ratio = f"{inside / (limit / cores):.2f}" if limit else "-"
            share = "-" if vector == PLAIN else f"{inside / wall:.0%}"
            total = "-" if vector == PLAIN else f"{wall:,.0f}"
            lines.append(f"| {workload} | {vector} | {total} | {inside:,.0f} | {share} | {ratio} |")
    return "\n".join(lines)


def _a_million(runs: list[dict[str, Any]], name: str) -> float | None:
    seconds = [run[name] / run["steps"] * 1e6 for run in runs if name in run]
    return statistics.median(seconds) if seconds else None


if __name__ == "__main__":
    main()
