"""Films that a recorder makes of a vector: encoded for real, and read back."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.rendering.video_helpers import ColourSampler, FakeVector, is_like, read
from vectasks import COMPLETE_TASK_METRICS_KEY, SingleProcessVectorSampledTasks
from vectasks.errors import InvalidArgument, TaskError, UsageError, VectorClosed, WrongCount
from vectasks.protocol import SamplerState
from vectasks.rendering import encoders, film
from vectasks.rendering.episode_captions import EpisodeCount
from vectasks.rendering.video import VideoRecorder
from vectasks.task import RLStepResult

SUFFIXES = [".mp4", ".gif"]


# -- on a vector that is a table of states --------------------------------------------------------


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".MP4"])
def test_one_frame_a_step_and_one_before(tmp_path, suffix):
    path = tmp_path / f"rollout{suffix}"
    with VideoRecorder(FakeVector(), path, fps=25) as recorder:
        for _ in range(4):
            recorder.step([0, 0])
    frames, _, rate = read(path)
    assert frames.shape == (5, 32, 96, 3)
    assert rate == 25
    for step, frame in enumerate(frames):
        assert is_like(frame[:, :48], (60, 0, 20 * step))
        assert is_like(frame[:, 48:], (100, 0, 20 * step))
    assert list(tmp_path.iterdir()) == [path]


def test_an_episode_ends_with_its_own_last_image(tmp_path):
    tasks, path = FakeVector(count=1, episode_length=3), tmp_path / "x.mp4"
    with VideoRecorder(tasks, path) as recorder:
        for _ in range(5):
            results = recorder.step([0])
            assert results == [r._replace(info={"id": 0}) for r in tasks.given]
            assert tasks.given[0].info.keys() - {"id"} == {
                "final_frame" if tasks.given[0].done else "frame"
            }
    told = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]  # (episode, step)
    for frame, (episode, step) in zip(read(path)[0], told, strict=True):
        assert is_like(frame, (60, 40 * episode, 20 * step))


def test_steps_that_were_made_elsewhere(tmp_path):
    tasks, path = FakeVector(count=1, episode_length=2), tmp_path / "x.mp4"
    with VideoRecorder(tasks, path) as recorder:
        for _ in range(2):
            recorder.capture(tasks.step([0]))
        recorder.capture()
        with pytest.raises(WrongCount, match="2 results for 1"):
            recorder.capture(tasks.given * 2)
    frames = read(path)[0]
    assert len(frames) == 4
    assert is_like(frames[2], (60, 0, 40))
    assert is_like(frames[3], (60, 40, 0))


def test_frames_are_asked_for_as_long_as_they_are_needed(tmp_path):
    tasks = FakeVector(count=3)
    tasks.sampler_states[1] = SamplerState.PAUSED
    with VideoRecorder(tasks, tmp_path / "x.mp4") as recorder:
        assert tasks.keeping == {0: "final", 1: "none", 2: "final"}
        tasks.sampler_states[1] = SamplerState.READY
        recorder.step([0, 0, 0])
        assert tasks.keeping == dict.fromkeys(range(3), "all")
        recorder.capture(tasks.step([0, 0, 0]))  # who steps elsewhere may not film every step
        assert tasks.keeping == dict.fromkeys(range(3), "final")
    assert tasks.keeping == dict.fromkeys(range(3), "none")


def test_a_vector_that_was_closed_inside(tmp_path):
    tasks = FakeVector()
    with VideoRecorder(tasks, tmp_path / "x.mp4"):
        tasks.is_closed = True
    assert len(read(tmp_path / "x.mp4")[0]) == 1


def test_who_does_not_run_keeps_the_place_dimmed(tmp_path):
    tasks, path = FakeVector(count=4), tmp_path / "x.mp4"
    tasks.sampler_states[3] = SamplerState.PAUSED  # never seen
    with VideoRecorder(tasks, path) as recorder:
        recorder.step([0] * 3)
        tasks.sampler_states.update({0: SamplerState.PAUSED, 1: SamplerState.EXHAUSTED})
        recorder.capture()
    before, after = read(path)[0][1:]
    assert is_like(before[:32, :48], (60, 0, 20))
    assert is_like(after[:32, :48], (20, 0, 6))
    assert is_like(after[:32, 48:], (33, 0, 6))
    assert is_like(after[32:, :48], (140, 0, 20))
    assert is_like(after[32:, 48:], (0, 0, 0))


def test_who_is_revived_is_seen_again(tmp_path):
    class Exhausting(FakeVector):
        def step(self, actions):
            results = super().step(actions)
            if results[0].done:
                self.sampler_states[0] = SamplerState.EXHAUSTED
            return results

    tasks, path = Exhausting(episode_length=4), tmp_path / "x.mp4"
    tasks.counts[0][1] = 2
    with VideoRecorder(tasks, path) as recorder:
        for _ in range(2):
            recorder.step([0, 0])
        tasks.sampler_states = dict.fromkeys(range(2), SamplerState.READY)  # as by reset_all()
        recorder.step([0, 0])
        assert tasks.keeping == {0: "all", 1: "all"}
    assert tasks.keeping == {0: "none", 1: "none"}
    last = read(path)[0][-1]
    assert is_like(last[:, :48], (60, 40, 20))
    assert is_like(last[:, 48:], (100, 0, 60))


def test_while_nobody_can_be_seen_nothing_is_written(tmp_path):
    tasks, path = FakeVector(count=1), tmp_path / "x.mp4"
    tasks.sampler_states[0] = SamplerState.PAUSED
    with VideoRecorder(tasks, path):
        pass
    assert list(tmp_path.iterdir()) == []
    with VideoRecorder(tasks, path) as recorder:
        tasks.sampler_states[0] = SamplerState.READY
        recorder.capture()
    assert len(read(path)[0]) == 1


def test_images_that_change_their_size_stay_in_their_tiles(tmp_path):
    tasks, path = FakeVector(), tmp_path / "x.mp4"
    with VideoRecorder(tasks, path) as recorder:
        tasks.size_px[0] = (80, 100)
        tasks.size_px[1] = (16, 24)
        recorder.step([0, 0])
    frames = read(path)[0]
    assert frames.shape == (2, 32, 96, 3)
    assert np.abs(frames[1][:, :46].astype(int) - (60, 0, 20)).mean() < 3
    assert is_like(frames[1][8:24, 60:84], (100, 0, 20))
    assert frames[1][:6, 52:].max() < 12


def test_columns(tmp_path):
    with VideoRecorder(FakeVector(count=3), tmp_path / "x.mp4", columns=1):
        pass
    assert read(tmp_path / "x.mp4")[0].shape == (1, 96, 48, 3)


# -- captions ---------------------------------------------------------------------------------


@pytest.fixture
def captions(monkeypatch):
    """Read what is written under the tiles, frame by frame: every line joined by " | "."""
    pytest.importorskip("cv2")
    told = []
    draw_caption = film.draw_caption

    def listen(lines, width_px):
        told.append(" | ".join(lines))
        return draw_caption(lines, width_px)

    monkeypatch.setattr(film, "draw_caption", listen)
    return told


def test_captions_tell_episode_step_and_return(tmp_path, captions):
    path = tmp_path / "x.mp4"
    with VideoRecorder(FakeVector(count=1, episode_length=2), path, captions=True) as recorder:
        for _ in range(3):
            recorder.step([0])
    assert captions == [
        "sampler 0  episode 1 | step 0  return 0",
        "sampler 0  episode 1 | step 1  return 1",
        "sampler 0  episode 1 | step 2  return 2",
        "sampler 0  episode 2 | step 1  return 1",
    ]
    frames = read(path)[0]
    assert frames.shape[2] == 160  # wide enough to be read
    assert frames[0, 32:].max() > 200
    assert frames[0, 36:].max(axis=(1, 2)).min() < 30  # black between the lines


def test_a_caption_that_is_too_long_is_drawn_smaller():
    pytest.importorskip("cv2")
    strip = film.draw_caption(["step 1", "x" * 80], 160)
    assert strip.shape == film.draw_caption(["", ""], 160).shape
    assert strip[:, -2:].max() == 0
    assert strip[14:].max() > 50


def test_several_agents_returns_are_added_up():
    episode = EpisodeCount()
    episode.count(RLStepResult(None, [1.0, 0.5], False, None))
    assert episode.caption(7) == ("sampler 7  episode 1", "step 1  return 1.5")


def test_waiting_for_the_others_is_no_step():
    episode = EpisodeCount()
    episode.count(RLStepResult(None, 2.0, True, {}))
    for _ in range(3):
        episode.count(RLStepResult(None, 0.0, True, {"waiting": True}))
    assert episode.caption(0)[1] == "step 1  return 2"
    episode.count(RLStepResult(None, 0.0, True, {"resampled": True}))
    assert episode.caption(0) == ("sampler 0  episode 2", "step 0  return 0")


def record(tasks, path, num_steps):
    with VideoRecorder(tasks, path, on_error="raise") as recorder:
        for _ in range(num_steps):
            recorder.step([0] * len(tasks.sampler_ids))


# -- what goes wrong ----------------------------------------------------------------------------


def test_other_suffixes_are_refused(tmp_path):
    for name in ("x.avi", "x", "mp4"):
        with pytest.raises(InvalidArgument, match=r"\.mp4 or \.gif"):
            VideoRecorder(FakeVector(), tmp_path / name)


@pytest.mark.parametrize(
    ("name", "fps"),
    [("x.mp4", 0), ("x.mp4", -1), ("x.mp4", float("nan")), ("x.mp4", float("inf")), ("x.gif", 51)],
)
def test_frame_rates_out_of_range(tmp_path, name, fps):
    with pytest.raises(InvalidArgument, match="fps"):
        VideoRecorder(FakeVector(), tmp_path / name, fps=fps)


def test_frame_rates_of_television(tmp_path):
    with VideoRecorder(FakeVector(), tmp_path / "x.mp4", fps=30000 / 1001) as recorder:
        recorder.step([0, 0])
    assert read(tmp_path / "x.mp4")[2] == Fraction(30000, 1001)


def test_no_such_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot be written.*missing/x\.mp4"):
        VideoRecorder(FakeVector(), tmp_path / "missing" / "x.mp4", on_error="raise")


def test_a_file_in_the_directorys_place(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="cannot be written"):
        VideoRecorder(FakeVector(), tmp_path / "file" / "x.mp4", on_error="raise")


def test_a_directory_in_the_files_place(tmp_path):
    (tmp_path / "x.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match="a directory has this name"):
        VideoRecorder(FakeVector(), tmp_path / "x.mp4", on_error="raise")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_directory_that_is_not_ours(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="cannot be written"):
            VideoRecorder(FakeVector(), tmp_path / "x.mp4", on_error="raise")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(("module", "captions"), [("av", False), ("cv2", True)])
def test_a_missing_library_is_named(tmp_path, monkeypatch, module, captions):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        VideoRecorder(FakeVector(), tmp_path / "x.mp4", captions=captions)


def test_nothing_is_left_of_a_recorder_that_is_never_entered(tmp_path):
    VideoRecorder(FakeVector(), tmp_path / "x.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_video_takes_no_more(tmp_path):
    recorder = VideoRecorder(FakeVector(), tmp_path / "x.mp4")
    with recorder:
        pass
    with pytest.raises(UsageError, match="is finished"):
        recorder.step([0, 0])
    with pytest.raises(UsageError, match="is finished"):
        recorder.capture()
    recorder.close()
    assert len(read(tmp_path / "x.mp4")[0]) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_video_so_far_is_kept_when_the_body_raises(tmp_path, error):
    path = tmp_path / "x.mp4"
    recorder = VideoRecorder(FakeVector(), path)

    def fail_after_a_step():
        with recorder:
            recorder.step([0, 0])
            raise error

    with pytest.raises(error):
        fail_after_a_step()
    assert len(read(path)[0]) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_video_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"older")
    with VideoRecorder(FakeVector(), path) as recorder:
        recorder.step([0, 0])
        assert path.read_bytes() == b"older"
    assert len(read(path)[0]) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("failing_frame", [0, 2])
def test_nothing_is_left_when_encoding_fails(tmp_path, monkeypatch, suffix, failing_frame):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"older")
    tasks = FakeVector()
    encoder_class = encoders._ENCODERS[suffix]
    convert = encoder_class._convert

    def fail(self, picture):
        if picture.pts == failing_frame:
            raise OSError("no space")
        return convert(self, picture)

    monkeypatch.setattr(encoder_class, "_convert", fail)
    with pytest.raises(OSError, match="no space"):
        record(tasks, path, num_steps=3)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"older"
    assert set(tasks.keeping.values()) == {"none"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on file sizes")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("limit_bytes", [100, 60_000])  # too little at the end, or on the way
def test_nothing_is_left_when_the_disk_is_full(tmp_path, suffix, limit_bytes):
    script = f"""
import resource, signal, sys
import numpy as np
from tests.rendering.video_helpers import FakeVector
from vectasks.rendering.video import VideoRecorder

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))
tasks, rng = FakeVector(), np.random.default_rng(0)
tasks.image = lambda i: rng.integers(0, 256, (64, 64, 3), np.uint8)
try:
    with VideoRecorder(tasks, sys.argv[1], on_error="raise") as recorder:
        for _ in range(20):
            recorder.step([0, 0])
except OSError as error:
    sys.exit(7)
"""
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-B", "-c", script, tmp_path / f"x{suffix}"], cwd=root, check=False
    )
    assert ended.returncode == 7
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_image_is_told_by_its_sampler(tmp_path):
    tasks, path = FakeVector(), tmp_path / "x.mp4"
    image = tasks.image
    tasks.image = lambda i: image(i) / 2 if tasks.counts[0][1] == 2 else image(i)
    with pytest.raises(InvalidArgument, match="image of sampler 0 is float64"):
        record(tasks, path, num_steps=2)
    assert len(read(path)[0]) == 2


def test_floats_and_lists_are_filmed_as_integers_are(tmp_path):
    films = []
    for number, convert in enumerate(
        (np.array, lambda x: x / 255, np.ndarray.tolist, lambda x: [x])
    ):
        tasks = FakeVector()
        image = tasks.image
        tasks.image = lambda i, convert=convert, image=image: convert(image(i))
        record(tasks, tmp_path / f"{number}.mp4", num_steps=2)
        films.append((tmp_path / f"{number}.mp4").read_bytes())
    assert films == films[:1] * 4


# -- the real thing -------------------------------------------------------------------------------


@pytest.fixture
def tasks():
    arguments = [{"sampler": 0, "num_tasks": 1}, {"sampler": 1, "num_tasks": 9}]
    with SingleProcessVectorSampledTasks(ColourSampler, arguments) as tasks:
        yield tasks


def test_a_real_vector(tmp_path, tasks):
    path = tmp_path / "x.mp4"
    with VideoRecorder(tasks, path) as recorder:
        recorder.step([0, 0])
        ended = recorder.step([0, 0])  # the first sampler has no other task
        assert [r.done for r in ended] == [True, True]
        assert not any({"frame", "final_frame"} & r.info.keys() for r in ended)
        assert all(COMPLETE_TASK_METRICS_KEY in r.info for r in ended)
        assert tasks.sampler_states[0] is SamplerState.EXHAUSTED
        recorder.capture()
        tasks.pause_at(0)
        recorder.step([0])
    left = [(50, 0, 0), (50, 0, 60), (50, 0, 120), (16, 0, 40), (16, 0, 40)]
    right = [(150, 0, 0), (150, 0, 60), (150, 0, 120), (150, 40, 0), (150, 40, 60)]
    frames = read(path)[0]
    assert len(frames) == len(left)
    for frame, left_colour, right_colour in zip(frames, left, right, strict=True):
        assert is_like(frame[:, :32], left_colour)
        assert is_like(frame[:, 32:], right_colour)

    tasks.step([0])  # ends an episode, and nobody asks for its last image any more
    assert not {"frame", "final_frame"} & tasks.step([0])[0].info.keys()


def test_a_real_task_that_fails(tmp_path, tasks):
    path = tmp_path / "x.gif"
    with VideoRecorder(tasks, path) as recorder:
        with pytest.raises(TaskError, match="told to"):
            recorder.step([0, "fail"])
        recorder.capture()
    first, second = read(path)[0]
    assert is_like(first[:, 32:], (150, 0, 0))
    assert is_like(second[:, :32], (50, 0, 60))
    assert is_like(second[:, 32:], (50, 0, 0))  # dimmed


def test_a_real_vector_that_was_closed_inside(tmp_path, tasks):
    path = tmp_path / "x.mp4"
    with VideoRecorder(tasks, path) as recorder:
        recorder.step([0, 0])
        tasks.close()
        with pytest.raises(VectorClosed):
            recorder.step([0, 0])
    assert len(read(path)[0]) == 2
