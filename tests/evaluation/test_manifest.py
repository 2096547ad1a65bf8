"""The models, and the files of a manifest: they survive a kill at any byte."""

from __future__ import annotations

import json
import logging
import math
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vectasks.errors import ManifestError
from vectasks.evaluation import (
    BatchJob,
    BatchManifest,
    BatchRunner,
    BatchRunRecord,
    RunStatus,
    read_jobs,
)
from vectasks.evaluation.json_form import from_json, plain, to_json
from vectasks.evaluation.run_log import RunLog

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def record(job_id: str, status: str = "success", **fields: Any) -> BatchRunRecord:
    return BatchRunRecord(
        job_id=job_id,
        input="in",
        output="out",
        status=status,
        started_at=MOMENT,
        finished_at=MOMENT,
        **fields,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def journal_of(path: Path) -> Path:
    return path.with_name("run.json.journal")


# -- models -----------------------------------------------------------------------------------


def test_a_job_takes_other_names_and_keeps_further_fields() -> None:
    job = BatchJob.model_validate(
        {"id": "a", "motion": "a.npz", "output": "b.npz", "motion_format": "smpl", "robot": "g1"}
    )
    assert (job.input, job.motion, job.name) == (Path("a.npz"), Path("a.npz"), "a")
    assert (job.motion_format, job.robot) == ("smpl", "g1")  # type: ignore[attr-defined]
    assert BatchJob(id="a", input="a", output="b", name="walk").name == "walk"
    assert BatchJob.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize(
    "fields", [{"id": "a", "output": "b"}, {"id": "", "input": "a", "output": "b"}]
)
def test_a_job_that_lacks_something(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"input|id"):
        BatchJob.model_validate(fields)


def test_a_manifest_counts_its_records() -> None:
    records = [record("a"), record("b", "failed", error_type="KeyError"), record("c", "skipped")]
    manifest = BatchManifest.from_records(records=records, total=5, created_at=MOMENT, pattern="*")
    counts = (manifest.success_count, manifest.skipped_count, manifest.failed_count)
    assert (manifest.total, *counts) == (5, 1, 1, 1)
    assert manifest.records == tuple(records)
    assert manifest.records_by_id()["b"].error_type == "KeyError"
    assert manifest.records[0].status == "success"


def test_a_manifest_is_what_was_saved(path: Path) -> None:
    manifest = BatchManifest.from_records(
        records=[record("a", provenance={"x": [1, None]})], total=1, created_at=MOMENT
    )
    manifest.save_json(path)
    loaded = BatchManifest.load(path)
    assert loaded.records == manifest.records
    assert loaded.created_at == MOMENT
    assert json.loads(path.read_text())["schema_version"] == 1


def test_provenance_is_what_json_can_hold() -> None:
    values = {
        "number": np.float32(0.5),
        "long": np.longdouble(0.5),
        "half": Fraction(1, 2),
        "array": np.arange(3),
        "path": Path("x"),
        "pair": (1, 2),
        "status": RunStatus.failed,
        3: MOMENT,
    }
    assert record("a", provenance=values).provenance == {
        "number": 0.5,
        "long": 0.5,
        "half": 0.5,
        "array": [0, 1, 2],
        "path": "x",
        "pair": [1, 2],
        "status": "failed",
        "3": "2026-01-02T03:04:05+00:00",
    }
    with pytest.raises(ValueError, match="JSON cannot hold a object"):
        record("a", provenance={"thing": object()})
    assert plain([object()], otherwise=lambda value: "thing") == ["thing"]


@pytest.mark.guarantee("non-finite")
def test_the_json_is_standard_and_loses_nothing() -> None:
    values = {
        "numbers": [math.nan, math.inf, -math.inf, 0.1, -0.0, 2**70, True, None],
        "texts": ["NaN", "\\NaN", "\\\\-Infinity", "Infinite", "nan", "", "ä\u2028\0", "\udc80"],
        "\udc81": {"deep": [[math.nan]]},
    }
    data = to_json(values)
    assert from_json(data) == values
    told = json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["numbers"][:4] == ["NaN", "Infinity", "-Infinity", 0.1]
    assert "ä" in data.decode("utf-8"), "people can read it"
    assert repr(from_json(b"[NaN, -Infinity]")) == "[nan, -inf]", "as Python's json writes"
    for damaged in (b"", b"{", b"\xff", b"\0" * 8, b"[" * 100_000):
        with pytest.raises(ValueError, match=r".+"):
            from_json(damaged)


def test_records_that_say_motion(path: Path) -> None:
    """So did those of others; the JSON says input."""
    told = json.loads(record("a", provenance={"loss": None}).model_dump_json())
    told["motion"] = told.pop("input")
    lines = [{"record": told}]
    manifest = BatchManifest.from_records(records=[], total=1, created_at=MOMENT)
    written = {**manifest.model_dump(mode="json"), "success_count": 1, "records": [told]}
    path.write_text(json.dumps(written))
    for _ in range(2):
        (loaded,) = BatchManifest.load(path).records
        assert loaded.input == loaded.motion == Path("in")
        assert loaded.provenance == {"loss": None}
        path.write_text(json.dumps({**written, "records": []}))
        journal_of(path).write_text(
            json.dumps({"run": {**written, "started_at": written["updated_at"], "job_ids": ["a"]}})
            + "\n"
            + "".join(json.dumps(line) + "\n" for line in lines)
        )
    assert BatchRunRecord.model_validate({**told, "input": "other"}).motion == Path("other")
    assert "motion" not in json.loads(loaded.model_dump_json())


def test_durations() -> None:
    later = MOMENT + timedelta(seconds=2.5)
    made = record("a").model_copy(update={"finished_at": later})
    assert made.duration_s == 2.5
    manifest = BatchManifest.from_records(records=[made], total=1, created_at=MOMENT)
    assert manifest.model_copy(update={"updated_at": later}).duration_s == 2.5


def test_jobs_of_a_file_may_hold_what_they_like(tmp_path: Path) -> None:
    job = {"id": "\udc80", "input": "a\u2028b", "output": "o", "provenance": {"x": math.nan}}
    (tmp_path / "jobs.jsonl").write_text(
        json.dumps(job) + "\n" + json.dumps({**job, "id": "b"}, ensure_ascii=False), "utf-8"
    )
    first, second = read_jobs(tmp_path / "jobs.jsonl")
    assert (first.id, second.input, first.provenance) == (
        "\udc80",
        Path("a\u2028b"),
        {"x": math.nan},
    )
    again = BatchJob.model_validate_json(second.model_dump_json())
    assert math.isnan(again.provenance["x"])


# -- files ------------------------------------------------------------------------------------


def test_there_is_nothing(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no manifest .*run\.json"):
        BatchManifest.load(path)


def test_the_journal_is_applied(path: Path) -> None:
    log = RunLog(path, ["a", "b", "c"], pattern="*.in")
    log.add(record("b", "failed"))
    log.add(record("a"))
    manifest = BatchManifest.load(path)  # the run still goes on
    assert [r.job_id for r in manifest.records] == ["a", "b"]
    assert (manifest.total, manifest.pattern) == (3, "*.in")
    assert json.loads(path.read_text())["records"] == [], "its file waits for the end"
    log.close()
    assert len(json.loads(path.read_text())["records"]) == 2
    assert BatchManifest.load(path) == manifest


def _write_two(path: Path) -> bytes:
    """A run log of two jobs, one of which failed."""
    with RunLog(path, ["a", "b"]) as log:
        log.add(record("a", provenance={"text": "ä\n"}))
        log.add(record("b", "failed", message="no"))
    path.unlink()
    return journal_of(path).read_bytes()


def _whole_records(part: bytes) -> list[str]:
    return ["a", "b"][: max(0, part.count(b"\n") - 1)]


@pytest.mark.guarantee("manifest-survives-kill")
def test_cut_off_at_every_byte(path: Path) -> None:
    """Whatever of the run log is there, it can be read; whole lines count."""
    whole = _write_two(path)
    for size in range(len(whole) + 1):
        part = whole[:size]
        journal_of(path).write_bytes(part)
        if b"\n" in part:
            records = BatchManifest.load(path).records
            assert [r.job_id for r in records] == _whole_records(part)
        else:
            with pytest.raises(FileNotFoundError):
                BatchManifest.load(path)


@pytest.mark.guarantee("manifest-survives-kill")
def test_a_run_goes_on_wherever_it_was_cut_off(path: Path) -> None:
    whole = _write_two(path)
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for size in sorted({0, 1, *ends, *(end + 1 for end in ends), *range(50, len(whole), 97)}):
        path.unlink(missing_ok=True)
        journal_of(path).write_bytes(whole[:size])
        with RunLog(path, ["a", "b"]) as log:
            assert list(log.history) == _whole_records(whole[:size])
            log.add(record("b"))
        assert BatchManifest.load(path).records_by_id()["b"].status is RunStatus.success


def test_a_run_begins_where_an_unfinished_one_was(path: Path) -> None:
    with RunLog(path, ["a", "b", "c"]) as log:
        log.add(record("a"))
        log.add(record("c"))
    log = RunLog(path, ["c", "b", "a"])
    log.add(record("b", "failed"))
    manifest = BatchManifest.load(path)
    log.close()
    assert [(r.job_id, r.status) for r in manifest.records] == [
        ("c", "success"),
        ("b", "failed"),
        ("a", "success"),
    ]


def test_what_another_list_of_jobs_left_is_remembered(path: Path) -> None:
    with RunLog(path, ["a", "b"]) as log:
        log.add(record("a", "failed"))
    with RunLog(path, ["b"]) as log:
        log.add(record("b"))
    assert [r.job_id for r in BatchManifest.load(path).records] == ["b"]
    with RunLog(path, ["a"]) as log:
        assert log.history["a"].status is RunStatus.failed


@pytest.mark.guarantee("damaged-manifest")
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"total": 3}', b"\0" * 100])
def test_a_damaged_manifest_is_rebuilt(
    damage: bytes, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunLog(path, ["a"]) as log:
        log.add(record("a"))
    before = BatchManifest.load(path)
    path.write_bytes(damage)
    with caplog.at_level(logging.WARNING, "vectasks"):
        assert BatchManifest.load(path) == before
    assert "rebuilt from its run log" in caplog.text
    assert path.read_bytes() == damage, "reading changes nothing"
    RunLog(path, ["a"]).close()
    assert path.with_name("run.json.damaged").read_bytes() == damage
    assert BatchManifest.load(path).records == before.records


@pytest.mark.guarantee("damaged-manifest")
def test_a_damaged_manifest_without_a_journal_is_left_alone(path: Path) -> None:
    path.write_bytes(b"{")
    with pytest.raises(ManifestError, match=r"run\.json is no manifest"):
        BatchManifest.load(path)
    with pytest.raises(ManifestError, match="move it away"):
        BatchRunner("inline").run([], print, manifest_path=path)
    assert path.read_bytes() == b"{"


def test_a_lost_journal_begins_with_what_the_manifest_tells(path: Path) -> None:
    with RunLog(path, ["a"]) as log:
        log.add(record("a", "failed"))
    journal_of(path).unlink()
    assert BatchManifest.load(path).failed_count == 1
    RunLog(path, ["b"]).close()
    path.unlink()
    with RunLog(path, ["a"]) as log:
        assert log.history["a"].status is RunStatus.failed


@pytest.mark.guarantee("damaged-manifest")
def test_a_damaged_journal_is_named(path: Path) -> None:
    with RunLog(path, ["a"]) as log:
        log.add(record("a"))
    lines = journal_of(path).read_bytes().splitlines(keepends=True)
    journal_of(path).write_bytes(lines[0] + b"nonsense\n" + lines[1])
    with pytest.raises(ManifestError, match="journal, line 2"):
        BatchManifest.load(path)
    assert b"nonsense" in journal_of(path).read_bytes()


def test_a_newer_version_is_not_touched(path: Path) -> None:
    with RunLog(path, ["a"]):
        pass
    journal_of(path).unlink()
    told = {**json.loads(path.read_text()), "schema_version": 9}
    path.write_text(json.dumps(told))
    with pytest.raises(ManifestError, match="schema_version 9"):
        BatchManifest.load(path)
