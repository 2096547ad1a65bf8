"""``vectasks batch``, ``eval`` and ``report``: what they make, say and refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vectasks.cli import main as cli
from vectasks.evaluation import BatchManifest, evaluate

MODULE = """\
from vectasks.testing.toys import CountingTask, ImageTask, ToySampler

number = 3

def work(job):
    if job.id == "bad":
        raise ValueError("bad on purpose")
    job.output.write_text(job.id)
    return {"length": len(job.id)}

def stop(job):
    raise KeyboardInterrupt

def make_sampler(**options):
    task_class = ImageTask if "height_px" in options else CountingTask
    return ToySampler(task_class, **options)

class OddTask(CountingTask):
    def metrics(self):
        return {"score": float(["nan", 1, "inf"][self.task_info["episode"]])}

def make_odd_sampler(**options):
    return ToySampler(OddTask, **options)

def push(observations):
    return [1] * len(observations)

def tire(observations, action_spaces):
    raise KeyboardInterrupt
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to work in, with a module of what the commands need, and jobs."""
    (tmp_path / "my_work.py").write_text(MODULE)
    jobs = [
        {"id": name, "input": f"{name}.in", "output": f"out/{name}.txt"}
        for name in ("a", "bad", "ccc")
    ]
    (tmp_path / "jobs.jsonl").write_text("\n\n".join(map(json.dumps, jobs)) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "my_work", raising=False)
    return tmp_path


def batch(*options: str, worker: str = "my_work:work") -> int:
    return cli.main(["batch", "jobs.jsonl", "--worker", worker, *options])


def eval_(
    *options: str, sampler: str = "my_work:make_sampler", policy: str = "my_work:push"
) -> int:
    return cli.main(["eval", sampler, "--policy", policy, "--processes", "0", *options])


@pytest.mark.parametrize("backend", ["process", "inline"])
def test_batch(backend: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch("--max-workers", "2", "--backend", backend, "--manifest", "m.json") == 1
    out, err = capsys.readouterr()
    assert "m.json: 2 done, 0 skipped, 1 failed" in out
    assert "bad on purpose" in out
    assert "ValueError" in out
    assert err == ""
    assert (directory / "out" / "ccc.txt").read_text() == "ccc"
    (directory / "out" / "bad.txt").touch()
    assert batch("--backend", backend, "--manifest", "m.json") == 1, "a failure is not done"
    assert "0 done, 2 skipped, 1 failed" in capsys.readouterr().out
    assert batch("--backend", backend, "--manifest", "m.json", "--force") == 1
    assert "2 done, 0 skipped, 1 failed" in capsys.readouterr().out


def test_batch_without_failures(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "jobs.jsonl").write_text('{"id": 1, "motion": "x", "output": "y"}')
    assert batch("--backend", "inline") == 0
    assert capsys.readouterr().out == "run.json: 1 done, 0 skipped, 0 failed\n"
    assert BatchManifest.load("run.json").success_count == 1


def test_batch_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    assert batch("--backend", "inline", worker="my_work:stop") == 130
    assert "3 of 3 jobs are left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("jobs", "options", "expected"),
    [
        ("", [], "there is no job in it"),
        ("{", [], "line 1: Invalid JSON"),
        ('{"id": "a", "output": "b"}', [], "line 1: input: Field required"),
        ("[1]", [], "line 1"),
        (None, ["--max-workers", "0"], "--max-workers: must be"),
        (None, ["--worker", "my_work"], "must be MODULE:FUNCTION"),
        (None, ["--worker", "my_work:number"], "--worker my_work:number: it is a int"),
        (None, ["--worker", "no_such:work"], "cannot be imported"),
        (None, ["--backend", "threads"], "--backend"),
    ],
)
def test_batch_refuses(
    jobs: str | None,
    options: list[str],
    expected: str,
    directory: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if jobs is not None:
        (directory / "jobs.jsonl").write_text(jobs)
    assert batch(*options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vectasks: ")
    assert err.count("\n") == 1
    assert expected in err
    assert not (directory / "run.json").exists()


def test_batch_tells_of_a_second_run(capsys: pytest.CaptureFixture[str]) -> None:
    from vectasks.evaluation.run_log import RunLog

    with RunLog("run.json", []):
        assert batch() == 2
    assert "another run is writing to run.json" in capsys.readouterr().err


def test_eval_and_report(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="films need the video extra")
    arguments = json.dumps({"height_px": 16, "width_px": 16, "channels": 3, "max_steps": 4})
    options = ["--samplers", "2", "--args", arguments, "--episodes", "5", "--videos", "1"]
    assert eval_(*options) == 0
    out = capsys.readouterr().out
    assert "run.json: 5 episodes, 0 failed" in out
    assert "return" in out
    assert (directory / "run.videos" / "episode-000000.mp4").exists()
    assert cli.main(["report", "run.json", "-o", "report.html"]) == 0
    assert capsys.readouterr().out.startswith("report.html: ")
    assert "data:video/mp4;base64," in (directory / "report.html").read_text()


def test_eval_of_a_list_of_tasks_and_of_all_tasks(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "tasks.jsonl").write_text('1\n{"x": 2}\n\n"three"\n')
    assert eval_("--tasks", "tasks.jsonl") == 0
    assert "3 episodes" in capsys.readouterr().out
    assert eval_("--args", '{"num_tasks": 2}', "--samplers", "3", "--manifest", "all.json") == 0
    assert "6 episodes" in capsys.readouterr().out


def test_eval_says_what_its_statistics_left_out(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eval_("--episodes", "3", "--samplers", "1") == 0
    assert "left out" not in capsys.readouterr().out
    options = ["--episodes", "3", "--samplers", "1", "--manifest", "odd.json"]
    assert eval_(*options, sampler="my_work:make_odd_sampler") == 0
    out = capsys.readouterr().out
    assert "left out: values that are NaN, infinite or no number" in out
    (line,) = (line for line in out.splitlines() if line.startswith("score"))
    assert line.split()[-1] == "2"


def test_names_that_are_no_text_can_be_told(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = {"id": "bad\udc80", "input": "x", "output": "o\0"}
    (directory / "jobs.jsonl").write_text(json.dumps(job))
    assert batch("--backend", "inline", "--manifest", "\udc80.json") == 1
    out = capsys.readouterr().out
    assert "bad\\udc80" in out
    assert "\\udc80.json: 0 done" in out
    assert cli.main(["report", "\udc80.json", "-o", "\udc81.html"]) == 0
    assert "bad\\udc80" in Path("\udc81.html").read_text("utf-8")


def test_eval_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_("--episodes", "3", policy="my_work:tire") == 130
    assert "the same command plays the rest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--episodes", "0"], "--episodes: must be"),
        (["--episodes", "2", "--tasks", "t"], "not allowed with"),
        (["--tasks", "no-such-file"], "no-such-file"),
        ([], "say how many episodes"),
        (["--args", "[]"], "must be a JSON object"),
        (["--args", '{"num_tasks": 1}', "--episodes", "9"], "have 4 tasks together"),
        (["--policy", "my_work:nothing"], "my_work has no nothing"),
    ],
)
def test_eval_refuses(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eval_(*options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err


@pytest.mark.parametrize(
    ("module", "argv"),
    [
        ("pydantic", ["report", "run.json", "-o", "report.html"]),
        ("jinja2", ["report", "run.json", "-o", "report.html"]),
        ("filelock", ["batch", "jobs.jsonl", "--worker", "my_work:work"]),
        ("scipy.stats", ["eval", "my_work:make_sampler", "--policy", "my_work:push"]),
    ],
)
def test_a_missing_package_names_the_extra(module: str, argv: list[str], directory: Path) -> None:
    more = ["--episodes", "2", "--processes", "0"] if argv[0] == "eval" else []
    script = f"import sys; sys.modules[{module!r}] = None\nfrom vectasks.cli import main as cli\n"
    script += f"sys.exit(cli.main({[*argv, *more]!r}))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=directory, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert f"{module} is needed" in done.stderr
    assert 'pip install "vectasks[evaluation]"' in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (directory / "run.json").exists(), "it is found before anything is run"


def test_report_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "run.json", "-o", "report.html"]) == 2
    assert "there is no manifest run.json" in capsys.readouterr().err
    assert cli.main(["report", "run.json", "-o", "x.html", "--confidence", "95"]) == 2
    assert "between 0 and 1" in capsys.readouterr().err


def test_the_command_is_the_function(directory: Path) -> None:
    """The same seed, samplers and policy: the same numbers."""
    from vectasks.testing.toys import CountingTask, ToySampler, toy_args

    assert eval_("--episodes", "4", "--samplers", "2", "--args", '{"max_steps": 3}') == 0
    report = evaluate(
        lambda observations: [1] * len(observations),
        ToySampler,
        toy_args(CountingTask, 2, max_steps=3, sampler=[0, 0]),
        episodes=4,
        max_processes=0,
    )
    lines = [json.loads(line) for line in Path("run.episodes.jsonl").read_text().splitlines()]
    assert [line["metrics"] for line in lines] == [result.metrics for result in report.episodes]
