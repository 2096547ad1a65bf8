"""The episode log: what every sampler of a vector was asked, so that an episode can be replayed.

It is kept where requests are sent, not where tasks run: so it survives a worker that dies, and a
step of any number of samplers costs one entry for their actions and one for what came back.

::

    entries   ... | steps of 0..3 | results of 0..3 | seed of 1 | steps of 0..3 | results of 0..3
                          ▲ sampler 0's episode began here: what stands before is not needed for it

An episode is replayed from its sampler's arguments and seed, the tasks before it skipped, and
its actions. That is enough where a sampler says so (``episodes_are_independent``); otherwise what
happened in earlier episodes counts, and everything is kept since the sampler was made or since a
seed that its next task followed at once. The memory for it is bounded.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vectasks.host.task_host import HostPlan, HostReady
from vectasks.protocol import Command, Failure, StepOutcome
from vectasks.replay.recording import STARTS, Call, Passed, RecordedFailure, Recording, Recordings
from vectasks.replay.track import Track
from vectasks.spaces import copy_arrays, dispatch_rows, map_leaves
from vectasks.task import RLStepResult

__all__ = ["EpisodeRecorder"]

MAX_BYTES = 16 * 2**20
_LOOK_EVERY = 4096  # entries between two looks at what can be dropped
_PACKED_BYTES = 48  # of a packed step's object, and its place in the list
_ENTRY_BYTES = 200  # of an entry's objects, beside what its arrays hold

_RESULT_TYPES = frozenset({RLStepResult, StepOutcome})

# Kinds of entries. Plain tuples, since one or two are made a step: (kind, ids, ...); but for those
# that the compiled core packs: an object that is kept costs a trainer more than making it does, and
# one that the garbage collector looks at more still.
_STEPS, _RESULTS, _STEPPED, _CALL, _FAILED = range(5)

# Of the sampler, not of its task: they count for later episodes too.
_LASTING = frozenset({Command.SEED, Command.CALL_SAMPLER})
#: Later commands can depend on these.
KEPT = STARTS | _LASTING | {Command.STEP, Command.CALL, Command.SET_ATTR}


class EpisodeLog:
    """A log of what the samplers of one vector were asked and answered.

    Args:
        plans: what each sampler is made from, by id.
        max_bytes: about how much memory it takes at most.
    """

    def __init__(self, plans: Sequence[HostPlan], max_bytes: int = MAX_BYTES) -> None:
        #: What happened, in order; the compiled core appends to it.
        self.entries: list[tuple[Any, ...] | bytes] = []
        self._packed_actions: NDArray[Any] = np.empty(0)
        self._dropped = 0  # positions count from the very first entry
        self._tracks = [Track(plan, 0) for plan in plans]
        self._auto_resample = plans[0].auto_resample_when_done
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._num_weighed = 0
        self._next_look = _LOOK_EVERY
        self._ids: Sequence[int] = ()
        self._key: tuple[int, ...] = ()
        self._all = tuple(range(len(plans)))
        self.num_samplers: int = len(plans)
        self._recorders: tuple[EpisodeRecorder, ...] = ()
        self._with_turns: set[int] = set()  # samplers that go on by what they are asked
        self._hosts = [0] * len(plans)  # by sampler id: the number of the current host
        self._others: dict[tuple[int, int], Track] = {}  # by sampler id, of other hosts
        self._next: dict[int, _Next] = {}
        #: What was going on when a worker died that was restarted; of each sampler the last.
        self.interruptions: Recordings = Recordings()

    # -- writing ------------------------------------------------------------------------------

    def made(self, sampler_id: int, plan: HostPlan) -> None:
        """A sampler is made (again): what was before does not count for it."""
        self._tracks[sampler_id] = Track(plan, self._end)

    def interrupted(self, deaths: Mapping[int, tuple[Command, Any]]) -> None:
        """A worker died and is restarted: keep what its samplers were doing."""
        self.interruptions.update(self.recordings_of(deaths))

    def ready(self, sampler_id: int, ready: HostReady) -> None:
        """A sampler was made, and says what it takes to have its episodes again."""
        track = self._tracks[sampler_id]
        track.is_independent = ready.episodes_are_independent
        if track.plan.seed is None:
            track.plan = track.plan._replace(seed=ready.initial_seed)

    def takes_turns(self, sampler_id: int) -> None:
        """A sampler's hosts go on to its next tasks when, and as, they are asked to."""
        self._with_turns.add(sampler_id)

    def next_begins(
        self,
        sampler_id: int,
        host: int,
        plan: HostPlan | None,
        calls: Sequence[tuple[Command, Any]],
        has_others: bool,
    ) -> None:
        """A sampler's next task is there, and begins once its current one is written down.

        Args:
            sampler_id: whose.
            host: the number of the host that prepared it.
            plan: by which that was made for this task; None: it was there.
            calls: what it was asked for this task.
            has_others: whether the sampler has other hosts, whose episodes come in between.
        """
        self._next[sampler_id] = _Next(host, plan, calls, has_others)

    def begins_next(self, sampler_id: int) -> bool:
        """Go on to the task that :meth:`next_begins` told of, if there is one; whether."""
        if sampler_id not in self._next:
            return False
        host, plan, calls, has_others = self._next.pop(sampler_id)
        old = self._others[sampler_id, self._hosts[sampler_id]] = self._tracks[sampler_id]
        self._hosts[sampler_id] = host
        track = self._others.pop((sampler_id, host), None)
        if plan is not None or track is None:
            track = Track(plan or old.plan, self._end)
            track.is_independent = old.is_independent
            is_new = True
        else:
            is_new = False
        self._tracks[sampler_id] = track
        for command, data in calls:
            self.asked(sampler_id, command, data)
        if has_others and not is_new and not track.is_independent:
            track.begin_replay_at_episode()
            track.gap = "the actions of earlier episodes"
        return True

    def return_and_length(self, sampler_id: int, last_reward: Any = None) -> tuple[Any, int]:
        """Add up the rewards, and count the steps, of a sampler's current episode."""
        calls = self._calls(sampler_id, self._tracks[sampler_id].episode)
        steps = [call for call in calls if call.command is Command.STEP]
        rewards = [call.reward for call in steps if call.reward is not None]
        if last_reward is not None:  # which is not written down yet
            rewards.append(last_reward)
        return np.asarray(rewards, np.float64).sum(axis=0).tolist(), len(steps)

    def steps(self, ids: Sequence[int], actions: Any) -> None:
        """Some samplers are stepped.

        Args:
            ids: whose.
            actions: an array [n, ...], a tuple of n integers or a list of n others; nobody may
                write into it later.
        """
        if ids != self._ids:
            self._ids, self._key = list(ids), tuple(ids)
        self.entries.append((_STEPS, self._key, actions))

    def asked(self, sampler_id: int, command: Command, data: Any) -> None:
        """A sampler is given a command."""
        track = self._tracks[sampler_id]
        track.look = None
        if command is Command.SETUP:
            self.made(sampler_id, data)
        elif command is Command.STEP:
            self.steps((sampler_id,), [copy_arrays(data)])
        elif command not in KEPT:
            track.look = Call(command, data)
        else:
            data = copy_arrays(data)
            if command in STARTS:
                track.begin_episode(self._end, self._is_seeded(sampler_id))
            self.entries.append((_CALL, (sampler_id,), command, data))
            if command in STARTS or command in _LASTING:
                track.since.append(Passed(command, data))

    def batch_came(
        self,
        ids: Sequence[int],
        reward: NDArray[np.float32],
        flags: bytes,
        infos: Sequence[Mapping[str, Any]],
        observe: Callable[[], Any],
    ) -> None:
        """A step's results, a row for each of ``ids``; a byte of ``flags`` tells of an end."""
        if ids != self._ids:
            self._ids, self._key = list(ids), tuple(ids)
        seen = self._recorders and self._observations(ids, functools.partial(_row, observe()))
        self.entries.append((_RESULTS, self._key, reward.tobytes(), flags, seen))
        if 1 in flags:
            for k, i in enumerate(ids):
                if flags[k] and _is_end(infos[k]):
                    self._ended(i)
        if len(self.entries) >= self._next_look:
            self.tidy_up()

    def pack_actions_as(self, actions: NDArray[Any]) -> None:
        """Say what actions are in entries that the compiled core packs: an array of this form."""
        self._packed_actions = actions

    def ended(self, ids: Iterable[int]) -> None:
        """Write down whose episodes ended with the step that the compiled core wrote down last."""
        for i in ids:
            self._ended(i)

    @property
    def num_usual_steps(self) -> int:
        """So many steps may be appended to the entries before it has to be looked after."""
        return 0 if self._recorders else self._next_look - len(self.entries)

    def _unpacked(self, entry: tuple[Any, ...] | bytes) -> tuple[Any, ...]:
        if not isinstance(entry, bytes):
            return entry
        n, form = len(self._all), self._packed_actions
        # Actions, a byte each that tells of an end, and rewards as float32.
        size = len(entry) - 5 * n
        # Small integers are packed into a byte each.
        dtype = np.dtype(np.uint8) if size < form.nbytes else form.dtype
        actions = np.frombuffer(entry[:size], dtype).reshape(form.shape).astype(form.dtype)
        return _STEPPED, self._all, actions, entry[size + n :], entry[size : size + n], None

    def failed(self, ids: Iterable[int]) -> None:
        """The last command of some samplers raised, or their worker died."""
        self.entries += [(_FAILED, (i,)) for i in ids]

    def answers_came(self, ids: Sequence[int], values: Mapping[int, Any]) -> None:
        """Commands' answers by id, one by one; those that are a step's results are kept."""
        results = list(map(values.__getitem__, ids))
        kinds = set(map(type, results))
        if not kinds <= _RESULT_TYPES:
            ids = [i for i in ids if type(values[i]) in _RESULT_TYPES]
            if not ids:
                return
            results = [values[i] for i in ids]
        rewards: Any = [result[1] for result in results]
        with contextlib.suppress(TypeError):  # several agents: lists of rewards
            rewards = array("f", rewards).tobytes()
        seen = self._recorders and self._observations(ids, lambda k: results[k][0])
        # What ended an episode is a StepOutcome; the task's own result says that it goes on.
        flags = (
            bytes([bool(result[2]) for result in results])
            if StepOutcome in kinds
            else bytes(len(ids))
        )
        self.entries.append((_RESULTS, tuple(ids), rewards, flags, seen))
        if 1 in flags:
            for k, i in enumerate(ids):
                if flags[k] and _is_end(results[k][3]):
                    self._ended(i)
        if len(self.entries) >= self._next_look:
            self.tidy_up()

    def _is_seeded(self, sampler_id: int) -> bool:
        """Tell whether a sampler was seeded and took no step since, which may use the seed up."""
        track = self._tracks[sampler_id]
        if not any(item.command is Command.SEED for item in track.since):
            return False
        for entry in map(self._unpacked, reversed(self.entries)):
            if sampler_id in entry[1]:
                if entry[0] == _CALL and entry[2] is Command.SEED:
                    return True
                if entry[0] in (_STEPS, _STEPPED):
                    return False
        return False

    def _ended(self, sampler_id: int) -> None:
        """A sampler's step was its episode's last."""
        for recorder in self._recorders:
            recorder._take(sampler_id)
        if self._auto_resample and not self.begins_next(sampler_id):
            self._tracks[sampler_id].begin_next_episode(self._end)

    def _observations(self, ids: Sequence[int], observation_at: Any) -> dict[int, Any] | None:
        wanted = {i for recorder in self._recorders for i in recorder.observed}
        return {i: copy_arrays(observation_at(k)) for k, i in enumerate(ids) if i in wanted} or None

    # -- reading ------------------------------------------------------------------------------

    def recording(
        self, sampler_id: int, failure: RecordedFailure | None = None, *, with_look: bool = False
    ) -> Recording:
        """All that is needed to replay a sampler's current episode, up to now.

        Args:
            sampler_id: whose.
            failure: how the last command ended.
            with_look: whether the last command was one that changes nothing, and shall be included.
        """
        track = self._tracks[sampler_id]
        calls = self._calls(sampler_id, track.start_of_replay())
        if with_look and track.look is not None:
            calls.append(track.look)
        gap = track.gap if track.is_passed_whole else "the seeds and resets of its first episodes"
        passed = track.passed_before_replay()
        # In the others, a host that goes on by itself comes to the same tasks.
        plan = track.plan._replace(asks_for_next=sampler_id in self._with_turns)
        return Recording(sampler_id, plan, passed, calls, failure, gap)

    def recordings_of(self, failures: Mapping[int, tuple[Command, Any]]) -> Recordings:
        """A recording of each sampler that failed.

        Args:
            failures: by sampler id: the command, and what came instead of its answer.
        """
        return Recordings(
            {
                i: self.recording(i, _failure(command, value), with_look=command not in KEPT)
                for i, (command, value) in failures.items()
            }
        )

    def _calls(self, sampler_id: int, start: int) -> list[Call]:
        calls: list[Call] = []
        key: tuple[int, ...] = ()
        column = -1
        is_out = False  # a step whose answer has not been met yet
        for entry in map(self._unpacked, self.entries[max(0, start - self._dropped) :]):
            if entry[1] is not key:
                key = entry[1]
                column = key.index(sampler_id) if sampler_id in key else -1
            if column < 0:
                continue
            kind = entry[0]
            if kind in (_STEPS, _STEPPED):
                (action,) = dispatch_rows(entry[2][column : column + 1])
                calls.append(Call(Command.STEP, copy_arrays(action)))
                is_out = True
            if kind in (_RESULTS, _STEPPED):
                if is_out:
                    rewards, flags, seen = entry[-3:]
                    reward = (
                        rewards[column]
                        if isinstance(rewards, list)
                        else float(np.frombuffer(rewards, np.float32, 1, 4 * column)[0])
                    )
                    calls[-1] = calls[-1]._replace(
                        reward=reward,
                        done=bool(flags[column]),
                        observation=(seen or {}).get(sampler_id),
                    )
                is_out = False
            elif kind == _CALL:
                calls.append(Call(entry[2], entry[3]))
                is_out = False
            elif kind == _FAILED and calls:
                calls[-1] = calls[-1]._replace(failed=True)
                is_out = False
        return calls

    # -- what is not needed any more ------------------------------------------------------------

    @property
    def _end(self) -> int:
        return self._dropped + len(self.entries)

    def tidy_up(self) -> None:
        """Drop what no sampler's replay needs; and what one does, where memory is used up."""
        self._num_bytes += sum(map(_size_bytes, self.entries[self._num_weighed :]))
        self._num_weighed = len(self.entries)
        self._drop_before(min(track.start_of_replay() for track in self._tracks))
        if self._num_bytes > self._max_bytes:
            for track in self._tracks:
                if track.start_of_replay() < track.episode:
                    track.begin_replay_at_episode()
                    track.gap = "the actions of earlier episodes"
            self._drop_before(min(track.episode for track in self._tracks))
        if self._num_bytes > self._max_bytes:
            middle = self._dropped + len(self.entries) // 2
            for track in self._tracks:
                if track.episode < middle:
                    track.episode = middle
                    track.begin_replay_at_episode()
                    track.gap = "the beginning of the episode"
            self._drop_before(middle)
        self._next_look = len(self.entries) + _LOOK_EVERY

    def _drop_before(self, position: int) -> None:
        count = position - self._dropped
        if count > 0:
            self._num_bytes -= sum(map(_size_bytes, self.entries[:count]))
            del self.entries[:count]
            self._dropped = position
            self._num_weighed = len(self.entries)

    # -- recorders ------------------------------------------------------------------------------

    def attach(self, recorder: EpisodeRecorder) -> None:
        """Tell a recorder of every episode that ends from now on."""
        self._recorders = (*self._recorders, recorder)

    def detach(self, recorder: EpisodeRecorder) -> None:
        """Tell it no more."""
        self._recorders = tuple(other for other in self._recorders if other is not recorder)


class _Next(NamedTuple):
    """The task that a sampler goes on to; as for :meth:`EpisodeLog.next_begins`."""

    host: int
    plan: HostPlan | None
    calls: Sequence[tuple[Command, Any]]
    has_others: bool


class EpisodeRecorder:
    """Keeps every episode that ends while it is open; made by ``tasks.record_episodes()``.

    Attributes:
        recordings: the last ``max_episodes`` of them, in the order in which they ended.
    """

    def __init__(
        self,
        log: EpisodeLog,
        sampler_ids: Collection[int],
        observations: bool,
        max_episodes: int | None,
    ) -> None:
        self.recordings: deque[Recording] = deque(maxlen=max_episodes)
        self.observed: frozenset[int] = frozenset(sampler_ids if observations else ())
        self._sampler_ids = frozenset(sampler_ids)
        self._log = log
        log.attach(self)

    def close(self) -> None:
        """Keep no further episode; those that are kept stay. A second call does nothing."""
        self._log.detach(self)

    def _take(self, sampler_id: int) -> None:
        if sampler_id in self._sampler_ids:
            self.recordings.append(self._log.recording(sampler_id))

    def __enter__(self) -> EpisodeRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _failure(command: Command, value: Any) -> RecordedFailure:
    if isinstance(value, Failure):
        return RecordedFailure(command.label, value.type_name, value.message, value.traceback_text)
    return RecordedFailure(command.label, "WorkerDied", value.describe(), died=True)


def _row(observation: Any, k: int) -> Any:
    return map_leaves(operator.itemgetter(k), observation)


def _size_bytes(entry: tuple[Any, ...] | bytes) -> int:
    """About how much memory an entry holds."""
    if isinstance(entry, bytes):
        return _PACKED_BYTES + len(entry)
    size = _ENTRY_BYTES
    if entry[0] in (_STEPS, _STEPPED):
        actions = entry[2]
        if isinstance(actions, np.ndarray):
            size += actions.nbytes
        elif type(actions) is tuple:  # integers
            size += 8 * len(actions)
        else:
            size += _nested_bytes(actions)
    if entry[0] in (_RESULTS, _STEPPED):
        size += 5 * len(entry[1]) + (_nested_bytes(entry[-1]) if entry[-1] else 0)
    if entry[0] == _CALL:
        size += _nested_bytes(entry[3])
    return size


def _is_end(info: Any) -> bool:
    """Tell whether a done step ended an episode, and not its worker or the wait for others."""
    return not isinstance(info, Mapping) or not ("worker_restarted" in info or info.get("waiting"))


def _nested_bytes(value: Any) -> int:
    if isinstance(value, Mapping):
        return 64 + sum(map(_nested_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return 64 + sum(map(_nested_bytes, value))
    return 64 + (value.nbytes if isinstance(value, np.ndarray) else 0)
