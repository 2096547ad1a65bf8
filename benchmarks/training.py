"""Whole training runs: ``python -m benchmarks.training``.

PPO over each kind of vector, on CartPole, where next to nothing but overhead costs, and on Breakout
as agents see it: seconds a million steps, and how many of them were spent in the vector.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
from collections import defaultdict
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
_STEPS = {"CartPole": 65_536, "Breakout": 8_192}
_BEGIN, _END = "<!-- training: begin -->", "<!-- training: end -->"


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--env-dir", type=Path, default=environments.DEFAULT_DIR)
    parser.add_argument("--out", type=Path, default=Path("build", "training.json"))
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the table into this page")
    parser.add_argument(
        "--in-turns",
        action="store_true",
        help="instead, PPO on CartPole over DummyVecEnv and over our adapter, turn by turn",
    )
    options = parser.parse_args()
    missing = environments.prepare(["sb3"], options.env_dir, again=False)
    if missing:
        sys.exit(f"SB3 could not be installed: {missing['sb3']}")
    python = environments.python_of(options.env_dir, "sb3")
    if options.in_turns:
        sys.stdout.write(_in_turns(python, options.repeats) + "\n")
        return
    runs = [
        {"workload": workload, "vector": vector, "steps": steps}
        for _ in range(options.repeats)
        for workload, steps in _STEPS.items()
        for vector in VECTORS[workload]
    ]
    measured = []
    for number, run in enumerate(runs, 1):
        answer = processes.answer_of(python, "benchmarks.train_once", run)
        measured.append({**run, **answer})
        sys.stderr.write(f"[{number}/{len(runs)}] {run['workload']} {run['vector']}: {answer}\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(measured, indent=1))
    command = " ".join(["python -m benchmarks.training", *sys.argv[1:]])
    table = render(measured, len(os.sched_getaffinity(0)))
    text = f"Command: `{command}`, {datetime.date.today()}.\n\n{table}"
    sys.stdout.write(text + "\n")
    if options.docs is not None:
        report.write_between(options.docs, text, _BEGIN, _END)


def _in_turns(python: Path, repeats: int) -> str:
    """Tell how much longer SB3 takes to train over our adapter than over its DummyVecEnv."""
    job = {"workload": "CartPole", "vector": "in turns", "steps": _STEPS["CartPole"]}
    ratios: list[float] = []
    for _ in range(repeats):
        answer = processes.answer_of(python, "benchmarks.train_once", job)
        if "ratios" not in answer:
            sys.exit(f"It could not be measured: {answer['error']}")
        ratios += answer["ratios"]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return (
        f"CartPole, our adapter : DummyVecEnv, {len(ratios)} trainings of either in turns: "
        f"{middle:.3f} (median; quartiles {low:.3f} and {high:.3f})"
    )


def render(measured: list[dict[str, Any]], cores: int) -> str:
    """The table, in Markdown."""
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
                reason = next((run["error"] for run in runs[workload, vector]), "not measured")
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
