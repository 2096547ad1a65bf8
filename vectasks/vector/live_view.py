"""Tell ``vectasks top`` about a vector while it runs."""

from __future__ import annotations

import os

from vectasks.monitoring.live_stats import LiveStats
from vectasks.vector.requests import Requests
from vectasks.vector.results import Counts
from vectasks.vector.states import SamplerStates
from vectasks.vector.supervision import Supervisor


class LiveView:
    """Brings the live stats up to date, now and then.

    Args:
        live_stats: where they stand.
        counts: of steps and episodes.
        states: of the samplers.
        supervisor: knows how often workers were restarted.
        requests: hold the workers.
    """

    def __init__(
        self,
        live_stats: LiveStats,
        counts: Counts,
        states: SamplerStates,
        supervisor: Supervisor,
        requests: Requests,
    ) -> None:
        self._live_stats = live_stats
        self._counts = counts
        self._states = states
        self._supervisor = supervisor
        self._requests = requests

    def call_came(self) -> None:
        """Note that a call came in; tell the rest if it is time to."""
        if self._live_stats.call_came():
            self.tell()

    def tell(self, error: BaseException | None = None) -> None:
        """Bring everything up to date, for whoever looks; show this error, if there is one."""
        if self._states.closed:
            return
        self._live_stats.tell(
            self._counts.steps,
            self._counts.episodes,
            self._supervisor.num_restarts,
            list(self._states.states.values()),
            self._requests.homes.numbers,
            [worker.pid or os.getpid() for worker in self._requests.workers],
        )
        if error is not None:
            self._live_stats.tell_error(error)
