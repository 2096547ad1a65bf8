"""From measurements to tables: pure functions over the JSON of a run."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
BATCH = "vectasks step_batch"
FIRST_HALF = "vectasks first half ready"
PREPARED = "vectasks, prepared tasks"
LOOP = "plain loop, one core"
COPY = "copying the batch once"
_ALLENACT = ("AllenAct, one each", "AllenAct, a process a core")
_WAITS = "W5"  # what counts there is "first half", and no core is the limit

CellKey = tuple[str, int]
Among = Callable[[str], bool]
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
        rates: dict[tuple[str, CellKey], list[float]] = defaultdict(list)
        for row in self.rows:
            cell = (row["workload"], row["num_envs"])
            if "error" in row:
                where = f"{row['purpose']} {cell[0]} N={cell[1]}"
                self.errors[row["contender"]][row["error"]].append(where)
            elif row["purpose"] == "rate":
                rates[row["contender"], cell].append(row["rate"])
            if row["purpose"] == "rate":
                self.kinds[row["contender"]] = row["kind"]
                if cell not in self.cells:
                    self.cells.append(cell)
        self._spreads = {key: spread_of(values) for key, values in rates.items()}

    def spread(self, contender: str, cell: CellKey) -> Spread | None:
        """Steps a second; None where nothing was measured."""
        return self._spreads.get((contender, cell))

    def median(self, contender: str, cell: CellKey) -> float | None:
        """The same, the median alone."""
        spread = self.spread(contender, cell)
        return None if spread is None else spread.median

    def best(self, belongs: Among, cell: CellKey) -> tuple[str, float] | None:
        """The fastest of the contenders for which ``belongs(name)``."""
        rates = [(self.median(name, cell) or 0.0, name) for name in self.kinds if belongs(name)]
        rate, name = max(rates, default=(0.0, ""))
        return (name, rate) if rate else None

    def best_of_kind(self, kind: str, cell: CellKey) -> tuple[str, float] | None:
        """The fastest of a kind."""
        return self.best(lambda name: self.kinds[name] == kind, cell)

    def ours(self, cell: CellKey) -> str:
        """The contender that stands for vectasks in comparisons."""
        if self.median(PREPARED, cell):
            return PREPARED
        return FIRST_HALF if cell[0] == _WAITS and self.median(FIRST_HALF, cell) else BATCH

    def is_lockstep_peer(self, name: str) -> bool:
        """Whether every step of this peer is one of all its environments."""
        return self.kinds[name] == "parallel" and "first half" not in name

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


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Return how many times as fast; None where one of them is missing."""
    return ours / theirs if ours and theirs else None


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
    what: str, goal: float, value: float | None, unit: str = "times", *, at_most: bool = False
) -> Line:
    """Hold a value (None: not measured) against its goal."""
    wanted = f"at {'most' if at_most else 'least'} {goal:g} {unit}".rstrip()
    if value is None:
        return Line(what, wanted, "-", "not measured")
    verdict = "reached"
    if value > goal if at_most else value < goal:
        verdict = "NOT reached" + (f": {value / goal:.0%} of it" if goal else "")
    return Line(what, wanted, f"{value:.3g} {unit}".rstrip(), verdict)


def to_reach(table: Table) -> list[Line]:
    """The goals of the project, each held against this run."""
    lines: list[Line] = []

    def against(what: str, goal: float, ours: str, cell: CellKey, names: str | Among) -> None:
        among = names if callable(names) else lambda name: table.kinds[name] == names
        best = table.best(among, cell)
        what = f"{what}, {cell[0]} N={cell[1]}, against {best[0] if best else 'the best peer'}"
        value = ratio(table.median(ours, cell), best[1] if best else None)
        lines.append(judge(what, goal, value))

    def share(goal: float, of: str, cell: CellKey, cores: int = 1) -> None:
        value = ratio(table.median(BATCH, cell), (table.median(of, cell) or 0.0) * cores)
        what = f"step_batch, {cell[0]} N={cell[1]}, of {of}" + f" x {cores}" * (cores > 1)
        lines.append(judge(what, goal, value, "of it"))

    for workload, goal in (("W1", 10), ("W2", 10), ("W3", 8), ("W4", 1.8)):
        for n in (8, 32):
            against("step_batch", goal, BATCH, (workload, n), "parallel")
    for n in (8, 32):
        share(0.5, COPY, ("W3", n))
    for n in (8, 32):
        share(0.9, LOOP, ("W4", n), table.cores)
    against("first half ready", 2.5, FIRST_HALF, ("W5", 32),
            lambda name: table.kinds[name] in ("parallel", "batch"))  # fmt: skip
    for workload in ("W1", "W2"):
        against("in-place tasks", 1, "vectasks in-place tasks", (workload, 32), "batch")
    for workload in ("W1", "W3"):
        against("step (list, stacked)", 4, "vectasks step (list)", (workload, 32),
                lambda name: name in _ALLENACT)  # fmt: skip
    against("in process, step_batch", 1.5, "vectasks in-process vector step_batch", ("W1", 32),
            lambda name: name == "Gymnasium SyncVectorEnv")  # fmt: skip
    for workload, goal in (("R1", 20), ("R2", 2)):
        against("prepared tasks", goal, PREPARED, (workload, 16), table.is_lockstep_peer)
    return lines + _start_lines(table)


def _start_lines(table: Table) -> list[Line]:
    start = table.other(BATCH, "start", "start_s")
    fork = table.other("Gymnasium AsyncVectorEnv", "start", "start_s")
    pss = table.other(BATCH, "start", "worker_pss_bytes")
    times = f"{table.other(BATCH, 'cycles', 'cycles') or 0:.0f} x start, 1,000 steps, close"
    grown = table.other(BATCH, "cycles", "pss_bytes_grown")
    return [
        judge("start to first batch, N=32, a worker each", 3, start, "s", at_most=True),
        judge("the same, against Gymnasium's AsyncVectorEnv", 1, ratio(start, fork), at_most=True),
        judge("memory that a worker adds (PSS)", 12, _mega(pss), "MB", at_most=True),
        judge(f"{times}: growth of memory", 1, _mega(grown), "MB", at_most=True),
        *(
            judge(f"{times}: more {what}", 0, table.other(BATCH, "cycles", f"{what}_grown"), "",
                  at_most=True)
            for what in ("descriptors", "processes")
        ),
    ]  # fmt: skip


def render(results: Mapping[str, Any]) -> str:
    """The whole report, in Markdown."""
    table = Table(results)
    machine = results["machine"]
    parts = [
        f"Command: `{results['command']}`, {results['date']}. Machine: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}; "
        f"load before the run: {machine['load_before']:.1f}.",
        "### To reach",
        _markdown(["what", "goal", "reached", "verdict"], to_reach(table)),
        "### How many times as fast",
        '`step_batch` (W5: first half ready) against each; "best": of the peers with worker '
        "processes. Last column: its share of what a plain loop does on one core.",
        _ratios(table),
    ]
    for workload in dict.fromkeys(workload for workload, _ in table.cells):
        parts += [f"### {workload}: environment steps a second", _rates(table, workload)]
    parts += ["### Start-up and memory, W1, N = 32", _starts(table)]
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


def _ratios(table: Table) -> str:
    peers = [name for name, kind in table.kinds.items() if kind not in ("limit", "vectasks")]
    rows = []
    for cell in table.cells:
        ours = table.median(table.ours(cell), cell)
        best = table.best_of_kind("parallel", cell)
        rows.append(
            [
                f"{cell[0]} N={cell[1]}",
                _times(ratio(ours, best[1] if best else None)),
                *(_times(ratio(ours, table.median(name, cell))) for name in peers),
                _times(ratio(ours, table.median(LOOP, cell))),
            ]
        )
    return _markdown(["", "best", *peers, "of one core"], rows)


def _rates(table: Table, workload: str) -> str:
    cells = [cell for cell in table.cells if cell[0] == workload]
    rows = []
    for name in table.kinds:
        if any(table.median(name, cell) for cell in cells):
            rows.append([name, *(_cell_text(table, name, cell) for cell in cells)])
    return _markdown(["", *(f"N={n}: median (lowest to highest)" for _, n in cells)], rows)


def _cell_text(table: Table, name: str, cell: CellKey) -> str:
    spread = table.spread(name, cell)
    if spread is None:
        return "-"
    return f"{short(spread.median)} ({short(spread.low)} to {short(spread.high)})"


def _starts(table: Table) -> str:
    rows = []
    for name in dict.fromkeys(row["contender"] for row in table.rows):
        start = table.other(name, "start", "start_s")
        pss = _mega(table.other(name, "start", "worker_pss_bytes"))
        if start is not None and pss is not None:
            rows.append([name, f"{start:.2f} s", f"{pss:.1f} MB"])
    return _markdown(["", "start to first batch", "memory a worker adds (PSS)"], rows)


def _versions(versions: Mapping[str, Mapping[str, str]]) -> str:
    wanted = ("gymnasium", "numpy", "torch")
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
