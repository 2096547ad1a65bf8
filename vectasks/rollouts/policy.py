"""The interface of a policy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from vectasks.errors import InvalidArgument


class Policy(Protocol):
    """A policy that :func:`collect` asks for actions: any callable; ``value`` is optional.

    It is called with the observation of all samplers, nested as the observation space, each leaf
    [num_samplers, *shape], and, where the buffer has a ``memory_shape``, with the memory
    [num_samplers, *memory_shape], zero where an episode starts. On the buffer's ``device`` these
    are tensors (and no gradients are taken), without one numpy arrays.

    If it has a parameter ``sampler_ids``, it is given a list of whose rows these are by that name:
    for a random stream per sampler, say.

    With ``num_splits`` it is called with one group's at a time, and gives one row for each
    of the group's samplers. With ``ready_first`` these are whichever samplers are ready.

    It returns a dict: ``"action"`` [num_samplers, ...] goes to the tasks; ``"memory"`` is what it
    remembers; ``"value"`` [num_samplers] is needed for advantages; that and all else
    (``"log_prob"``, ...) is kept by its name.

    A method ``value``, with the same arguments for any number of samplers, gives the values that
    rollouts are bootstrapped with; without it the policy is called for them.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """Return the actions for all samplers, and what to store, from (observation[, memory])."""


def checked_decision(given: Any) -> Mapping[str, Any]:
    """Check that a policy returned a dict with ``"action"``.

    Raises:
        InvalidArgument: it is something else.
    """
    if not isinstance(given, Mapping) or "action" not in given:
        told = sorted(given) if isinstance(given, Mapping) else type(given).__name__
        raise InvalidArgument(f'the policy must return a dict with "action", got {told}.')
    return given


def asking(policy: Any) -> Callable[[Sequence[Any], Sequence[int]], Any]:
    """Make what asks a policy: called with its inputs, and the ids of the samplers they are of."""
    try:
        takes_ids = "sampler_ids" in inspect.signature(policy).parameters
        if not takes_ids and hasattr(policy, "forward"):  # a torch module tells nothing by itself
            takes_ids = "sampler_ids" in inspect.signature(policy.forward).parameters
    except (TypeError, ValueError):  # it tells no signature
        takes_ids = False
    if takes_ids:
        return lambda inputs, ids: policy(*inputs, sampler_ids=list(ids))
    return lambda inputs, ids: policy(*inputs)
