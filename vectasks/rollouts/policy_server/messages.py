"""What travels between a policy server and its clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from vectasks.errors import LayoutError, PolicyError
from vectasks.protocol import Failure, with_cause


class Answer(NamedTuple):
    """What a policy server answered to one observation.

    Attributes:
        action: this observation's row of what the policy gave.
        version: of the policy that gave it.
        extras: what else the policy gave, by name: this observation's rows.
    """

    action: Any
    version: int
    extras: Mapping[str, Any]


#: What becomes of a request: the answer, what the policy raised, or why it does not fit.
Result = Answer | Failure | LayoutError


class Ask(NamedTuple):
    """One observation; its number is the envelope, too."""

    seq: int
    observation: Any


class Told(NamedTuple):
    """What became of the request with the same number."""

    seq: int
    result: Result


def policy_error(failure: Failure) -> PolicyError:
    """Return the error for a request that the policy failed on."""
    error = PolicyError(
        f"the policy of the server failed: {failure.type_name}: {failure.message}",
        command="policy",
        remote_traceback=failure.traceback_text,
    )
    return with_cause(error, failure)
