"""Statistics, films and the page."""

from __future__ import annotations

import base64
import html.parser
import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from vectasks.evaluation import (
    BatchJob,
    BatchManifest,
    BatchRunner,
    aggregate,
    evaluate,
    write_report,
)
from vectasks.testing.toys import (
    CountingTask,
    FailingTask,
    ImageTask,
    InfoTask,
    ToySampler,
    toy_args,
)

av = pytest.importorskip("av", reason="films need the video extra")


@pytest.fixture(scope="session", autouse=True)
def fonts_are_open() -> None:
    """Matplotlib keeps the files of fonts open that it once used; no test is to blame for that."""
    figure = Figure()
    figure.subplots().set_title("any text")
    figure.savefig(io.BytesIO(), format="svg")


def push(observations: list[Any]) -> list[int]:
    return [1] * len(observations)


def num_frames(file: Any) -> int:
    with av.open(file) as container:
        return sum(1 for _ in container.decode(video=0))


# -- statistics -------------------------------------------------------------------------------


def test_aggregates_are_scipys() -> None:
    values = np.random.default_rng(0).normal(5, 2, 40)
    told = aggregate(values)
    assert told.n == 40
    assert told.mean == pytest.approx(values.mean())
    assert told.iqm == pytest.approx(np.sort(values)[10:30].mean())
    assert told.median == pytest.approx(np.median(values))
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert told.mean_interval == pytest.approx(tuple(expected))
    low, high = told.iqm_interval
    assert low is not None
    assert high is not None
    assert low < told.iqm < high
    assert aggregate(values) == told, "the same seed gives the same interval"
    narrower = aggregate(values, confidence=0.5).iqm_interval
    assert low < (narrower.low or 0) < (narrower.high or 0) < high


def test_the_interquartile_mean_withstands_outliers() -> None:
    assert aggregate([1, 2, 3, 4, 5, 6, 7, 1e9]).iqm == 4.5


def test_aggregates_of_few_and_of_equal_values() -> None:
    one = aggregate([3.0])
    assert (one.mean, one.iqm, one.std, one.mean_interval) == (3.0, 3.0, 0.0, (None, None))
    same = aggregate([2.0] * 5)
    assert same.mean_interval == same.iqm_interval == (2.0, 2.0)


def test_aggregates_say_what_they_left_out() -> None:
    told = aggregate(
        [1.0, np.nan, np.float32("inf"), None, "two", np.int8(3), 10**400, np.array(2)]
    )
    assert (told.n, told.left_out) == (3, 5)
    assert told[:-1] == aggregate([1.0, 3.0, 2.0])[:-1]
    assert aggregate([1.0]).left_out == 0
    nothing = aggregate([np.nan])
    assert (nothing.n, nothing.left_out, nothing.iqm_interval) == (0, 1, (None, None))
    assert np.isnan([nothing.mean, nothing.iqm, nothing.std, nothing.minimum]).all()


# -- films ------------------------------------------------------------------------------------


def film(directory: Path, **options: Any) -> Any:
    arguments = toy_args(
        ImageTask, 2, height_px=40, width_px=48, channels=3, max_steps=options.pop("max_steps", 3)
    )
    return evaluate(push, ToySampler, arguments, manifest_path=directory / "run.json", **options)


@pytest.mark.parametrize("max_processes", [0, 2])
def test_chosen_episodes_are_filmed(max_processes: int, tmp_path: Path) -> None:
    report = film(
        tmp_path, episodes=6, videos=[1, 4], max_processes=max_processes, max_steps=[3, 5]
    )
    paths = sorted((tmp_path / "run.videos").iterdir())
    assert [path.name for path in paths] == ["episode-000001.mp4", "episode-000004.mp4"]
    assert [result.video for result in report.episodes] == [
        None, paths[0], None, None, paths[1], None,
    ]  # fmt: skip
    # The first image and one a step: the last is the episode's own.
    assert [num_frames(str(path)) for path in paths] == [1 + 5, 1 + 3]
    assert report.manifest.records[1].output == paths[0]


def test_steps_without_an_info_are_filmed(tmp_path: Path) -> None:
    evaluate(
        push,
        ToySampler,
        toy_args(InfoTask, 1, step_info=None, max_steps=3),
        episodes=1,
        videos=1,
        max_processes=0,
        manifest_path=tmp_path / "run.json",
    )
    assert num_frames(str(tmp_path / "run.videos" / "episode-000000.mp4")) == 1 + 3


def test_films_that_are_asked_for_later(tmp_path: Path) -> None:
    film(tmp_path, episodes=3, max_processes=0)
    report = film(tmp_path, episodes=3, videos=1, max_processes=0)
    assert [r.status.value for r in report.manifest.records] == ["success", "skipped", "skipped"]
    assert num_frames(str(report.episodes[0].video)) == 1 + 3


def test_a_missing_film_is_made_again(tmp_path: Path) -> None:
    film(tmp_path, episodes=3, videos=2, max_processes=0)
    (tmp_path / "run.videos" / "episode-000001.mp4").unlink()
    report = film(tmp_path, episodes=3, videos=2, max_processes=0)
    assert [r.status.value for r in report.manifest.records] == ["skipped", "success", "skipped"]
    assert len(list((tmp_path / "run.videos").iterdir())) == 2


def test_the_film_of_a_failed_episode_shows_what_there_was(tmp_path: Path) -> None:
    report = evaluate(
        push,
        ToySampler,
        toy_args(FailingTask, 1, fail_episode=0, fail_step=3, max_steps=9),
        episodes=2,
        videos=2,
        max_processes=0,
        manifest_path=tmp_path / "run.json",
    )
    assert report.num_failed == 1
    assert [num_frames(str(result.video)) for result in report.episodes] == [1 + 2, 1 + 9]


# -- the page ---------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Reads a page: its tags all closed, its text, and what its data URIs hold."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.media: list[tuple[str, bytes]] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self._open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value is not None:
                self.links.append(value)
                kind, _, data = value.partition(";base64,")
                self.media.append(
                    (kind.removeprefix("data:"), base64.b64decode(data, validate=True))
                )

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def page_of(manifest_path: Path) -> Page:
    out = manifest_path.with_name("report.html")
    write_report(manifest_path, out)
    return Page(out.read_text(encoding="utf-8"))


def test_the_page_of_an_evaluation(tmp_path: Path) -> None:
    film(tmp_path, episodes=6, videos=2, max_processes=0, max_steps=[3, 5])
    page = page_of(tmp_path / "run.json")
    assert all(link.startswith("data:") for link in page.links), "it needs no file beside it"
    videos = [data for kind, data in page.media if kind == "video/mp4"]
    assert [num_frames(io.BytesIO(data)) for data in videos] == [4, 6]
    plots = [data for kind, data in page.media if kind == "image/svg+xml"]
    assert plots
    assert all(ElementTree.fromstring(data).tag.endswith("svg") for data in plots)
    for word in ("6 finished", "none failed", "return", "length", "IQM", "95%", "episode-000005"):
        assert word in page.text, word


def test_the_page_of_a_batch_escapes_and_shows_failures(tmp_path: Path) -> None:
    def work(job: BatchJob) -> dict[str, Any]:
        if job.id == "<b>":
            raise ValueError("a < b & c")
        job.output.touch()
        return {"score": int(job.id), "note": "<script>"}

    jobs = [
        BatchJob(id=i, input="in", output=tmp_path / f"{n}.txt")
        for n, i in enumerate(["1", "<b>", "3"])
    ]
    BatchRunner("inline").run(jobs, work, manifest_path=tmp_path / "run.json")
    page = page_of(tmp_path / "run.json")
    assert "1 failed" in page.text
    assert "ValueError: a < b & c" in page.text
    assert "<b>" in page.text
    assert "score" in page.text
    assert "in work" in page.text, "the traceback"
    assert "<script>" not in (tmp_path / "report.html").read_text()


def test_the_page_of_an_interrupted_run(tmp_path: Path) -> None:
    def stop(job: BatchJob) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BatchRunner("inline").run(
            [{"id": "a", "input": "in", "output": tmp_path / "a"}],
            stop,
            manifest_path=tmp_path / "run.json",
        )
    assert "1 not run yet" in page_of(tmp_path / "run.json").text


def test_the_page_shows_what_is_no_finite_number(tmp_path: Path) -> None:
    losses = {"a": np.nan, "b": 1.0, "c": np.inf, "d": 2.0}

    def work(job: BatchJob) -> dict[str, Any]:
        job.output.touch()
        name = "$\\frac{$ loss"  # no formula
        return {name: losses[job.name], "huge": 10**400, "text": "\udc80"}

    jobs = [
        BatchJob(id=f"{name}\udc80", name=name, input="in", output=tmp_path / name)
        for name in losses
    ]
    for _ in range(2):  # the second run skips all, and tells the same
        BatchRunner("inline").run(jobs, work, manifest_path=tmp_path / "run.json")
        page = page_of(tmp_path / "run.json")
        assert [kind for kind, _ in page.media] == ["image/svg+xml"]
        row = page.words[page.words.index("$\\frac{$ loss") :][:4]
        assert [word for word in row if word.strip()][:3] == ["$\\frac{$ loss", "2", "2"]
        for word in ("left out", "NaN, infinite or no number", "nan", "inf", "a\\udc80"):
            assert word in page.text, word


@pytest.mark.parametrize(
    ("values", "num_plots"),
    [
        ([1.0, 1.0000000000000002] * 5, 0),  # rounding errors are no spread
        ([1e308, -1e308], 0),
        ([1e308, 1.1e308, 1.7e308], 0),
        ([-1e299, 1e299], 1),
        ([0.0, 1e-310] * 5, 1),
        ([*np.linspace(0, 1e-9, 30), 1e9], 1),
    ],
)
def test_values_that_are_hard_to_plot(values: list[float], num_plots: int, tmp_path: Path) -> None:
    def work(job: BatchJob) -> dict[str, Any]:
        job.output.touch()
        return {"score": values[int(job.id)]}

    jobs = [{"id": n, "input": "in", "output": tmp_path / str(n)} for n in range(len(values))]
    BatchRunner("inline").run(jobs, work, manifest_path=tmp_path / "run.json")
    page = page_of(tmp_path / "run.json")
    assert len(page.media) == num_plots
    assert all(ElementTree.fromstring(data) is not None for _, data in page.media)


def test_the_page_does_not_take_the_place_of_its_manifest(tmp_path: Path) -> None:
    BatchRunner("inline").run([], print, manifest_path=tmp_path / "run.json")
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ValueError, match="take the place of its manifest"):
        write_report(tmp_path / "run.json", tmp_path / "run.json")
    assert (tmp_path / "run.json").read_bytes() == before


def test_films_beyond_the_limit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path, episodes=2, videos=2, max_processes=0)
    size = (tmp_path / "run.videos" / "episode-000000.mp4").stat().st_size
    monkeypatch.setattr("vectasks.evaluation.report.MAX_VIDEO_BYTES", size)
    page = page_of(tmp_path / "run.json")
    assert [kind for kind, _ in page.media].count("video/mp4") == 1
    assert "too large to embed" in page.text


def test_no_manifest_no_page(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "run.json", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_nothing(tmp_path: Path) -> None:
    BatchRunner("inline").run([], print, manifest_path=tmp_path / "run.json")
    assert "0 finished" in page_of(tmp_path / "run.json").text
    assert isinstance(BatchManifest.load(tmp_path / "run.json"), BatchManifest)


def test_toys_without_films(tmp_path: Path) -> None:
    evaluate(
        push,
        ToySampler,
        toy_args(CountingTask, 1),
        episodes=1,
        max_processes=0,
        manifest_path=tmp_path / "run.json",
    )
    page = page_of(tmp_path / "run.json")
    assert page.media == [], "one value has no spread to plot"
