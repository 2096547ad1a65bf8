"""Where each sampler lives: in which worker its current task is, and where its next ones are made.

A sampler without spares lives in one worker for ever. With spares it has a *column* of workers, and
moves on to the one that prepared its next task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks.workers.base import Worker


class Homes:
    """The workers of a vector, and which of them each sampler lives in.

    Args:
        workers: by number. The first that names a sampler is its home; the others are its spares.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        first = {i: worker for worker in reversed(workers) for i in worker.sampler_ids}
        self._of = [first[i] for i in range(len(first))]
        #: By sampler id: the number of its home; a transport may lay it where workers see it.
        self.numbers: NDArray[np.int64] = np.array([home.number for home in self._of], np.int64)
        #: By number: how many samplers live in a worker.
        self.residents: NDArray[np.int64] = np.zeros(len(workers), np.int64)
        for home in self._of:
            self.residents[home.number] += 1

    def show_in(self, numbers: NDArray[np.int64]) -> None:
        """Keep the numbers in this array from now on."""
        numbers[:] = self.numbers
        self.numbers = numbers

    def of(self, sampler_id: int) -> Any:
        """The worker that a sampler lives in."""
        return self._of[sampler_id]

    def of_all(self, ids: Sequence[int]) -> Sequence[Any]:
        """The workers that some samplers live in, each once."""
        if len(self._workers) == 1:
            return self._workers if ids else ()
        if len(ids) == len(self._of):
            return [worker for worker in self._workers if self.residents[worker.number]]
        return list({self._of[i].number: self._of[i] for i in ids}.values())

    def ids_in(self, worker: Worker) -> tuple[int, ...]:
        """The samplers that live in a worker."""
        return tuple(i for i in worker.sampler_ids if self._of[i] is worker)

    def spares_of(self, sampler_id: int) -> list[Worker]:
        """The workers besides its home in which a sampler's tasks are made."""
        home = self._of[sampler_id]
        return [w for w in self._workers if w is not home and sampler_id in w.sampler_ids]

    def move(self, sampler_id: int, worker: Worker) -> None:
        """Let a sampler live in another worker of its column."""
        self.residents[self._of[sampler_id].number] -= 1
        self.residents[worker.number] += 1
        self._of[sampler_id] = worker
        self.numbers[sampler_id] = worker.number

    def workers_besides(self, homes: Iterable[Worker]) -> list[Worker]:
        """The other workers."""
        numbers = {worker.number for worker in homes}
        return [worker for worker in self._workers if worker.number not in numbers]
