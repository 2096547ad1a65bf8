"""A manifest as one HTML page that needs no file beside it: tables, plots and films."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #888; --bad: #c0392b; --good: #27864a; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
.quiet { color: var(--quiet); } .failed { color: var(--bad); } .success { color: var(--good); }
.scroll { overflow: auto; max-height: 36rem; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: Canvas; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
.plots img { width: 100%; max-width: 34rem; background: #fff; border-radius: 6px; margin: .3rem 0; }
.films { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; width: 16.5rem; } figcaption { font-size: .85rem; color: var(--quiet); }
figure video, figure img { width: 100%; border-radius: 6px; background: #000; }
"""


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
    """
    path = Path(manifest_path)
    if Path(out).absolute() == path.absolute():
        raise InvalidArgument(f"the page would take the place of its manifest, {path}.")
    manifest = BatchManifest.load(path)
    page = report_html(manifest, path, confidence=checked_confidence(confidence))
    replace_file(Path(out), page.encode("utf-8", "backslashreplace"))  # file names may be no text


def report_html(manifest: BatchManifest, manifest_path: Path, *, confidence: float = 0.95) -> str:
    """The page as text; films are looked for beside the manifest."""
    finished = [record for record in manifest.records if record.status is not RunStatus.failed]
    metrics = {record.job_id: metrics_of(record) for record in finished}
    aggregates = aggregate_all(metrics.values(), confidence=confidence)
    body = [
        f"<h1>{_text(manifest_path.name)}</h1>",
        _summary(manifest),
        *_aggregates(aggregates, confidence),
        *_plots(metrics, aggregates),
        *_films(manifest.records, manifest_path.parent),
        *_failures(manifest.records),
        *_records(manifest.records, list(aggregates)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(manifest_path.name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def metrics_of(record: BatchRunRecord) -> dict[str, Any]:
    """The numbers that a record tells: an episode's metrics, or a job's provenance."""
    told = record.provenance.get("metrics")
    return dict(told) if isinstance(told, Mapping) else dict(record.provenance)


def _summary(manifest: BatchManifest) -> str:
    finished = manifest.success_count + manifest.skipped_count
    left = manifest.total - len(manifest.records)
    parts = [
        f'<span class="success">{finished} finished</span>',
        f'<span class="failed">{manifest.failed_count} failed</span>'
        if manifest.failed_count
        else "none failed",
    ]
    if left:
        parts.append(f"{left} not run yet")
    moments = f"begun {manifest.created_at:%Y-%m-%d %H:%M}, "
    moments += f"last change {manifest.updated_at:%Y-%m-%d %H:%M} UTC"
    return f'<p>{", ".join(parts)} of {manifest.total} <span class="quiet">({moments})</span></p>'


def _aggregates(aggregates: Mapping[str, Aggregate], confidence: float) -> Iterator[str]:
    if not aggregates:
        return
    yield "<h2>Metrics</h2>"
    level = f"{100 * confidence:g}%"
    left_out = ["left out"] if any(a.left_out for a in aggregates.values()) else []
    heads = ["metric", "n", *left_out]
    heads += ["mean", level, "IQM", level, "median", "std", "min", "max"]
    yield _table(
        heads,
        [
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
        ],
    )
    yield (
        '<p class="quiet">IQM: the mean of the middle half of the values. '
        f"Intervals: {level} percentile bootstrap over the records."
        + " Left out: values that are NaN, infinite or no number." * len(left_out)
        + "</p>"
    )


def _plots(
    metrics: Mapping[str, Mapping[str, Any]], aggregates: Mapping[str, Aggregate]
) -> Iterator[str]:
    columns: dict[str, list[float]] = {}
    for name, told in aggregates.items():
        numbers = [as_number(one.get(name)) for one in metrics.values()]
        values = [number for number in numbers if number is not None and math.isfinite(number)]
        # A return is often told by the task, too: once is enough.
        if _has_spread(told) and values not in columns.values():
            columns[name] = values
    if not columns:
        return
    yield '<div class="plots">'
    for name, values in list(columns.items())[:_MOST_PLOTS]:
        image = base64.b64encode(_histogram(name, values, aggregates[name])).decode()
        yield (
            f'<img alt="Histogram of {_text(name)}, with its mean and its interquartile mean" '
            f'src="data:image/svg+xml;base64,{image}">'
        )
    yield "</div>"


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


def _films(records: Iterable[BatchRunRecord], directory: Path) -> Iterator[str]:
    figures = []
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
        caption = f"{_text(record.job_id)}{': ' if told else ''}{_text(told)}"
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    if figures:
        yield '<h2>Films</h2><div class="films">'
        yield from figures
        yield "</div>"


def _film_of(record: BatchRunRecord, directory: Path) -> Path | None:
    told = record.provenance.get("video")
    path = directory / told if isinstance(told, str) else record.output
    is_film = path.suffix.lower() in (".mp4", ".gif")
    return path if is_film and path.is_file() else None


def _failures(records: Iterable[BatchRunRecord]) -> Iterator[str]:
    failed = [record for record in records if record.status is RunStatus.failed]
    if not failed:
        return
    yield "<h2>Failures</h2>"
    for record in failed:
        told = f"<b>{_text(record.job_id)}</b> {_text(record.error_type)}: {_text(record.message)}"
        yield (
            f"<details><summary>{told}</summary><pre>{_text(record.traceback)}</pre></details>"
            if record.traceback
            else f"<p>{told}</p>"
        )


def _records(records: Sequence[BatchRunRecord], names: Sequence[str]) -> Iterator[str]:
    yield "<h2>Records</h2>"
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
    yield _table(["job", "status", "took", *names, "message"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def cell(tag: str, head: str, text: str) -> str:
        kind = {"message": "text", "status": text}.get(head, "")
        return f'<{tag} class="{_text(kind)}">{_text(text)}</{tag}>'

    lines = ["".join(cell("th", head, head) for head in heads)]
    for row in rows:
        lines.append("".join(cell("td", *pair) for pair in zip(heads, row, strict=True)))
    inner = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>\n{inner}\n</table></div>'


def _number(value: Any) -> str:
    number = as_number(value)
    return str(value) if number is None else f"{number:.4g}"


def _range(interval: Interval) -> str:
    if interval.low is None:
        return "-"
    return f"{_number(interval.low)} to {_number(interval.high)}"


def _text(value: object) -> str:
    return html.escape(str(value))
