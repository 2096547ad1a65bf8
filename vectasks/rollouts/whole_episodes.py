"""Collect whole episodes with a vector: exactly so many, short or long."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vectasks._util.checks import real_number, whole_number
from vectasks.batch import StepBatch
from vectasks.errors import InvalidArgument, SamplerUnavailable
from vectasks.host.task_host import COMPLETE_TASK_METRICS_KEY
from vectasks.rollouts.devices import Device, as_numpy, without_gradients
from vectasks.rollouts.episodes import Episode, stacked
from vectasks.rollouts.policy import Policy, asking, checked_decision
from vectasks.spaces import copy_arrays, map_leaves, nested_as
from vectasks.vector.port import port_of

if TYPE_CHECKING:
    from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks


def collect_episodes(
    tasks: VectorSampledTasks | SingleProcessVectorSampledTasks,
    policy: Policy,
    num_episodes: int,
    *,
    memory_shape: tuple[int, ...] | None = None,
    device: Any = None,
    min_batch: int | None = None,
    max_wait_s: float | None = None,
) -> list[Episode]:
    """Play exactly ``num_episodes`` whole episodes; nobody waits for the slowest.

    Which episodes these are is settled before the first step: of n samplers, episode k is number
    ``k // n``, from now, of sampler ``k % n``. So short ones are not preferred, as they are where
    one waits for the first so many to end. A sampler that has played its share is left at its next
    task.

    Samplers begin with a new task, unless they are at the beginning of one: nothing was done since
    the vector was made, or since the last call. An episode that a worker's death cut off
    (``on_worker_death="restart"``) does not count, and another is played.

    Args:
        tasks: the vector; paused samplers play none.
        policy: as for :func:`collect`: it is asked for whichever samplers are ready.
        num_episodes: how many.
        memory_shape: of what a recurrent policy remembers of a sampler; None: it is not recurrent.
        device: where the policy wants tensors; None: numpy arrays.
        min_batch: ask the policy only once so many samplers are ready, or all that still play
            (None: half of those that are out).
        max_wait_s: but wait no longer than so many seconds for them (None: as long as it takes).

    Returns:
        the episodes; ``run_id`` is their number k.

    Raises:
        InvalidArgument: an argument has a value that it cannot take, or the policy gives no action.
        SamplerUnavailable: a sampler has no further task, or failed.
        TaskError, LayoutError, WorkerDied: a step failed. After these, and after whatever the
            policy raises, no step is out.
    """
    num_episodes = whole_number("num_episodes", num_episodes, at_least=1)
    ids = tasks.sampler_ids
    if not ids:
        raise SamplerUnavailable("collect_episodes: every sampler is paused; call resume_all().")
    if min_batch is not None:
        min_batch = whole_number("min_batch", min_batch, at_least=1)
    if max_wait_s is not None:
        max_wait_s = real_number("max_wait_s", max_wait_s)
    shares = {i: range(k, num_episodes, len(ids)) for k, i in enumerate(ids)}
    playing = _Playing(tasks, policy, shares, memory_shape, Device(device, "collect_episodes"))
    with without_gradients(playing.device.device):
        try:
            return playing.run(min_batch, max_wait_s)
        except BaseException as error:
            port_of(tasks).drop_steps(error)
            raise


class _Playing:
    """The episodes that are played: one at a time of each sampler.

    Args:
        tasks: the vector.
        policy: acts.
        shares: the numbers of the episodes of each sampler, by id.
        memory_shape: of what the policy remembers of a sampler.
        device: where it is.
    """

    def __init__(
        self,
        tasks: Any,
        policy: Policy,
        shares: dict[int, range],
        memory_shape: tuple[int, ...] | None,
        device: Device,
    ) -> None:
        self.device = device
        self._tasks = tasks
        self._ask = asking(policy)
        self._numbers = {i: list(numbers) for i, numbers in shares.items() if numbers}
        self._memory_shape = memory_shape
        self._memories: dict[int, Any] = {}
        self._observations: dict[int, list[Any]] = {}
        self._decisions: dict[int, list[dict[str, Any]]] = {}
        self._rewards: dict[int, list[float]] = {}
        self._episodes: dict[int, Episode] = {}

    def run(self, min_batch: int | None, max_wait_s: float | None) -> list[Episode]:
        """Play all of them."""
        port, vector = port_of(self._tasks), self._tasks
        firsts = vector.get_observations() if port.is_at_starts else vector.next_task()
        for i, first in zip(vector.sampler_ids, firsts, strict=True):
            if i in self._numbers:
                self._begin(i, first)
        ready = sorted(self._numbers)
        out: set[int] = set()
        while ready or out:
            if ready:
                vector.send(self._act(ready), samplers=ready)
                out.update(ready)
            least = (len(out) + 1) // 2 if min_batch is None else min(min_batch, len(out))
            batch = vector.recv(1 if max_wait_s is not None else least, max_samplers=len(out))
            ready = self._take_in(batch, out)
            if max_wait_s is not None and out and len(ready) < least:
                count = min(least - len(ready), len(out))
                more = vector.recv(count, max_samplers=len(out), max_wait_s=max_wait_s)
                ready = sorted([*ready, *self._take_in(more, out)])
        port.all_are_at_starts()
        return [self._episodes[k] for k in sorted(self._episodes)]

    def _begin(self, sampler_id: int, observation: Any) -> None:
        if observation is None:
            raise SamplerUnavailable(
                f"collect_episodes: sampler {sampler_id} has no further task, and was to play "
                f"{len(self._numbers[sampler_id])} more episodes; ask for fewer, or reset_all()."
            )
        space = self._tasks.observation_space
        self._observations[sampler_id] = [nested_as(space, copy_arrays(observation, True))]
        self._decisions[sampler_id], self._rewards[sampler_id] = [], []
        if self._memory_shape is not None:
            self._memories[sampler_id] = np.zeros(self._memory_shape, np.float32)

    def _act(self, ids: Sequence[int]) -> Any:
        """Ask the policy for the actions of these samplers."""
        seen = stacked([self._observations[i][-1] for i in ids])
        inputs = [map_leaves(lambda leaf: self.device.send(np.asarray(leaf)), seen)]
        if self._memory_shape is not None:
            inputs.append(self.device.send(np.stack([self._memories[i] for i in ids])))
        decision = {n: as_numpy(v) for n, v in checked_decision(self._ask(inputs, ids)).items()}
        if ("memory" in decision) != (self._memory_shape is not None):
            raise InvalidArgument(
                'collect_episodes: a recurrent policy gives "memory", and memory_shape=(...) is '
                "given for it; here only one of the two is so."
            )
        for name, values in decision.items():
            if values.shape[:1] != (len(ids),):
                raise InvalidArgument(
                    f"collect_episodes: the policy's {name!r} has the shape {list(values.shape)}, "
                    f"expected [{len(ids)}, ...]: one for each sampler that it was asked for."
                )
        for k, i in enumerate(ids):
            its = {name: np.copy(values[k]) for name, values in decision.items()}
            if self._memory_shape is not None:
                self._memories[i] = its.pop("memory")
            self._decisions[i].append(its)
        return decision["action"]

    def _take_in(self, batch: StepBatch, out: set[int]) -> list[int]:
        """Take in what steps gave; whose sampler is to go on."""
        ready = []
        for k, i in enumerate(batch.samplers.tolist()):
            out.discard(i)
            info = batch.infos[k]
            observation = map_leaves(operator.itemgetter(k), batch.observation)
            self._rewards[i].append(float(batch.reward[k]))
            if not batch.done[k]:
                self._observations[i].append(copy_arrays(observation, True))
            else:
                if "worker_restarted" not in info:
                    self._end(i, info, bool(batch.terminated[k]), bool(batch.truncated[k]))
                if not self._numbers[i]:
                    continue
                self._begin(i, None if batch.exhausted[k] else observation)
            ready.append(i)
        return ready

    def _end(self, i: int, info: dict[str, Any], terminated: bool, truncated: bool) -> None:
        final = nested_as(self._tasks.observation_space, info["final_observation"])
        decisions = self._decisions[i]
        kept = {name: np.stack([one[name] for one in decisions]) for name in decisions[0]}
        number = self._numbers[i].pop(0)
        self._episodes[number] = Episode(
            number,
            stacked([*self._observations[i], final]),
            kept.pop("action"),
            np.asarray(self._rewards[i], np.float64),
            terminated,
            truncated,
            info.get(COMPLETE_TASK_METRICS_KEY, {}),
            kept,
        )
