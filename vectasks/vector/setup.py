"""Putting a vector together: its parts, who holds whom, and their start and end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vectasks.errors import SpaceMismatch
from vectasks.host.task_host import HostPlan, HostReady
from vectasks.monitoring.live_stats import LiveStats
from vectasks.monitoring.stats import figures
from vectasks.monitoring.timed_steps import TimedTransport
from vectasks.protocol import Command, Failure
from vectasks.replay.episode_log import EpisodeLog
from vectasks.spaces import ActionBatches, action_batches, are_alike, shared_space
from vectasks.transport import compiled
from vectasks.transport.base import StepTransport
from vectasks.transport.layout import Layout
from vectasks.vector.arguments import checked_sampler_args, one_seed_each
from vectasks.vector.calls import Calls
from vectasks.vector.episode_ends import EpisodeEnds
from vectasks.vector.exclusive import Guard
from vectasks.vector.live_view import LiveView
from vectasks.vector.next_tasks import NextTasks
from vectasks.vector.options import VectorOptions
from vectasks.vector.pictures import Pictures
from vectasks.vector.places import Place
from vectasks.vector.port import StepPort
from vectasks.vector.requests import Requests
from vectasks.vector.results import Counts, Results
from vectasks.vector.states import SamplerStates
from vectasks.vector.stepping import Spaces, Stepping
from vectasks.vector.supervision import Supervisor
from vectasks.vector.usual_steps import UsualSteps

logger: logging.Logger = logging.getLogger("vectasks")


class Core:
    """The parts of one vector.

    Args:
        make_sampler_fn: makes a task sampler.
        sampler_fn_args: one mapping of keywords per sampler.
        options: of the vector.
        place: where the samplers live.
    """

    stepping: Stepping
    port: StepPort
    spaces: Spaces
    transport: StepTransport | None = None
    next_tasks: NextTasks | None = None
    usual_steps: UsualSteps

    def __init__(
        self,
        make_sampler_fn: Callable[..., Any],
        sampler_fn_args: Sequence[Mapping[str, Any]] | None,
        options: VectorOptions,
        place: Place,
    ) -> None:
        arguments = checked_sampler_args(make_sampler_fn, sampler_fn_args)
        seeds = one_seed_each(options.seed, len(arguments))
        plans = [
            HostPlan(
                make_sampler_fn,
                sampler_args,
                place.mp_ctx,
                options.callback_sensors,
                options.auto_resample_when_done,
                seed,
                asks_for_next=options.task_source is not None or options.prepared_tasks > 0,
            )
            for sampler_args, seed in zip(arguments, seeds, strict=True)
        ]
        self.num_samplers: int = len(plans)
        self.sampler_fn_args: list[dict[str, Any]] = [dict(one) for one in arguments]
        self.options = options
        self._place = place
        self._traffic: dict[str, Any] = {
            "lane_bytes": {"slab": 0, "notes": 0, "pipe": 0},
            "off_slab": [],
        }
        self.guard: Guard = Guard(holds_ctrl_c=place.mp_ctx is not None)
        self.counts: Counts = Counts()
        self.states: SamplerStates = SamplerStates(len(plans))
        self.log: EpisodeLog = EpisodeLog(plans)
        self.supervisor: Supervisor = Supervisor(
            plans,
            self.states,
            self.log,
            restart_dead_workers=options.on_worker_death == "restart",
            max_restarts=options.max_restarts,
        )
        try:
            workers = place.make_workers(seeds, options)
            self.requests: Requests = Requests(workers, self.states, self.supervisor, self.log)
            self.next_tasks = self._next_tasks()
            self.live_stats: LiveStats = LiveStats(
                [worker.sampler_ids for worker in workers],
                timed=bool(options.timing),
                name=options.name or "vectasks",
            )
        except BaseException:
            place.close()
            raise
        self.live_view: LiveView = LiveView(
            self.live_stats, self.counts, self.states, self.supervisor, self.requests
        )
        self.results: Results = Results(
            self.counts, self.states, self.log, options.auto_resample_when_done, self.live_view.tell
        )
        self.calls: Calls = Calls(
            self.states,
            self.supervisor,
            self.requests,
            self.results,
            self.live_view,
            read_timeout=options.read_timeout,
            start_timeout_s=options.start_timeout_s,
        )
        self.pictures: Pictures = Pictures(self.calls, self.states)

    def _next_tasks(self) -> NextTasks | None:
        """Make what goes on to the next tasks, where hosts do not by themselves."""
        options, requests = self.options, self.requests
        if options.task_source is None and options.prepared_tasks == 0:
            return None
        return NextTasks(
            options.task_source,
            options.prepared_tasks,
            self._place.moves(requests.homes),
            requests,
            self.states,
            self.log,
            self.supervisor.plan_of,
            auto_resample=options.auto_resample_when_done,
        )

    def start(self) -> None:
        """Start the workers, set the samplers up, and choose how their steps travel."""
        ids = list(range(self.num_samplers))
        if self.options.timing:
            for worker, ring in zip(self.requests.workers, self.live_stats.rings, strict=False):
                worker.record_spans(ring)
        next_tasks = self.requests.next_tasks = self.next_tasks
        if next_tasks is not None:
            for i in ids:
                home = self.requests.homes.of(i)
                first = next_tasks.first_plan(i, self.supervisor.plan_of(i), home).first
                self.supervisor.amend_plan(i, first=first)
        started = self.requests.start(ids, self.options.start_timeout_s)
        ready: dict[int, HostReady] = self.results.unwrap(ids, Command.SETUP, started)
        self.spaces = self._shared_spaces([ready[i] for i in ids])
        transport = self._place.transport(self._layout(ready[0]), self.options, self.requests)
        self.requests.carry_steps_by(transport)
        if next_tasks is not None:
            next_tasks.begin(ready)
            transport = EpisodeEnds(transport, next_tasks)
        self.live_stats.show_tickets(transport.tickets_at)
        if self.options.timing:
            transport = TimedTransport(
                transport,
                self.live_stats.parent_recorder(),
                steps_sent=lambda: self.states.steps_sent,
                every_batch=self.options.timing == "all",
            )
        self.transport = transport
        self.stepping = Stepping(
            self.calls,
            transport,
            self.log,
            self.counts,
            self.spaces,
            self.guard,
            check_actions=self.options.check_actions,
            auto_resample=self.options.auto_resample_when_done,
        )
        self.usual_steps = UsualSteps(
            self.stepping,
            self.calls,
            transport,
            self.log,
            self.counts,
            self.live_stats,
            self.guard,
            auto_resample=self.options.auto_resample_when_done,
        )
        self.port = StepPort(
            self.stepping,
            self.calls,
            transport,
            self.spaces,
            self.guard,
            self.usual_steps,
            auto_resample=self.options.auto_resample_when_done,
        )
        self.live_view.tell()

    def _shared_spaces(self, ready: Sequence[HostReady]) -> Spaces:
        """Check that the samplers' observation spaces are equal, if they have to be."""
        observation = [one.observation_space for one in ready]
        action = [one.action_space for one in ready]
        check = self.options.check_actions
        if self.options.heterogeneous:
            return Spaces(observation, action, None, ActionBatches(None, check))
        for sampler_id, space in enumerate(observation):
            if not are_alike(observation[0], space):
                raise SpaceMismatch(
                    f"Sampler {sampler_id} has the observation space {space}, sampler 0 has "
                    f"{observation[0]}, and they differ in more than their bounds. Make them "
                    "equal, or make the vector with heterogeneous=True."
                )
        shared = shared_space(action)
        # Of actions that are held against different bounds, each is looked at by itself.
        batches = action_batches if shared is action[0] else ActionBatches
        return Spaces(observation, action, shared_space(observation), batches(shared, check))

    def _layout(self, ready: HostReady) -> Layout | None:
        """Lay out the arrays that samplers share; None: they share none."""
        if self.options.heterogeneous:
            return None
        action = self.spaces.action_batches.space
        return Layout.of(
            self.spaces.shared_observation,
            action if action is self.spaces.action[0] else None,
            ready.observation,
            self.num_samplers,
            len(self.requests.workers),
        )

    def stats(self) -> dict[str, Any]:
        """Count steps, episodes and restarts; with timing, say also where the time goes."""
        counts: dict[str, Any] = {
            "steps": self.counts.steps + self.usual_steps.num_steps,
            "episodes": self.counts.episodes,
            "restarts": self.supervisor.num_restarts,
            "core": compiled.kind(),
        }
        if self.next_tasks is not None:
            counts["next_tasks"] = self.next_tasks.counts._asdict()
        if not self.options.timing:
            return counts
        return {**counts, **figures(self.live_stats, self.num_samplers), **self._how_travelled()}

    def _how_travelled(self) -> dict[str, Any]:
        """Say what travelled how, in bytes, and which leaves have no array."""
        if self.transport is not None and self.requests.workers:  # else what was known at the end
            lane_bytes = dict(self.transport.bytes_of(self.counts.steps))
            lane_bytes["pipe"] = sum(worker.channel_bytes for worker in self.requests.workers)
            off_slab = list(self.transport.off_buffer)
            self._traffic = {"lane_bytes": lane_bytes, "off_slab": off_slab}
        return self._traffic

    def close(self) -> list[tuple[int, Failure]]:
        """End every worker, and let go of all memory; what closing raised, by sampler id."""
        if self.options.timing:
            self._how_travelled()
        try:
            return self.requests.close(self.options.close_grace_s)
        finally:
            if self.next_tasks is not None:
                self.next_tasks.close()
            if "usual_steps" in vars(self):  # it has started
                self.usual_steps.close()
            if self.transport is not None:
                self.transport.close()
            self._place.close()
            self.live_stats.close()
            self.states.uncollected = None
            self.states.closed = True
