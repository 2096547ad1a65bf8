"""Evaluate a rule of thumb on exactly forty episodes of CartPole, and make a page of it.

Run it: python examples/evaluate_policy.py [DIRECTORY]

Stop it by Ctrl-C and run it again: it goes on from where it was. The page, report.html, has the
table, the plots and three films in one file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from vectasks.envs import GymnasiumTaskSampler
from vectasks.evaluation import evaluate, write_report

NUM_SAMPLERS = 4


def lean_policy(observations: list[np.ndarray]) -> list[int]:
    """Push to where the pole leans, which is not enough to keep it up."""
    return [int(angle > 0) for _, _, angle, _ in observations]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("directory", nargs="?", type=Path, default=Path("evaluation"))
directory = parser.parse_args().directory
report = evaluate(
    lean_policy,
    GymnasiumTaskSampler,
    [{"env": "CartPole-v1"}] * NUM_SAMPLERS,
    episodes=40,
    seed=0,
    max_processes=2,
    manifest_path=directory / "run.json",
    videos=3,
)
for name in ("return", "length"):
    told = report.aggregates[name]
    print(
        f"{name}: mean {told.mean:.1f} ({told.mean_interval.low:.1f} to "
        f"{told.mean_interval.high:.1f}), interquartile mean {told.iqm:.1f}, {told.n} episodes"
    )
write_report(directory / "run.json", directory / "report.html")
print(f"{directory / 'report.html'}: open it in a browser")
