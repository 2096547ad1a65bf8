"""The loop of on-policy training: look, act, and have the workers write down what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vectasks.rollouts.buffer import RolloutBuffer
from vectasks.rollouts.devices import without_gradients
from vectasks.rollouts.policy import Policy

if TYPE_CHECKING:
    from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks


class EpisodeEnd(NamedTuple):
    """An episode that ended while a rollout was collected.

    Attributes:
        step: the row of its last step in the buffer.
        sampler: the sampler's id.
        info: as ``step`` gives it, with the metrics and the final observation.
    """

    step: int
    sampler: int
    info: dict[str, Any]


def collect(
    tasks: VectorSampledTasks | SingleProcessVectorSampledTasks,
    policy: Policy,
    buffer: RolloutBuffer,
) -> list[EpisodeEnd]:
    """Step all samplers ``buffer.horizon`` times, and fill the buffer with what comes of it.

    The next rollout goes on where this one ended. If anything else stepped or changed the tasks in
    between, it goes on from what they show now, and every sampler counts as starting anew.

    Returns:
        the episodes that ended, in the order in which they did.

    Raises:
        InvalidArgument: the buffer was made for another vector, or the policy gave something of
            another shape than before.
        SamplerUnavailable: a sampler is paused, exhausted or failed.
    """
    ends: list[EpisodeEnd] = []
    with without_gradients(buffer.device):
        buffer._begin(tasks)
        for t in range(buffer.horizon):
            action = buffer._keep(t, policy(*buffer._inputs(t)))
            infos = tasks._step_into(action, buffer._block, t + 1)
            ends += [EpisodeEnd(t, i, infos[i]) for i in buffer._finish_step(t, infos)]
        buffer._end(tasks, policy)
    return ends
