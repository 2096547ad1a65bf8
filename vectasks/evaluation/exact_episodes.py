"""Evaluate a policy on exactly so many episodes, or exactly these tasks; each counts once."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vectasks._util.checks import checked_seed, real_number, whole_number
from vectasks._util.extras import require
from vectasks._util.files import replace_file
from vectasks.errors import InvalidArgument
from vectasks.evaluation.filming import EpisodeFilmer
from vectasks.evaluation.job_records import BatchRunRecord, RunStatus, now
from vectasks.evaluation.json_form import described, plain, to_json
from vectasks.evaluation.lockstep import Ended, EvaluationPolicy, EvaluationRun
from vectasks.evaluation.manifest import BatchManifest, History
from vectasks.evaluation.run_log import RunLog
from vectasks.evaluation.schedule import Slot, slots_for_episodes, slots_for_tasks, task_keywords
from vectasks.evaluation.statistics import Aggregate, aggregate_all, checked_confidence
from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks
from vectasks.vector.arguments import checked_sampler_args


class EpisodeResult(NamedTuple):
    """The result of one episode.

    Attributes:
        episode: its number, from 0.
        sampler: the sampler that it was played in, from 0.
        task: what ``tasks`` held for it; None where episodes were counted.
        metrics: its ``return`` (the sum of its rewards) and ``length`` (its steps), and what the
            task's ``metrics()`` told; empty where it failed.
        error: why it failed, or None.
        video: the film of it (of a failed one, as far as it came), or None.
    """

    episode: int
    sampler: int
    task: Any
    metrics: dict[str, Any]
    error: str | None = None
    video: Path | None = None


@dataclass(frozen=True)
class EvaluationReport:
    """The results of an evaluation.

    Attributes:
        episodes: one result an episode, in order; failed ones too.
        aggregates: of each metric that is a number, over the episodes that did not fail; each one
            says how many values it left out.
        manifest: one record an episode; None where no ``manifest_path`` was given.
        metrics_path: the JSON Lines file with one line an episode, or None.
    """

    episodes: tuple[EpisodeResult, ...]
    aggregates: dict[str, Aggregate]
    manifest: BatchManifest | None = None
    metrics_path: Path | None = None

    @property
    def num_failed(self) -> int:
        """The number of failed episodes."""
        return sum(result.error is not None for result in self.episodes)

    def __post_init__(self) -> None:
        object.__setattr__(self, "aggregates", _Aggregates(self.aggregates, self.episodes))


class _Aggregates(dict[str, Aggregate]):
    """Aggregates by the metric's name; a missing name's error says why there is none."""

    def __init__(
        self, aggregates: Mapping[str, Aggregate], episodes: Sequence[EpisodeResult]
    ) -> None:
        super().__init__(aggregates)
        self._episodes = episodes

    def __missing__(self, name: str) -> Aggregate:
        failed = [result for result in self._episodes if result.error is not None]
        told = [result.metrics[name] for result in self._episodes if name in result.metrics]
        reasons = [f"{name!r}: no episode has a number of this name"]
        if told:
            reasons.append(f"the first that has it has {told[0]!r:.80} ({type(told[0]).__name__})")
        if failed:
            reasons.append(
                f"{len(failed)} of {len(self._episodes)} failed, the first with {failed[0].error}"
            )
        raise KeyError("; ".join(reasons))


def evaluate(
    policy: EvaluationPolicy,
    make_sampler_fn: Callable[..., Any],
    sampler_fn_args: Sequence[Mapping[str, Any]],
    *,
    episodes: int | None = None,
    tasks: Iterable[Any] | None = None,
    seed: int | None = 0,
    max_processes: int | None = None,
    manifest_path: str | os.PathLike[str] | None = None,
    videos: int | Iterable[int] = (),
    fps: float = 30,
    confidence: float = 0.95,
    force: bool = False,
    on_episode: Callable[[EpisodeResult, int], None] | None = None,
    **vector_options: Any,
) -> EvaluationReport:
    """Play exactly ``episodes`` episodes, or exactly ``tasks``, and report the policy's metrics.

    Which episodes count is settled before the first step: episode k is task ``k // n`` of sampler
    ``k % n`` (of n samplers; one that has fewer tasks is skipped). So short episodes are not
    preferred, as they are where one waits for the first so many to end, and the result is the same
    for any number of processes. A sampler that is done is paused, and costs nothing more.

    With neither of the two, every task that the samplers have is played once.

    Args:
        policy: called as ``policy(observations)`` or ``policy(observations, action_spaces)``, lists
            with an entry for each sampler that still plays; returns one action for each.
        make_sampler_fn: makes a task sampler, as for :class:`VectorSampledTasks`.
        sampler_fn_args: one dict of keywords per sampler, as there.
        episodes: how many.
        tasks: instead, the tasks: a dict holds keywords for the sampler's ``next_task``, anything
            else is given to it as ``next_task(task=...)``. Whichever sampler is free takes the
            next one, seeded by ``seed`` plus the task's number.
        seed: sampler i is seeded by ``seed + i``; None leaves the samplers to themselves.
        max_processes: as for the vector; 0 plays in this process.
        manifest_path: keeps a record of each episode, so that an evaluation that was cut off goes
            on where it was; beside ``run.json``, ``run.episodes.jsonl`` has a line of metrics an
            episode and ``run.videos/`` the films.
        videos: film the first so many episodes, or the ones with these numbers.
        fps: frames a second of the films.
        confidence: the level of the intervals.
        force: play episodes again that have been played.
        on_episode: is called when an episode ends, with its result and the number of all episodes.
        **vector_options: further arguments of the vector.

    Raises:
        InvalidArgument: there are not so many tasks, or the manifest is of another evaluation.
        ManifestBusy: another evaluation is writing to this manifest.
        Exception: what the policy raises; with a manifest, the episodes that ended are kept.
            A task that raises, or whose worker dies, is a failed episode and ends no evaluation.
    """
    require("scipy.stats", "evaluation", "evaluate")  # not found out when all is played
    arguments = checked_sampler_args(make_sampler_fn, sampler_fn_args)
    if not callable(policy):
        raise InvalidArgument(f"policy must be callable, got {policy!r}.")
    listed = None if tasks is None else [_checked_task(task) for task in tasks]
    if episodes is not None:
        episodes = whole_number("episodes", episodes, at_least=1)
    if seed is not None:
        seed = checked_seed(seed)
    fps = real_number("fps", fps, positive=True)
    confidence = checked_confidence(confidence)
    videos = _checked_videos(videos)
    if episodes is not None and listed is not None:
        raise InvalidArgument("evaluate: give episodes or tasks, not both.")
    if listed is not None and not listed:
        raise InvalidArgument("tasks is empty: give at least one.")
    if videos and manifest_path is None:
        raise InvalidArgument("videos: they are kept beside the manifest; give a manifest_path.")
    if vector_options.get("task_source") is not None:
        raise InvalidArgument(
            "evaluate: task_source cannot be given, since evaluate says itself what is played; "
            "give the tasks as tasks=[...]."
        )
    if listed is not None and vector_options.get("prepared_tasks"):
        raise InvalidArgument(
            "evaluate: prepared_tasks cannot be given with tasks, each of which is seeded when it "
            "begins; give more processes by max_processes instead, or episodes instead of tasks."
        )
    wanted = episodes if listed is None else len(listed)
    make_vector: Any = SingleProcessVectorSampledTasks
    if max_processes != 0:
        make_vector = functools.partial(VectorSampledTasks, max_processes=max_processes)
    with make_vector(
        make_sampler_fn,
        arguments[:wanted],
        auto_resample_when_done=False,
        seed=seed,
        **vector_options,
    ) as vector:
        slots = slots_for_episodes(vector, episodes) if listed is None else slots_for_tasks(listed)
        files = None if manifest_path is None else _Files(Path(manifest_path))
        identity = {"seed": seed, "num_samplers": len(arguments) if listed is None else None}
        filmed = _filmed(videos, len(slots))
        films = {} if files is None else {episode: files.video(episode) for episode in filmed}
        records = _EpisodeRecords(slots, files, identity, films, force, on_episode)
        with records, EpisodeFilmer(vector, records.films_to_make(), fps) as filmer:
            EvaluationRun(vector, policy, records.to_play, seed, filmer, records.write).run()
    return records.report(confidence)


def _checked_task(task: Any) -> Any:
    """Check that JSON can hold a task of a list."""
    task_keywords(task)
    try:
        plain(task)
    except ValueError as error:
        raise InvalidArgument(
            f"tasks holds {task!r:.60}, which cannot be written down ({error}); give what the "
            "sampler finds its task by: a number, a name, a dict of these."
        ) from None
    return task


class _Files:
    """The paths of an evaluation's files, all beside its manifest."""

    def __init__(self, manifest: Path) -> None:
        self.manifest = manifest
        self.metrics: Path = manifest.with_name(f"{manifest.stem}.episodes.jsonl")

    def video(self, episode: int) -> Path:
        return self.manifest.with_name(f"{self.manifest.stem}.videos") / f"{_job_id(episode)}.mp4"


class _EpisodeRecords:
    """The episodes to play and the results so far: in memory and, if wanted, in files."""

    def __init__(
        self,
        slots: Sequence[Slot],
        files: _Files | None,
        identity: Mapping[str, Any],
        films: Mapping[int, Path],
        force: bool,
        on_episode: Callable[[EpisodeResult, int], None] | None,
    ) -> None:
        self._slots = slots
        self._files = files
        self._identity = identity
        self._films = films
        self._on_episode = on_episode
        self._results: dict[int, EpisodeResult] = {}
        self._log: RunLog | None = None
        self._exits = contextlib.ExitStack()
        earlier: Mapping[str, BatchRunRecord] = {}
        if files is not None:
            history = History.read(files.manifest)
            earlier = {} if history is None or force else history.records
        self._done = {
            slot.episode: record
            for slot in slots
            if (record := earlier.get(_job_id(slot.episode))) is not None
            and self._is_done(slot, record)
        }
        self.to_play = [slot for slot in slots if slot.episode not in self._done]

    def _is_done(self, slot: Slot, record: BatchRunRecord) -> bool:
        """Tell whether this record is of this episode, and the episode need not be played again."""
        known = {name: record.provenance.get(name) for name in ("task", *self._identity)}
        asked = {"task": slot.task, **self._identity}
        if to_json(known) != to_json(asked):  # NaN is no other task than NaN
            assert self._files is not None
            raise InvalidArgument(
                f"{self._files.manifest} holds another evaluation: {record.job_id} was played "
                f"with {known}, and is asked for with {asked}. Go on with the same arguments, give "
                "another manifest_path, or force=True to play all episodes again."
            )
        film = self._films.get(slot.episode)
        return record.status is not RunStatus.failed and (film is None or film.exists())

    def films_to_make(self) -> dict[int, Path]:
        """Return the paths of films that are wanted and missing, by episode."""
        missing = {slot.episode for slot in self.to_play}
        return {episode: film for episode, film in self._films.items() if episode in missing}

    def __enter__(self) -> _EpisodeRecords:
        if self._files is None:
            return self
        job_ids = [_job_id(slot.episode) for slot in self._slots]
        with contextlib.ExitStack() as exits:
            self._log = exits.enter_context(RunLog(self._files.manifest, job_ids))
            for folder in {film.parent for film in self._films.values()}:
                folder.mkdir(parents=True, exist_ok=True)
            for slot in self._slots:
                if slot.episode in self._done:
                    self._take_over(self._log, slot, self._done[slot.episode])
            self._rewrite_lines(self._files.metrics)
            exits.callback(self._rewrite_lines, self._files.metrics)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def _take_over(self, log: RunLog, slot: Slot, record: BatchRunRecord) -> None:
        """Keep the results of an earlier run."""
        video = record.output if record.provenance.get("video") else None
        result = EpisodeResult(
            slot.episode,
            record.provenance["sampler"],
            slot.task,
            record.provenance["metrics"],
            None,
            video,
        )
        moment = now()
        changes = {
            "status": RunStatus.skipped,
            "started_at": moment,
            "finished_at": moment,
            "message": "it was played already",
        }
        log.add(record.model_copy(update=changes))
        self._results[slot.episode] = result
        self._tell(result)

    def write(self, ended: Ended) -> None:
        """Record an episode that ended."""
        slot = ended.slot
        result = EpisodeResult(
            slot.episode,
            ended.sampler,
            slot.task,
            _plain_metrics(ended.metrics),
            None if ended.error is None else f"{ended.error_type}: {ended.error}",
            self._films.get(slot.episode),
        )
        self._results[slot.episode] = result
        if self._files is not None and self._log is not None:
            self._log.add(self._record(self._files, ended, result))
            with self._files.metrics.open("ab") as file:
                file.write(_line(result))
        self._tell(result)

    def _record(self, files: _Files, ended: Ended, result: EpisodeResult) -> BatchRunRecord:
        video = result.video
        return BatchRunRecord(
            job_id=_job_id(result.episode),
            input=Path(f"sampler-{result.sampler}"),
            output=video or files.metrics,
            status=RunStatus.success if result.error is None else RunStatus.failed,
            started_at=ended.started_at,
            finished_at=now(),
            message=ended.error or "",
            error_type=ended.error_type,
            traceback=ended.traceback,
            provenance={
                "episode": result.episode,
                "sampler": result.sampler,
                "task": result.task,
                **self._identity,
                "metrics": result.metrics,
                "video": video and video.relative_to(files.manifest.parent).as_posix(),
            },
        )

    def _tell(self, result: EpisodeResult) -> None:
        if self._on_episode is not None:
            self._on_episode(result, len(self._slots))

    def _rewrite_lines(self, path: Path) -> None:
        """Rewrite the lines of all ended episodes, in order, without half-written ones."""
        lines = [_line(self._results[episode]) for episode in sorted(self._results)]
        replace_file(path, b"".join(lines))

    def report(self, confidence: float) -> EvaluationReport:
        """Make the report."""
        results = tuple(self._results[slot.episode] for slot in self._slots)
        metrics = [result.metrics for result in results if result.error is None]
        return EvaluationReport(
            results,
            aggregate_all(metrics, confidence=confidence),
            None if self._log is None else self._log.manifest(),
            None if self._files is None else self._files.metrics,
        )


def _job_id(episode: int) -> str:
    return f"episode-{episode:06d}"


def _line(result: EpisodeResult) -> bytes:
    line = result._asdict()
    del line["video"]
    return to_json(line) + b"\n"


def _plain_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Convert metrics to JSON's types, and what JSON cannot hold to text."""
    kept = {}
    for name, value in metrics.items():
        try:
            kept[str(name)] = plain(value, otherwise=described)
        except Exception:  # user code: of the value, or it holds itself
            kept[str(name)] = described(value)
    return kept


def _checked_videos(videos: Any) -> int | list[int]:
    if isinstance(videos, Iterable) and not isinstance(videos, (str, bytes)):
        return [whole_number("an episode of videos", number) for number in videos]
    return whole_number("videos", videos)


def _filmed(videos: int | Collection[int], num_episodes: int) -> Collection[int]:
    if isinstance(videos, int):
        return range(min(videos, num_episodes))
    unknown = [number for number in videos if not 0 <= number < num_episodes]
    if unknown:
        raise InvalidArgument(
            f"videos={sorted(videos)}: episodes are numbered from 0 to {num_episodes - 1}."
        )
    return set(videos)
