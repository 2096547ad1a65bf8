"""Many files, the thread that writes them, the recorder in the vector's place, and full disks."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import threading
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.rendering.video_helpers import ColourSampler, FakeVector, is_like, read
from vectasks import (
    COMPLETE_TASK_METRICS_KEY,
    SingleProcessVectorSampledTasks,
    VectorSampledTasks,
)
from vectasks.errors import InvalidArgument, UsageError
from vectasks.protocol import SamplerState
from vectasks.rendering import notebook
from vectasks.rendering.encoders import Mp4Encoder
from vectasks.rendering.episode_captions import EpisodeCount
from vectasks.rendering.film import Film, FilmThread, Shot
from vectasks.rendering.video import VideoRecorder
from vectasks.task import RLStepResult


@pytest.fixture
def tasks():
    arguments = [{"sampler": i, "num_tasks": 9} for i in range(2)]
    with SingleProcessVectorSampledTasks(ColourSampler, arguments) as tasks:
        yield tasks


def assert_colours(path, colours):
    frames = read(path)[0]
    assert len(frames) == len(colours)
    for frame, colour in zip(frames, colours, strict=True):
        assert is_like(frame, colour), (path.name, colour)


# -- files of their own ---------------------------------------------------------------------------


def test_one_file_a_sampler_beside_the_tiled_one(tmp_path):
    tasks, path = FakeVector(), tmp_path / "x.mp4"
    tasks.size_px[1] = (64, 64)
    with VideoRecorder(tasks, path, per_sampler=True) as recorder:
        recorder.step([0, 0])
        tasks.sampler_states[0] = SamplerState.PAUSED
        recorder.step([0])
    assert recorder.paths == [path, tmp_path / "x-sampler0.mp4", tmp_path / "x-sampler1.mp4"]
    assert read(path)[0].shape == (3, 64, 128, 3)
    assert read(recorder.paths[1])[0].shape == (2, 32, 48, 3)  # its own size; not while paused
    assert read(recorder.paths[2])[0].shape == (3, 64, 64, 3)
    assert_colours(recorder.paths[2], [(100, 0, 20 * step) for step in range(3)])


def test_every_second_episode_from_its_first_image_to_its_last(tmp_path, tasks):
    recorder = VideoRecorder(tasks, tmp_path / "x.mp4", every_episodes=2)
    with recorder:
        for _ in range(9):  # an episode is two steps long
            results = recorder.step([0, 0])
            assert not any({"frame", "final_frame"} & result.info.keys() for result in results)
    whole = {
        f"x-sampler{sampler}-episode{number}.mp4": (sampler, number - 1)
        for sampler in (0, 1)
        for number in (1, 3, 5)
    }
    assert {path.name for path in tmp_path.iterdir()} == set(whole)
    assert {path.name for path in recorder.paths} == set(whole)
    for name, (sampler, episode) in whole.items():
        steps = 2 if episode == 4 else 3  # the last one was cut short
        colours = [(50 + 100 * sampler, 40 * episode, 60 * step) for step in range(steps)]
        assert_colours(tmp_path / name, colours)


def test_nothing_is_rendered_between_the_filmed_episodes(tmp_path):
    tasks = FakeVector(count=1, episode_length=2)
    rendered = []
    image = tasks.image
    tasks.image = lambda i: rendered.append(tasks.counts[0][0]) or image(i)
    step = tasks.step

    def resampling_step(actions):
        return [
            r._replace(info={**r.info, "final_observation": 0} if r.done else r.info)
            for r in step(actions)
        ]

    tasks.step = resampling_step
    with VideoRecorder(tasks, tmp_path / "x.mp4", every_episodes=3) as recorder:
        for _ in range(6):
            recorder.step([0])
            assert tasks.keeping[0] == ("all" if tasks.counts[0][0] in (0, 3) else "none")
    assert set(rendered) == {0, 3}


def test_an_episode_that_is_skipped_ends_its_file(tmp_path, tasks):
    with VideoRecorder(tasks, tmp_path / "x.mp4", every_episodes=1) as recorder:
        recorder.step([0, 0])
        recorder.next_task_at(0)
        recorder.step([0, 0])
    assert_colours(tmp_path / "x-sampler0-episode1.mp4", [(50, 0, 0), (50, 0, 60)])
    assert_colours(tmp_path / "x-sampler0-episode2.mp4", [(50, 40, 0), (50, 40, 60)])
    assert_colours(tmp_path / "x-sampler1-episode1.mp4", [(150, 0, 0), (150, 0, 60), (150, 0, 120)])


@pytest.mark.parametrize("option", ["every_episodes", "columns", "fps"])
def test_numbers_of_numpy(tmp_path, option):
    for kind in (np.int64, np.uint8, *([np.float32] if option == "fps" else [])):
        with VideoRecorder(FakeVector(), tmp_path / "x.mp4", **{option: kind(2)}) as recorder:
            recorder.step([0, 0])


@pytest.mark.parametrize("option", ["every_episodes", "columns"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_numbers_out_of_range(tmp_path, option, value):
    with pytest.raises(InvalidArgument, match=option):
        VideoRecorder(FakeVector(), tmp_path / "x.mp4", **{option: value})


# -- in the vector's place ------------------------------------------------------------------------


def test_it_stands_for_the_vector(tmp_path):
    arguments = [{"sampler": i, "num_tasks": 9} for i in range(2)]
    recorder = VideoRecorder(
        VectorSampledTasks(ColourSampler, arguments, max_processes=1), tmp_path / "x.mp4"
    )
    assert recorder.num_unpaused_tasks == 2
    recorder.step([0, 0])
    recorder.async_step([0, 0])
    assert [r.done for r in recorder.wait_step()] == [True, True]
    with pytest.raises(UsageError, match="send"):
        recorder.send([0, 0])
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = recorder.no_such_thing
    recorder.close()
    assert recorder.is_closed
    recorder.close()
    frames = read(tmp_path / "x.mp4")[0]
    for frame, step in zip(frames, (0, 1, 2), strict=True):
        assert is_like(frame[:, :32], (50, 0, 60 * step))


def test_batches_are_filmed_and_stay_as_they_are(tmp_path, tasks):
    tasks_alone = [tasks.step_batch([0, 0]) for _ in range(2)]
    tasks.reset_all()
    with VideoRecorder(tasks, tmp_path / "x.mp4") as recorder:
        batches = [recorder.step_batch([0, 0]) for _ in range(2)]
    for filmed, alone in zip(batches, tasks_alone, strict=True):
        np.testing.assert_array_equal(filmed.reward, alone.reward)
        np.testing.assert_array_equal(filmed.done, alone.done)
        assert [set(info) for info in filmed.infos] == [set(info) for info in alone.infos]
    assert is_like(read(tmp_path / "x.mp4")[0][2][:, 32:], (150, 80, 120))


def test_who_forgets_to_close_it_has_the_video_all_the_same(tmp_path):
    script = """
import sys
from tests.rendering.video_helpers import FakeVector
from vectasks.rendering.video import VideoRecorder
recorder = VideoRecorder(FakeVector(), sys.argv[1])
recorder.step([0, 0])
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-B", "-c", script, tmp_path / "x.mp4"], cwd=root, check=True)
    assert len(read(tmp_path / "x.mp4")[0]) == 2


# -- success --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["success", "is_success"])
@pytest.mark.parametrize("place", ["metrics", "info"])
def test_success_is_told_and_counted(key, place):
    def ended(value):
        told = {key: value}
        return RLStepResult(
            None, 1.0, True, {COMPLETE_TASK_METRICS_KEY: told} if place == "metrics" else told
        )

    episode = EpisodeCount()
    episode.count(ended(np.bool_(True)))
    assert episode.caption(0) == ("sampler 0  episode 1  success 1/1", "step 1  return 1  success")
    episode.count(RLStepResult(None, 0.0, False, {}))
    assert episode.caption(0) == ("sampler 0  episode 2  success 1/1", "step 1  return 0")
    episode.count(ended(0.0))
    assert episode.caption(0)[0] == "sampler 0  episode 2  success 1/2"
    assert episode.caption(0)[1].endswith("  no success")


# -- the thread -----------------------------------------------------------------------------------


def test_it_encodes_in_another_thread_and_few_frames_wait(tmp_path, monkeypatch):
    may_encode, threads, convert = threading.Event(), set(), Mp4Encoder._convert

    def wait_and_convert(self, picture):
        threads.add(threading.get_ident())
        assert may_encode.wait(60)
        return convert(self, picture)

    monkeypatch.setattr(Mp4Encoder, "_convert", wait_and_convert)
    film_thread = FilmThread()
    film = Film(tmp_path / "x.mp4", Mp4Encoder, Fraction(30))
    taken = []

    def write_ten():
        for number in range(10):
            film_thread.write(film, [Shot(np.zeros((32, 32, 3), np.uint8), None, True)])
            taken.append(number)

    writer = threading.Thread(target=write_ten)
    writer.start()
    writer.join(0.5)  # it must be stuck: ten frames do not fit
    assert writer.is_alive()
    assert 4 <= len(taken) <= 5
    may_encode.set()
    writer.join(60)
    film_thread.close()
    assert len(read(film.path)[0]) == 10
    assert threads.isdisjoint({threading.get_ident(), writer.ident})


def test_a_task_may_draw_into_the_same_array_again(tmp_path):
    tasks = FakeVector(count=1)
    canvas = np.zeros((32, 48, 3), np.uint8)

    def draw(i):
        canvas[:] = 40 * tasks.counts[i][1]
        return canvas

    tasks.image = draw
    with VideoRecorder(tasks, tmp_path / "x.mp4") as recorder:
        for _ in range(4):
            recorder.step([0])
    assert_colours(tmp_path / "x.mp4", [(40 * step,) * 3 for step in range(5)])


# -- what goes wrong ------------------------------------------------------------------------------


def fail_at(monkeypatch, failing_frame):
    convert = Mp4Encoder._convert

    def fail(self, picture):
        if picture.pts == failing_frame:
            raise OSError(28, "No space left on device")
        return convert(self, picture)

    monkeypatch.setattr(Mp4Encoder, "_convert", fail)


def twenty_steps(recorder):
    with recorder:
        for _ in range(20):
            assert len(recorder.step([0, 0])) == 2


def test_a_full_disk_is_told_once_and_the_rollout_goes_on(tmp_path, monkeypatch):
    fail_at(monkeypatch, 2)
    tasks = FakeVector()
    recorder = VideoRecorder(tasks, tmp_path / "x.mp4", per_sampler=True)
    with pytest.warns(RuntimeWarning, match="No space left on device.*goes on") as told:
        twenty_steps(recorder)
    assert len(told) == 1
    assert isinstance(recorder.error, OSError)
    assert recorder.paths == list(tmp_path.iterdir()) == []
    assert tasks.counts[0] == [0, 20]
    assert set(tasks.keeping.values()) == {"none"}
    assert "No space left" in recorder._repr_html_()


def test_a_full_disk_stops_the_rollout_if_asked(tmp_path, monkeypatch):
    fail_at(monkeypatch, 2)
    tasks = FakeVector()
    recorder = VideoRecorder(tasks, tmp_path / "x.mp4", on_error="raise")
    with pytest.raises(OSError, match="No space left"):
        twenty_steps(recorder)
    assert tasks.counts[0][1] < 20
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_told_before_the_first_step(tmp_path):
    with pytest.warns(RuntimeWarning, match="cannot be written.*goes on"):
        recorder = VideoRecorder(FakeVector(), tmp_path / "missing" / "x.mp4")
    with warnings.catch_warnings(), recorder:
        warnings.simplefilter("error")
        assert len(recorder.step([0, 0])) == 2
    assert isinstance(recorder.error, FileNotFoundError)


def test_on_error_is_one_of_two(tmp_path):
    with pytest.raises(InvalidArgument, match="on_error"):
        VideoRecorder(FakeVector(), tmp_path / "x.mp4", on_error="ignore")


# -- notebooks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("x.mp4", r'<video [^>]*src="data:video/mp4;base64,([^"]*)"'),
        ("x.gif", r'<img [^>]*src="data:image/gif;base64,([^"]*)"'),
    ],
)
def test_a_notebook_shows_the_video(tmp_path, name, pattern):
    with VideoRecorder(FakeVector(), tmp_path / name) as recorder:
        assert "recording" in recorder._repr_html_()
    (data,) = re.findall(pattern, recorder._repr_html_())
    assert base64.b64decode(data) == (tmp_path / name).read_bytes()


def test_large_and_lost_videos_are_only_named(tmp_path):
    path = tmp_path / "<x>.mp4"
    path.write_bytes(b"1234")
    assert "base64" in notebook.videos_html([path], max_bytes=4)
    both = notebook.videos_html([path, path], max_bytes=7)
    assert both.count("base64") == 1
    assert "&lt;x&gt;.mp4 (0 MiB: too large" in both
    path.unlink()
    assert "is gone" in notebook.videos_html([path])
    assert "no video" in notebook.videos_html([])


def test_display_outside_of_a_notebook(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with VideoRecorder(FakeVector(), tmp_path / "x.mp4") as recorder:
        pass
    with pytest.raises(ModuleNotFoundError, match="open the file"):
        recorder.display()
