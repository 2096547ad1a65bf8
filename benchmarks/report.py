"""From measurements to tables: pure functions over the JSON of a run."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contenders import PREPARED_TASKS, TRAINING
from benchmarks.goals import (
    BATCH,
    FIRST_HALF,
    LOOP,
    MAX_START_S,
    MAX_TRAINING,
    MAX_WORKER_MB,
    RATIOS,
)

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
SUMMARY_MARKS = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
_WAIT = ("W5", "R1", "R2")  # no core is their limit

_PREPARED = [f"vectasks prepared_tasks={number}" for number in PREPARED_TASKS]
CellKey = tuple[str, int]
Among = Callable[[str, str], bool]  # by name and kind
Row = Mapping[str, Any]


class Spread(NamedTuple):
    """Repeats of one measurement."""

    median: float
    low: float
    high: float


class Line(NamedTuple):
    """A line of the table "to reach": what was reached of it."""

    what: str
    goal: str
    reached: str
    verdict: str


class Table:
    """Medians of a run, by contender and cell (workload, N)."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.rows: list[Row] = results["measurements"]
        self.cores: int = results["machine"]["cores"]
        self.kinds: dict[str, str] = {}  # by contender
        self.cells: list[CellKey] = []
        self.errors: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        #: Steps a second by contender and cell, then by round.
        self._rates: dict[tuple[str, CellKey], dict[int, float]] = defaultdict(dict)
        for row in self.rows:
            cell = (row["workload"], row["num_envs"])
            if "error" in row:
                where = f"{row['purpose']} {cell[0]} N={cell[1]}"
                self.errors[row["contender"]][row["error"]].append(where)
            elif row["purpose"] == "rate":
                self._rates[row["contender"], cell][row["round"]] = row["rate"]
            if row["purpose"] == "rate":
                self.kinds[row["contender"]] = row["kind"]
                if cell not in self.cells:
                    self.cells.append(cell)

    def spread(self, contender: str, cell: CellKey) -> Spread | None:
        """Steps a second; None where nothing was measured."""
        rates = self._rates.get((contender, cell))
        return spread_of(rates.values()) if rates else None

    def median(self, contender: str, cell: CellKey) -> float | None:
        """The same, the median alone."""
        spread = self.spread(contender, cell)
        return None if spread is None else spread.median

    def times(self, ours: str, theirs: str, cell: CellKey) -> float | None:
        """How many times as fast: the median over rounds, in each of which both had a turn."""
        one, other = (self._rates.get((name, cell), {}) for name in (ours, theirs))
        ratios = [one[number] / other[number] for number in one if number in other]
        return statistics.median(ratios) if ratios else None

    def best(self, belongs: Among, cell: CellKey) -> str | None:
        """The fastest of the contenders for which ``belongs(name, kind)``."""
        names = [name for name, kind in self.kinds.items() if belongs(name, kind)]
        rates = [(self.median(name, cell) or 0.0, name) for name in names]
        rate, name = max(rates, default=(0.0, ""))
        return name if rate else None

    def ours(self, cell: CellKey) -> str:
        """The contender that stands for vectasks in comparisons."""
        return FIRST_HALF if cell[0] in _WAIT and self.median(FIRST_HALF, cell) else BATCH

    def why_not(self, contender: str, cell: CellKey) -> str:
        """Why nothing was measured."""
        for reason, where in self.errors[contender].items():
            if f"rate {cell[0]} N={cell[1]}" in where:
                return f"not measured: {reason}"
        return "not measured"

    def other(self, contender: str, purpose: str, key: str) -> float | None:
        """The median of what was measured beside rates; None where nothing was."""
        values = [
            row[key]
            for row in self.rows
            if row["contender"] == contender and row["purpose"] == purpose and key in row
        ]
        return statistics.median(values) if values else None


def spread_of(values: Iterable[float]) -> Spread:
    """Of at least one value."""
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def short(rate: float) -> str:
    """Three digits are more than the noise allows.

    >>> short(1234567), short(12345), short(678.9), short(4321)
    ('1,230k', '12.3k', '679', '4.32k')
    """
    if rate < 1000:
        return f"{rate:.0f}"
    thousands = rate / 1000
    digits = 2 if thousands < 10 else 1 if thousands < 100 else 0
    return f"{round(thousands, -1):,.0f}k" if thousands >= 1000 else f"{thousands:.{digits}f}k"


def judge(
    what: str,
    goal: float,
    value: float | None,
    unit: str = "times",
    *,
    at_most: bool = False,
    why_not: str = "not measured",
) -> Line:
    """Hold a value (None: not measured) against its goal."""

    def told(number: float) -> str:
        return f"{number:.0%}" if unit == "of" else f"{number:.3g} {unit}".rstrip()

    wanted = f"at {'most' if at_most else 'least'} {told(goal)}"
    if value is None:
        return Line(what, wanted, "-", why_not)
    verdict = "reached"
    if value > goal if at_most else value < goal:
        verdict = "missed" + (f" by {abs(value / goal - 1):.0%}" if goal else "")
    return Line(what, wanted, told(value), verdict)


def to_reach(table: Table) -> list[Line]:
    """The goals of the project, each held against this run."""
    lines = []
    for goal in RATIOS:
        cell = tuple(goal.cell)
        best = table.best(goal.against, cell)
        value = None if best is None else table.times(goal.ours, best, cell)
        measure = best or "the best peer"
        if goal.of_all_cores:
            value = None if value is None else value / table.cores
            measure = f"{table.cores} x {measure}"
        of = "of" if goal.unit == "of" else "against"
        what = f"{goal.what}, {cell[0]} N={cell[1]}, {of} {measure}"
        why_not = table.why_not(goal.ours, cell)
        lines.append(judge(what, goal.at_least, value, goal.unit, why_not=why_not))
    training = table.other(TRAINING.name, "training", "ratio")
    start_s = table.other(BATCH, "start", "start_s")
    worker_mb = _mega(table.other(BATCH, "start", "worker_pss_bytes"))
    return [
        *lines,
        judge(f"{TRAINING.name}: time", MAX_TRAINING, training, "of", at_most=True),
        judge("start to first batch, N=32, a worker each", MAX_START_S, start_s, "s", at_most=True),
        judge("memory that a worker adds (PSS)", MAX_WORKER_MB, worker_mb, "MB", at_most=True),
    ]


def render_targets(results: Mapping[str, Any]) -> str:
    """The goals alone, in Markdown."""
    return f"{_origin(results)}\n\n{_targets(Table(results))}"


def render(results: Mapping[str, Any]) -> str:
    """The whole report, in Markdown."""
    table = Table(results)
    parts = [
        _origin(results),
        "### To reach",
        _targets(table),
        "### How many times as fast",
        "`step_batch` (W5, R1, R2: first half ready) against the best peer of each kind, and its "
        "share of what a plain loop does on one core. The tables below end each cell with the same "
        "ratio, to whoever stands there.",
        _ratios(table),
    ]
    for workload in dict.fromkeys(workload for workload, _ in table.cells):
        parts += [f"### {workload}: environment steps a second", _rates(table, workload)]
    if any(row["purpose"] == "start" for row in table.rows):
        parts += ["### Start-up and memory, W1, N = 32", _starts(table)]
    if any(row["purpose"] == "cycles" for row in table.rows):
        parts.append(_cycles(table))
    missing = [[f"environment {name}", reason] for name, reason in results["missing"].items()]
    missing += [
        [f"{name}: {', '.join(dict.fromkeys(where))}", reason]
        for name, reasons in table.errors.items()
        for reason, where in reasons.items()
    ]
    if missing:
        parts += ["### Not measured", _markdown(["what", "why"], missing)]
    parts += ["### Versions", _versions(results["versions"])]
    return "\n\n".join(parts)


_SUMMARY = {
    ("W1", 32): "32 samplers, four floats, a step costs nothing",
    ("W2", 32): "32 samplers, images 4x84x84, a step costs nothing",
    ("W3", 32): "32 samplers, RGB-D 224x224, a step costs nothing",
    ("W4", 32): "32 samplers, a step costs 200 us",
    ("R1", 16): "16 samplers, a step takes 1 ms, a reset 200 ms",
    ("MiniGrid", 8): "8 MiniGrid-Empty-8x8",
    ("Atari", 8): "8 Breakout, four grey frames",
}
_SUMMARY_PEERS = {
    "Gymnasium": ("Gymnasium AsyncVectorEnv",),
    "SB3": ("SB3 SubprocVecEnv",),
    "Tianshou": ("Tianshou ShmemVectorEnv",),
    "TorchRL": ("TorchRL ParallelEnv", "TorchRL AsyncEnvPool"),
    "AllenAct": ("AllenAct, one each", "AllenAct, a process a core"),
}


def summary(results: Mapping[str, Any]) -> str:
    """A short table for people in a hurry, in Markdown."""
    table = Table(results)
    rows = []
    for cell, words in _SUMMARY.items():
        ours = table.ours(cell)
        if cell[0] == "R1":
            ours = max(_PREPARED, key=lambda name: table.median(name, cell) or 0.0)
        values = [
            ", ".join(_times(table.times(ours, peer, cell)) for peer in peers)
            for peers in _SUMMARY_PEERS.values()
        ]
        if table.median(ours, cell):
            rows.append([words + (f" (`{ours[9:]}`)" if cell[0] == "R1" else ""), *values])
    for words, key, told in (
        ("start of 32 workers", "start_s", lambda value: f"{value:.2g} s"),
        ("memory a worker adds", "worker_pss_bytes", lambda value: f"{value / 1e6:.0f} MB"),
    ):
        ours_is = table.other(BATCH, "start", key)
        if ours_is is not None:
            theirs = [
                [table.other(peer, "start", key) for peer in peers]
                for peers in _SUMMARY_PEERS.values()
            ]
            cells = [", ".join(told(v) for v in values if v is not None) for values in theirs]
            rows.append([f"{words}: {told(ours_is)}, against", *cells])
    return _markdown(["", *_SUMMARY_PEERS], rows)


def write_into(page: Path, text: str) -> None:
    """Put the report between the marks of a page, with the plot that lies beside it."""
    plot = page.with_suffix(".png")
    if plot.exists():
        text += f"\n\n![Environment steps a second, a panel a workload]({plot.name})"
    write_between(page, text, BEGIN, END)


def write_between(page: Path, text: str, begin: str, end: str) -> None:
    """Put text between two marks of a page."""
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no lines {begin} and {end}.")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _origin(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    took = f", {results['took_s'] / 60:.0f} minutes" if "took_s" in results else ""
    return (
        f"Command: `{results['command']}`, {results['date']}{took}. Machine: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}; "
        f"load before the run: {machine['load_before']:.1f}. "
        f"Usual steps of vectasks are {results['steps']}."
    )


def _targets(table: Table) -> str:
    return _markdown(["what", "goal", "measured", "verdict"], to_reach(table))


def _cycles(table: Table) -> str:
    """What starting and closing over and over leaves behind."""
    count = table.other(BATCH, "cycles", "cycles") or 0
    left = {
        name: table.other(BATCH, "cycles", f"{name}_grown")
        for name in ("pss_bytes", "descriptors", "processes")
    }
    mega = _mega(left.pop("pss_bytes"))
    return (
        f"{count:.0f} times a start, 1,000 steps and a close leave behind "
        f"{0 if mega is None else mega:.2f} MB, "
        + " and ".join(f"{value or 0:.0f} {name}" for name, value in left.items())
        + "."
    )


def _ratios(table: Table) -> str:
    """The best peer of each kind, and how many times as fast vectasks is."""
    rows = []
    for cell in table.cells:
        ours = table.ours(cell)
        told = [f"{cell[0]} N={cell[1]}"]
        for kind in ("parallel", "first ready", "batch", "native"):
            best = table.best(lambda _, its, kind=kind: its == kind, cell)
            told.append(f"{_times(table.times(ours, best, cell))}: {best}" if best else "-")
        rows.append([*told, _times(table.times(ours, LOOP, cell))])
    kinds = ["processes, in lockstep", "the first half that is ready", "PufferLib", "in C++"]
    return _markdown(["", *kinds, "of one core"], rows)


def _rates(table: Table, workload: str) -> str:
    cells = [cell for cell in table.cells if cell[0] == workload]
    rows = []
    for name in table.kinds:
        if any(table.median(name, cell) for cell in cells):
            rows.append([name, *(_cell_text(table, name, cell) for cell in cells)])
    return _markdown(["", *(f"N={n}: median (lowest to highest), times" for _, n in cells)], rows)


def _cell_text(table: Table, name: str, cell: CellKey) -> str:
    spread = table.spread(name, cell)
    if spread is None:
        return "-"
    told = f"{short(spread.median)} ({short(spread.low)} to {short(spread.high)})"
    ours = table.ours(cell)
    return told if name == ours else f"{told}, {_times(table.times(ours, name, cell))}"


def _starts(table: Table) -> str:
    rows = []
    for name in dict.fromkeys(row["contender"] for row in table.rows):
        start = table.other(name, "start", "start_s")
        pss = _mega(table.other(name, "start", "worker_pss_bytes"))
        if start is not None and pss is not None:
            rows.append([name, f"{start:.2f} s", f"{pss:.1f} MB"])
    return _markdown(["", "start to first batch", "memory a worker adds (PSS)"], rows)


def _versions(versions: Mapping[str, Mapping[str, str]]) -> str:
    wanted = ("gymnasium", "numpy", "torch", "ale-py")
    rows = []
    for env, found in versions.items():
        lower = {name.lower().replace("_", "-"): version for name, version in found.items()}
        own = {"sb3": "stable-baselines3"}.get(env, env)
        names = dict.fromkeys([own, *wanted])
        rows.append([env, ", ".join(f"{n} {lower[n]}" for n in names if n in lower)])
    return _markdown(["environment", "versions"], rows)


def _markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _mega(value_bytes: float | None) -> float | None:
    return None if value_bytes is None else value_bytes / 1e6


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
