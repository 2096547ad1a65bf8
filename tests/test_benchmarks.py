"""The arithmetic of the benchmark report; measuring itself is run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.contenders import CONTENDERS, ENVIRONMENTS
from benchmarks.workloads import EPISODE_STEPS, LEAVES, Simulator


def row(contender, kind, rate, workload="W1", num_envs=32, purpose="rate", **more):
    return {
        "contender": contender,
        "kind": kind,
        "workload": workload,
        "num_envs": num_envs,
        "repeat": 0,
        "purpose": purpose,
        "rate": rate,
        **more,
    }


def results(*rows):
    machine = {"cpu": "x", "cores": 2, "system": "s", "python": "3", "load_before": 0.0}
    return {
        "date": "today",
        "command": "python -m benchmarks",
        "machine": machine,
        "versions": {"sb3": {"stable_baselines3": "1.0", "torch": "2.0"}},
        "missing": {"torchrl": "no wheel"},
        "measurements": list(rows),
    }


def test_medians_and_the_best_of_a_kind():
    table = report.Table(
        results(
            *(row("vectasks step_batch", "vectasks", rate) for rate in (300.0, 100.0, 200.0)),
            row("A", "parallel", 10.0),
            row("B", "parallel", 20.0),
            row("C", "in process", 1000.0),
        )
    )
    cell = ("W1", 32)
    assert table.spread("vectasks step_batch", cell) == report.Spread(200.0, 100.0, 300.0)
    assert table.best_of_kind("parallel", cell) == ("B", 20.0)
    assert table.best_of_kind("batch", cell) is None
    assert table.median("A", ("W2", 32)) is None
    lines = {line.what: line for line in report.to_reach(table)}
    line = lines["step_batch, W1 N=32, against B"]
    assert (line.reached, line.verdict) == ("10 times", "reached")


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (report.judge("x", 10, 10.0), "reached"),
        (report.judge("x", 10, 5.0), "NOT reached: 50% of it"),
        (report.judge("x", 10, None), "not measured"),
        (report.judge("x", 3, 3.0, "s", at_most=True), "reached"),
        (report.judge("x", 3, 4.5, "s", at_most=True), "NOT reached: 150% of it"),
        (report.judge("x", 0, 1.0, "", at_most=True), "NOT reached"),
        (report.judge("x", 0, -1.0, "", at_most=True), "reached"),
    ],
)
def test_verdicts(line, verdict):
    assert line.verdict == verdict


def test_the_share_of_all_cores():
    table = report.Table(
        results(
            row("vectasks step_batch", "vectasks", 95.0, workload="W4"),
            row("plain loop, one core", "limit", 50.0, workload="W4"),
        )
    )
    line = next(li for li in report.to_reach(table) if "W4 N=32, of plain loop" in li.what)
    assert (line.reached, line.verdict) == ("0.95 of it", "reached")


def test_what_is_missing_is_told_and_not_left_out():
    failed = row("B", "parallel", 0.0)
    del failed["rate"]
    text = report.render(results(row("A", "parallel", 10.0), {**failed, "error": "boom"}))
    assert "| environment torchrl | no wheel |" in text
    assert "| B: rate W1 N=32 | boom |" in text
    assert "stable-baselines3 1.0, torch 2.0" in text


def test_the_report_replaces_what_is_between_the_marks(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(f"top\n{report.BEGIN}\nold\n{report.END}\nend\n")
    report.write_into(page, "new")
    assert page.read_text() == f"top\n{report.BEGIN}\n\nnew\n\n{report.END}\nend\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        report.write_into(page, "new")


def test_contenders_have_names_of_their_own_and_environments():
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)
    assert {contender.env for contender in CONTENDERS} == set(ENVIRONMENTS)
    for contender in CONTENDERS:
        adapter = Path(report.__file__).parent / "adapters" / f"{contender.adapter}.py"
        assert adapter.exists()


@pytest.mark.parametrize("workload", sorted(LEAVES))
def test_simulators_repeat_themselves(workload):
    one, other = Simulator(workload, 3), Simulator(workload, 3)
    first, _ = one.reset()
    other.reset()
    leaves = LEAVES[workload]
    arrays = first if isinstance(first, dict) else {"": first}
    assert {name: (a.shape, a.dtype) for name, a in arrays.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()
    }
    for _ in range(2):
        assert one.step(0)[2:4] == other.step(0)[2:4] == (False, False)
    if workload == "W1":
        ends = [one.step(0)[3] for _ in range(EPISODE_STEPS - 2)]
        assert ends == [False] * (EPISODE_STEPS - 3) + [True]
