"""Gymnasium spaces: compare them, check actions, and copy results.

Everything that depends on the kind of a space is a ``singledispatch`` function on it, so that a new
space is a new registration and edits no chain. Spaces that are not Gymnasium's (those of the old
``gym``, or a user's own) are compared with ``==`` and otherwise left alone.
"""

from vectasks.spaces.actions import (
    ActionBatches,
    action_batches,
    dispatch_rows,
    prepare_action,
    split_actions,
    task_action,
)
from vectasks.spaces.bounds import are_alike, shared_space, spaces_equal
from vectasks.spaces.values import (
    copy_arrays,
    is_named_tuple,
    is_tensor,
    items_under,
    items_within,
    map_leaves,
    nested_as,
    tensors_to_arrays,
)

__all__ = [
    "ActionBatches",
    "action_batches",
    "are_alike",
    "copy_arrays",
    "dispatch_rows",
    "is_named_tuple",
    "is_tensor",
    "items_under",
    "items_within",
    "map_leaves",
    "nested_as",
    "prepare_action",
    "shared_space",
    "spaces_equal",
    "split_actions",
    "task_action",
    "tensors_to_arrays",
]
