"""The loop of on-policy training: look, act, and have the workers write down what comes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from vectasks.rollouts.buffer import RolloutBuffer

if TYPE_CHECKING:
    from vectasks.vector import SingleProcessVectorSampledTasks, VectorSampledTasks


class Policy(Protocol):
    """What :func:`collect` asks for actions: any callable; ``value`` is optional.

    It is called with the observation of all samplers, nested as the observation space, each leaf
    [num_samplers, *shape], and, where the buffer has a ``memory_shape``, with the memory
    [num_samplers, *memory_shape], zero where an episode starts. On the buffer's ``device`` these
    are tensors (and no gradients are taken), without one numpy arrays.

    It returns a dict: ``"action"`` [num_samplers, ...] goes to the tasks; ``"memory"`` is what it
    remembers; ``"value"`` [num_samplers] is needed for advantages; that and all else
    (``"log_prob"``, ...) is kept by its name.

    A method ``value``, with the same arguments for any number of samplers, gives the values that
    rollouts are bootstrapped with; without it the policy is called for them.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """The actions for all samplers, and what is to be kept: of (observation[, memory])."""


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


def without_gradients(device: Any) -> Any:
    """Where no gradients are taken; nothing is to be done without tensors."""
    if device is None:
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()
