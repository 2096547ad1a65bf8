"""A manifest as one HTML page that needs no file beside it: tables, plots and films."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vectasks._util.extras import require
from vectasks._util.files import replace_file
from vectasks.errors import InvalidArgument
from vectasks.evaluation.job_records import BatchRunRecord, RunStatus
from vectasks.evaluation.manifest import BatchManifest
from vectasks.evaluation.statistics import (
    Aggregate,
    Interval,
    aggregate_all,
    as_number,
    checked_confidence,
)
from vectasks.rendering.notebook import videos_html

#: A page holds what it shows; films beyond this are only named.
MAX_VIDEO_BYTES = 200 * 2**20

_MOST_PLOTS = 12
_MOST_BINS = 60
_GREATEST_PLOTTED = 1e300
_TEMPLATE = Path(__file__).with_name("report.html.jinja")


class _Table(NamedTuple):
    heads: list[str]
    rows: list[list[str]]


class _Film(NamedTuple):
    html: str
    caption: str


def write_report(
    manifest_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    confidence: float = 0.95,
) -> None:
    """Make the page of a run, of ``evaluate`` or of a :class:`BatchRunner`.

    Args:
        manifest_path: the run's manifest.
        out: the page; it is replaced whole or not at all.
        confidence: the level of the intervals.

    Raises:
        FileNotFoundError: there is no such manifest.
        ManifestError: it is damaged.
        InvalidArgument: ``out`` is the manifest, or ``confidence`` no level.
        MissingExtra: Jinja2 is not installed, or matplotlib where there is something to plot.
    """
    jinja2 = require("jinja2", "evaluation", "the report")
    path = Path(manifest_path)
    if Path(out).absolute() == path.absolute():
        raise InvalidArgument(f"the page would take the place of its manifest, {path}.")
    confidence = checked_confidence(confidence)
    manifest = BatchManifest.load(path)
    finished = [record for record in manifest.records if record.status is not RunStatus.failed]
    metrics = {record.job_id: metrics_of(record) for record in finished}
    aggregates = aggregate_all(metrics.values(), confidence=confidence)
    level = f"{100 * confidence:g}%"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, keep_trailing_newline=True)
    page: str = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=path.name,
        manifest=manifest,
        level=level,
        metrics=_metrics(aggregates, level),
        plots=list(_plots(metrics, aggregates)),
        films=list(_films(manifest.records, path.parent)),
        failures=[record for record in manifest.records if record.status is RunStatus.failed],
        records=_records(manifest.records, list(aggregates)),
    )
    replace_file(Path(out), page.encode("utf-8", "backslashreplace"))  # file names may be no text


def metrics_of(record: BatchRunRecord) -> dict[str, Any]:
    """The numbers that a record tells: an episode's metrics, or a job's provenance."""
    told = record.provenance.get("metrics")
    return dict(told) if isinstance(told, Mapping) else dict(record.provenance)


def _metrics(aggregates: Mapping[str, Aggregate], level: str) -> _Table:
    left_out = ["left out"] if any(a.left_out for a in aggregates.values()) else []
    heads = ["metric", "n", *left_out]
    heads += ["mean", level, "IQM", level, "median", "std", "min", "max"]
    rows = [
        [
            name,
            str(a.n),
            *(str(a.left_out) for _ in left_out),
            _number(a.mean),
            _range(a.mean_interval),
            _number(a.iqm),
            _range(a.iqm_interval),
            *map(_number, (a.median, a.std, a.minimum, a.maximum)),
        ]
        for name, a in aggregates.items()
    ]
    return _Table(heads, rows)


def _plots(
    metrics: Mapping[str, Mapping[str, Any]], aggregates: Mapping[str, Aggregate]
) -> Iterator[tuple[str, str]]:
    """The histograms: a metric's name and its SVG in base64."""
    columns: dict[str, list[float]] = {}
    for name, told in aggregates.items():
        numbers = [as_number(one.get(name)) for one in metrics.values()]
        values = [number for number in numbers if number is not None and math.isfinite(number)]
        # A return is often told by the task, too: once is enough.
        if _has_spread(told) and values not in columns.values():
            columns[name] = values
    for name, values in list(columns.items())[:_MOST_PLOTS]:
        yield name, base64.b64encode(_histogram(name, values, aggregates[name])).decode()


def _has_spread(told: Aggregate) -> bool:
    """Tell whether there is more to plot than rounding errors, and no more than axes can hold."""
    size = max(abs(told.minimum), abs(told.maximum))
    return told.maximum - told.minimum > 1e-12 * size and size < _GREATEST_PLOTTED


def _histogram(name: str, values: Sequence[float], told: Aggregate) -> bytes:
    """The values as an SVG, and under them the two means with their intervals."""
    figure_class = require("matplotlib.figure", "evaluation", "the report's plots").Figure
    figure = figure_class(figsize=(6, 2.8), layout="constrained")
    bars, means = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    num_bins = min(len(values), max(8, math.isqrt(2 * len(values))), _MOST_BINS)
    bars.hist(values, bins=num_bins, color="#4c78a8")
    bars.set_ylabel("records")
    bars.yaxis.get_major_locator().set_params(integer=True)
    bars.set_title(name, loc="left", fontsize=11, parse_math=False)  # a name may hold $
    for height, (value, interval, color) in enumerate(
        [
            (told.iqm, told.iqm_interval, "#54a24b"),
            (told.mean, told.mean_interval, "#e45756"),
        ]
    ):
        if interval.low is not None and interval.high is not None:
            means.plot([interval.low, interval.high], [height, height], color=color, linewidth=4)
        means.plot([value], [height], "o", color=color)
    means.set_yticks([0, 1], ["IQM", "mean"])
    means.set_ylim(-0.7, 1.7)
    for axes in (bars, means):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _films(records: Iterable[BatchRunRecord], directory: Path) -> Iterator[_Film]:
    room_bytes = MAX_VIDEO_BYTES
    for record in records:
        path = _film_of(record, directory)
        if path is None:
            continue
        shown = videos_html([path], room_bytes)
        if path.stat().st_size <= room_bytes:
            room_bytes -= path.stat().st_size
        told = ", ".join(
            f"{name} {_number(value)}"
            for name, value in metrics_of(record).items()
            if isinstance(value, (int, float)) and name in ("return", "length", "success")
        )
        if record.status is RunStatus.failed:
            told = "failed"
        yield _Film(shown, f"{record.job_id}{': ' if told else ''}{told}")


def _film_of(record: BatchRunRecord, directory: Path) -> Path | None:
    told = record.provenance.get("video")
    path = directory / told if isinstance(told, str) else record.output
    is_film = path.suffix.lower() in (".mp4", ".gif")
    return path if is_film and path.is_file() else None


def _records(records: Sequence[BatchRunRecord], names: Sequence[str]) -> _Table:
    rows = []
    for record in records:
        told = metrics_of(record)
        rows.append(
            [
                record.job_id,
                record.status.value,
                "" if record.status is RunStatus.skipped else f"{record.duration_s:.2f} s",
                *(_number(told[name]) if name in told else "" for name in names),
                record.error_type or record.message,
            ]
        )
    return _Table(["job", "status", "took", *names, "message"], rows)


def _number(value: Any) -> str:
    number = as_number(value)
    return str(value) if number is None else f"{number:.4g}"


def _range(interval: Interval) -> str:
    if interval.low is None:
        return "-"
    return f"{_number(interval.low)} to {_number(interval.high)}"
