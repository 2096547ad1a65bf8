"""``python -m benchmarks.plot results.json plot.png``: steps a second, a panel a workload."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.report import Table

_COLOURS = {
    "limit": "0.6",
    "vectasks": "tab:red",
    "parallel": "tab:blue",
    "first ready": "tab:purple",
    "in process": "tab:cyan",
    "batch": "tab:green",
    "native": "tab:olive",
}


def main() -> None:
    """Draw the largest N of each workload."""
    table = Table(json.loads(Path(sys.argv[1]).read_text()))
    cells = {workload: (workload, n) for workload, n in table.cells}  # the last N is the largest
    figure, axes = plt.subplots(
        len(cells), 1, figsize=(9, 3.6 * len(cells)), layout="constrained", squeeze=False
    )
    for axis, cell in zip(axes[:, 0], cells.values(), strict=True):
        found = [(spread, name) for name in table.kinds if (spread := table.spread(name, cell))]
        spreads, names = zip(*sorted(found), strict=True)
        axis.barh(
            names,
            [spread.median for spread in spreads],
            xerr=[
                [spread.median - spread.low for spread in spreads],
                [spread.high - spread.median for spread in spreads],
            ],
            color=[_COLOURS[table.kinds[name]] for name in names],
        )
        axis.set_xscale("log")
        axis.set_title(f"{cell[0]}, N = {cell[1]}: environment steps a second")
    figure.savefig(sys.argv[2], dpi=80)


if __name__ == "__main__":
    main()
