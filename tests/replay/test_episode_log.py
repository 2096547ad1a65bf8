"""The journal's memory is bounded, and it says so where something is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from vectasks.host.task_host import HostPlan, HostReady
from vectasks.protocol import Command, StepOutcome
from vectasks.replay.episode_log import EpisodeLog, EpisodeRecorder
from vectasks.replay.recording import Passed
from vectasks.task import RLStepResult

PLAN = HostPlan(dict, {})
INDEPENDENT = HostReady(None, None, None, episodes_are_independent=True)
IDS = [0, 1]


WAYS = ("apart", "together")


@pytest.fixture(autouse=True, params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way a step is written down: its actions and what came of it, apart or together."""
    monkeypatch.setitem(globals(), "_way", request.param)


_way = ""


def packed(actions: Sequence[int], reward: Any, ended: tuple[int, ...] = ()) -> bytes:
    """A step of all, as the compiled core packs it."""
    array = np.array(actions, np.int64)
    small = ((array >= 0) & (array < 256)).all()
    flags = np.isin(np.arange(len(array)), ended)
    kind = np.uint8 if small else np.int64
    return array.astype(kind).tobytes() + flags.tobytes() + np.float32(reward).tobytes()


def wrote(journal: EpisodeLog, entry: bytes, ended: tuple[int, ...] = ()) -> None:
    """Append an entry as the core does, and tidy up where that is due."""
    journal.entries.append(entry)
    journal.ended(ended)
    if journal.num_usual_steps <= 0:
        journal.tidy_up()


def log_of(num_samplers: int, **options: Any) -> EpisodeLog:
    log = EpisodeLog([PLAN] * num_samplers, **options)
    log.pack_actions_as(np.zeros(num_samplers, np.int64))
    return log


def weighed(max_bytes: int) -> int:
    """As much memory for steps that are packed: these take less."""
    return max_bytes // 4 if _way == "together" else max_bytes


def step(journal: EpisodeLog, action: int, ended: tuple[int, ...] = ()) -> None:
    reward = np.full(2, action, np.float32)
    if _way == "together":
        wrote(journal, packed((action, action), reward, ended), ended)
        return
    journal.steps(IDS, np.full(2, action))
    journal.batch_came(IDS, reward, np.isin(IDS, ended).tobytes(), [{}, {}], lambda: None)


def came(journal: EpisodeLog, actions: Any, observation: Any) -> None:
    journal.steps(IDS, actions)
    reward = np.zeros(2, np.float32)
    journal.batch_came(IDS, reward, bytes(2), [{}, {}], lambda: observation)


def steps(journal: EpisodeLog, count: int, episode: int, **options: Any) -> None:
    """``count`` steps, in which sampler 0's episodes have a length, and sampler 1's do not end."""
    for k in range(count):
        step(journal, k, (0,) if (k + 1) % episode == 0 else ())


def test_independent_episodes_need_no_more_than_themselves() -> None:
    journal = log_of(2)
    for i in IDS:
        journal.ready(i, INDEPENDENT)
    for k in range(50_003):
        step(journal, k, (0, 1) if k % 100 == 99 else ())
    assert len(journal.entries) < 10_000
    recording = journal.recording(1)
    assert recording.actions == [50_000, 50_001, 50_002]
    assert recording.passed == [Passed(Command.NEXT_TASK, None, 500)]
    assert recording.gap is None


def test_dependent_episodes_are_kept_until_memory_is_used_up() -> None:
    journal = log_of(2, max_bytes=weighed(3_000_000))
    steps(journal, 5_000, episode=500)
    assert len(journal.recording(0).calls) == 5_000
    assert journal.recording(0).gap is None
    steps(journal, 15_003, episode=500)
    assert len(journal.entries) < 20_000
    recording = journal.recording(0)
    assert recording.actions == [15_000, 15_001, 15_002]
    assert recording.gap == "the actions of earlier episodes"
    assert recording.passed[0][:2] == (Command.NEXT_TASK, None)
    assert sum(item.times for item in recording.passed) <= 40
    endless = journal.recording(1)
    assert endless.gap == "the beginning of the episode"
    assert [call.data for call in endless.calls[-2:]] == [15_001, 15_002]
    assert [call.reward for call in endless.calls[-2:]] == [15_001.0, 15_002.0]


def test_a_new_episode_of_its_own_closes_the_gap() -> None:
    journal = log_of(2, max_bytes=weighed(1_000_000))
    journal.ready(0, INDEPENDENT)
    steps(journal, 12_000, episode=12_000)
    step(journal, 7)
    assert journal.recording(0).gap is None
    assert journal.recording(0).actions == [7]
    assert journal.recording(1).gap == "the beginning of the episode"
    journal.asked(1, Command.SEED, 5)
    journal.asked(1, Command.NEXT_TASK, {})
    step(journal, 8)
    assert journal.recording(1).gap is None
    assert journal.recording(1).actions == [8]


def test_a_seed_counts_only_if_the_next_task_follows_at_once() -> None:
    journal = log_of(2)
    step(journal, 1)
    journal.asked(0, Command.SEED, 5)
    journal.asked(0, Command.RESET, None)
    step(journal, 2)
    assert [call.command for call in journal.recording(0).calls] == [Command.RESET, Command.STEP]
    assert journal.recording(0).passed == [Passed(Command.SEED, 5)]
    journal.asked(0, Command.SEED, 6)
    step(journal, 3)  # draws from what was just seeded, perhaps
    journal.asked(0, Command.RESET, None)
    assert len(journal.recording(0).calls) == 5


def test_equal_commands_are_counted_not_listed() -> None:
    journal = log_of(2)
    journal.ready(0, INDEPENDENT)
    for _ in range(300):
        journal.asked(0, Command.NEXT_TASK, {"force": True})
    passed = journal.recording(0).passed
    assert passed == [Passed(Command.NEXT_TASK, {"force": True}, 299)]


def test_made_anew_forgets_what_was_and_ignores_what_was_out() -> None:
    journal = log_of(2)
    step(journal, 1)
    journal.steps(IDS, np.array([2, 2]))
    journal.made(0, PLAN._replace(seed=4))
    cut = StepOutcome(None, 0.0, True, {"worker_restarted": "died"}, False, True, False)
    journal.answers_came([0], {0: cut})
    journal.answers_came([1], {1: RLStepResult(None, 9.0, False, {})})
    step(journal, 3)
    recording = journal.recording(0)
    assert recording.plan.seed == 4
    assert recording.passed == []
    assert [(c.data, c.reward) for c in recording.calls] == [(3, 3.0)]
    assert [(c.data, c.reward) for c in journal.recording(1).calls] == [
        (1, 1.0),
        (2, 9.0),
        (3, 3.0),
    ]


def test_failed_commands_are_marked() -> None:
    journal = log_of(2)
    step(journal, 1)
    journal.steps([0], [2])
    journal.failed([0])
    journal.asked(0, Command.NEXT_TASK, {})
    journal.steps([0], [3])
    assert [(call.data, call.failed) for call in journal.recording(0).calls] == [
        (1, False),
        (2, True),
        ({}, False),
        (3, False),
    ]


@pytest.mark.parametrize("reward", [[1.0, 2.0], 1e300])
def test_rewards_of_any_form(reward: Any) -> None:
    journal = log_of(2)
    journal.steps([0], [2])
    journal.answers_came([0], {0: RLStepResult(None, reward, False, None)})
    assert journal.recording(0).calls[0].reward == (reward if reward != 1e300 else np.inf)


def test_actions_of_several_kinds_are_weighed() -> None:
    journal = log_of(2, max_bytes=8_000_000)
    for _ in range(5_000):  # 40 MB
        came(journal, [1, np.zeros(1_000)], np.zeros((2, 1)))
    assert journal.recording(0).gap == "the beginning of the episode"


def test_observations_of_a_recorder_are_weighed() -> None:
    journal = log_of(2, max_bytes=8_000_000)
    observation = np.zeros((2, 1_000))
    with EpisodeRecorder(journal, IDS, observations=True, max_episodes=None):
        for _ in range(5_000):  # 80 MB
            came(journal, (1, 1), observation)
    recording = journal.recording(0)
    assert recording.gap == "the beginning of the episode"
    assert recording.calls[-1].observation.shape == (1_000,)


def test_steps_with_integers_of_any_size_are_read_as_they_were() -> None:
    actions = [(0, 255), (256, 1), (-1, 3), (7, 2**40), (5, 6)]
    journal = log_of(2)
    for k, pair in enumerate(actions):
        reward = np.array([k + 0.5, -k], np.float32)
        ended = (1,) if k == 3 else ()
        wrote(journal, packed(pair, reward, ended), ended)
    for i, rewards in ((0, [0.5, 1.5, 2.5, 3.5, 4.5]), (1, [0.0, -1.0, -2.0, -3.0, -4.0])):
        calls = journal.recording(i).calls
        assert [(call.data, call.reward) for call in calls] == list(
            zip([pair[i] for pair in actions], rewards, strict=True)
        )
        assert [call.done for call in calls] == [False, False, False, i == 1, False]
        assert all(type(call.data) is int for call in calls)


def test_small_integers_are_weighed() -> None:
    journal = log_of(1_000, max_bytes=1_000_000)
    entry = packed((1,) * 1_000, np.zeros(1_000))
    for _ in range(5_000):  # 30 MB
        wrote(journal, entry)
    assert journal.recording(0).gap == "the beginning of the episode"
    assert len(journal.entries) < 4_500
