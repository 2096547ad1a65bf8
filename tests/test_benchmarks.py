"""The arithmetic of the benchmark report; measuring itself is run by hand."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from benchmarks import processes, report, training
from benchmarks.adapters import simulation
from benchmarks.contenders import CONTENDERS, ENVIRONMENTS, SLOW, TOYS, TRAINING
from benchmarks.environments import install_options
from benchmarks.goals import BATCH, RATIOS
from benchmarks.workloads import (
    EPISODE_STEPS,
    LEAVES,
    SLOW_RESETS,
    Simulator,
    episode_lengths,
    sleeps_s,
)


def row(contender, kind, rate, workload="W1", num_envs=32, purpose="rate", **more):
    return {
        "contender": contender,
        "kind": kind,
        "workload": workload,
        "num_envs": num_envs,
        "round": 0,
        "purpose": purpose,
        "rate": rate,
        **more,
    }


def rows(contender, kind, *rates, **more):
    return [row(contender, kind, rate, round=number, **more) for number, rate in enumerate(rates)]


def results(*rows):
    machine = {"cpu": "x", "cores": 2, "system": "s", "python": "3", "load_before": 0.0}
    return {
        "date": "today",
        "command": "python -m benchmarks",
        "machine": machine,
        "steps": "compiled",
        "versions": {"sb3": {"stable_baselines3": "1.0", "torch": "2.0"}},
        "missing": {"torchrl": "no wheel"},
        "measurements": list(rows),
    }


def line(table, start):
    (found,) = (line for line in report.to_reach(table) if line.what.startswith(start))
    return found


def test_medians_and_the_best_of_a_kind():
    table = report.Table(
        results(
            *rows(BATCH, "vectasks", 300.0, 100.0, 200.0),
            row("A", "parallel", 10.0),
            row("B", "parallel", 20.0),
            row("C", "in process", 1000.0),
        )
    )
    cell = ("W1", 32)
    assert table.spread(BATCH, cell) == report.Spread(200.0, 100.0, 300.0)
    assert table.best(lambda _, kind: kind == "parallel", cell) == "B"
    assert table.best(lambda _, kind: kind == "batch", cell) is None
    assert table.median("A", ("W2", 32)) is None


def test_ratios_are_of_rounds_that_both_took_part_in():
    ours, theirs = (100.0, 1000.0, 30.0, 7.0), (10.0, 50.0, 2.0)
    table = report.Table(results(*rows(BATCH, "vectasks", *ours), *rows("B", "parallel", *theirs)))
    assert table.times(BATCH, "B", ("W1", 32)) == 15.0  # of 10, 20 and 15
    assert table.times(BATCH, "C", ("W1", 32)) is None
    reached = line(table, "step_batch, W1 N=32, against B")
    assert reached[1:] == ("at least 10 times", "15 times", "reached")


@pytest.mark.parametrize(
    ("judged", "measured", "verdict"),
    [
        (report.judge("x", 10, 10.0), "10 times", "reached"),
        (report.judge("x", 10, 8.0), "8 times", "missed by 20%"),
        (report.judge("x", 10, None), "-", "not measured"),
        (report.judge("x", 10, None, why_not="not there"), "-", "not there"),
        (report.judge("x", 0.95, 0.76, "of"), "76%", "missed by 20%"),
        (report.judge("x", 3, 3.0, "s", at_most=True), "3 s", "reached"),
        (report.judge("x", 3, 4.5, "s", at_most=True), "4.5 s", "missed by 50%"),
    ],
)
def test_verdicts(judged, measured, verdict):
    assert (judged.reached, judged.verdict) == (measured, verdict)


def test_the_share_of_all_cores():
    table = report.Table(
        results(
            row(BATCH, "vectasks", 95.0, workload="W4"),
            row("plain loop, one core", "limit", 50.0, workload="W4"),
        )
    )
    share = line(table, "step_batch, W4 N=32, of 2 x plain loop")
    assert share[1:] == ("at least 95%", "95%", "reached")


def test_a_goal_that_cannot_be_measured_says_why():
    failed = row("vectasks prepared_tasks=1", "vectasks", 0.0, workload="R1", num_envs=16)
    del failed["rate"]
    text = report.render_targets(results({**failed, "error": "not there: no such keyword"}))
    assert "| not measured: not there: no such keyword |" in text


def test_training_starts_and_memory_are_goals_too():
    rows_of = [
        row(TRAINING.name, "vectasks", 0, purpose="training", ratio=ratio)
        for ratio in (1, 0.9, 0.8)
    ]
    start = row(BATCH, "vectasks", 0, purpose="start", start_s=1.5, worker_pss_bytes=6e6)
    table = report.Table(results(*rows_of, start))
    assert line(table, "SB3 PPO")[1:] == ("at most 97%", "90%", "reached")
    assert line(table, "start to first")[1:] == ("at most 1 s", "1.5 s", "missed by 50%")
    assert line(table, "memory that a worker")[1:] == ("at most 12 MB", "6 MB", "reached")


def test_every_goal_is_about_contenders_and_cells_that_are_measured():
    for goal in RATIOS:
        there = [c for c in CONTENDERS if goal.cell.workload in c.only]
        assert goal.ours in {contender.name for contender in there}, goal
        assert any(goal.against(contender.name, contender.kind) for contender in there), goal


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


def test_the_summary_has_the_best_of_what_is_prepared():
    cell = {"workload": "R1", "num_envs": 16}
    text = report.summary(
        results(
            row("vectasks prepared_tasks=1", "vectasks", 100.0, **cell),
            row("vectasks prepared_tasks=4", "vectasks", 300.0, **cell),
            row("SB3 SubprocVecEnv", "parallel", 10.0, **cell),
            row(BATCH, "vectasks", 0, purpose="start", start_s=0.5, worker_pss_bytes=8e6),
            row("AllenAct, one each", "parallel", 0, purpose="start", start_s=48.0),
        )
    )
    last = "| 16 samplers, a step takes 1 ms, a reset 200 ms (`prepared_tasks=4`) | - | 30 |"
    assert last in text
    assert "| start of 32 workers: 0.5 s, against |  |  |  |  | 48 s |" in text


def test_trainings_in_turns_are_told_before_and_now():
    turns = training.TURNS[0]
    runs = [
        {**turns, "version": "now", "ratios": [0.9, 1.0, 1.1]},
        {**turns, "version": "before", "ratios": [1.9, 2.0, 2.1]},
        {**training.TURNS[1], "version": "now", "error": "boom"},
    ]
    text = training.render({"command": "c", "date": "d", "cores": 2, "runs": runs})
    ours = "| SB3 | CartPole | vectasks adapter | DummyVecEnv |"
    assert f"{ours} 2.000 (1.900 to 2.100) | 1.000 (0.900 to 1.100) |" in text
    assert "| SyncVectorEnv | not measured | boom |" in text


def test_contenders_have_names_of_their_own_and_environments():
    assert len({contender.name for contender in CONTENDERS}) == len(CONTENDERS)
    assert {contender.env for contender in CONTENDERS} == set(ENVIRONMENTS)
    for contender in CONTENDERS:
        adapter = Path(report.__file__).parent / "adapters" / f"{contender.adapter}.py"
        assert adapter.exists()
    assert set(TOYS) == set(LEAVES)
    assert set(SLOW) == set(SLOW_RESETS)


def test_torch_is_installed_before_what_asks_for_it():
    for name in set(ENVIRONMENTS) - {"vectasks", "gymnasium", "envpool"}:
        assert ENVIRONMENTS[name][0] == ["torch==2.13.0"]


def test_variables_of_an_installation_are_no_arguments_of_pip():
    arguments, environ = install_options(["NO_X=1", "A={benchmarks}/y", "--no-deps", "z==1"])
    assert arguments == ["--no-deps", "z==1"]
    assert environ == {"NO_X": "1", "A": f"{Path(report.__file__).parent}/y"}


_ECHO = """
import json, os, sys
with os.fdopen(json.loads(sys.argv[1])["answers"], "w", buffering=1) as answers:
    answers.write('{"ready": true}\\n')
    for line in sys.stdin:
        if line.strip() == "end":
            sys.exit("so it ends")
        answers.write(json.dumps({"heard": line.strip()}) + "\\n")
"""


def test_a_runner_answers_until_it_ends_and_then_says_why(tmp_path: Path):
    (tmp_path / "echo.py").write_text(_ECHO)
    with processes.Runner(Path(sys.executable), "echo", {}, tmp_path) as runner:
        assert runner.ask() == {"ready": True}
        assert [runner.ask(word) for word in "ab"] == [{"heard": "a"}, {"heard": "b"}]
        assert runner.ask("end") == {"error": "so it ends"}
        assert runner.ask("again") == {"error": "so it ends"}


def test_what_sleeps_alone_allow():
    assert simulation.rate("R1", 1) == pytest.approx(1 / 0.003, rel=0.15)  # 1 ms and 200 ms / 100
    assert simulation.rate("R1", 2, prepared_tasks=50) == pytest.approx(2000, rel=0.05)
    # One spare: an episode of 99 ms, then 101 ms until the next task is there.
    assert simulation.rate("R1", 1, prepared_tasks=1) > 1.4 * simulation.rate("R1", 1)
    lockstep, first_half = (simulation.rate("W5", 8, first_half=half) for half in (False, True))
    assert lockstep == pytest.approx(8 / (0.002 * sum(1 / k for k in range(1, 9))), rel=0.05)
    assert first_half > 1.8 * lockstep


@pytest.mark.parametrize("workload", SLOW_RESETS)
def test_lengths_of_episodes_with_slow_resets(workload, monkeypatch):
    lengths = list(itertools.islice(episode_lengths(workload, 3), 5000))
    assert lengths == list(itertools.islice(episode_lengths(workload, 3), 5000))
    assert sum(lengths) / 5000 == pytest.approx(100, rel=0.05)
    assert min(lengths) >= 2
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    simulator = Simulator(workload, 3)
    simulator.reset()
    ends = [simulator.step(0)[3] for _ in range(lengths[0])]
    assert ends == [False] * (lengths[0] - 1) + [True]
    assert slept == [0.2] * (workload == "R1") + [0.001] * lengths[0]


def test_sleeps_are_those_of_the_seed(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    simulator = Simulator("W5", 3)
    simulator.reset()
    for _ in range(600):
        simulator.step(0)
    assert slept == list(itertools.islice(sleeps_s(3), 600))


@pytest.mark.parametrize("workload", sorted(LEAVES))
def test_simulators_repeat_themselves(workload, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
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
