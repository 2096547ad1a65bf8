"""Check what an environment of Gymnasium's interface returns, and say what to do where it differs.

The environments seen most often that differ are of the old Gym interface: ``reset()`` gives the
observation alone, and ``step()`` four values.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from vectasks._util.step_values import shown

OLD_GYM_ADVICE = (
    "An environment of the old Gym interface can be wrapped: "
    "shimmy.GymV21CompatibilityV0(env=...), from the package shimmy."
)

# As CPython says it where five values are unpacked; some versions tell how many there were.
_UNPACKING = re.compile(r"values to unpack \(expected 5(?:, got (\d+))?|cannot unpack non-iterable")
_OURS = ("vectasks", "gymnasium")


def reset_env(env: Any, **keywords: Any) -> tuple[Any, dict[str, Any]]:
    """Reset an environment; return its observation and its info.

    Raises:
        TypeError: ``reset`` does not take these keywords, or gave something other than
            observation and info.
    """
    try:
        result = env.reset(**keywords)
    except TypeError as error:
        bare = getattr(env, "unwrapped", env)
        # A wrapper may give both where nobody gave it any.
        if not _takes(bare.reset, keywords or {"seed": None, "options": None}):
            raise TypeError(
                f"{type(bare).__name__}.reset() must take the keywords seed and options, as "
                f"Gymnasium's interface has it, got {inspect.signature(bare.reset)}. "
                f"{OLD_GYM_ADVICE}"
            ) from error
        raise
    if isinstance(result, (tuple, list)) and len(result) == 2:
        observation, info = result
        if info is None or isinstance(info, Mapping):
            return observation, as_info(env, info)
    raise TypeError(
        f"{_name(env)}.reset() must return a tuple of two, observation and info (a dict), got "
        f"{shown(result)}. {OLD_GYM_ADVICE}"
    )


def explain_step_error(env: Any, error: Exception) -> None:
    """Explain the error if what failed was unpacking the result of ``env.step()``.

    Raises:
        TypeError: it gave something other than five values; ``error`` is its cause.
    """
    match = _UNPACKING.search(str(error))
    if match is None or ("expected 5" not in match[0] and not _is_ours(error)):
        return
    count = f"{match[1]} values" if match[1] else "something else"
    raise TypeError(
        f"{_name(env)}.step() must return five values, observation, reward, terminated, truncated "
        f"and info, got {count} ({error}). {OLD_GYM_ADVICE}"
    ) from error


def as_info(env: Any, info: Any) -> dict[str, Any]:
    """Return the info of a step as a dict; None is an empty one.

    Raises:
        TypeError: it is something else than a mapping.
    """
    if isinstance(info, dict):
        return info
    if info is None or isinstance(info, Mapping):
        return dict(info or {})
    raise TypeError(
        f"{_name(env)}.step() must return a dict as info (or None), the last of its five values, "
        f"got {shown(info)}."
    )


def _name(env: Any) -> str:
    return type(getattr(env, "unwrapped", env)).__name__


def _takes(function: Any, keywords: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(**keywords)
    except TypeError:
        return False
    except ValueError:  # some extension types tell no signature
        pass
    return True


def _is_ours(error: Exception) -> bool:
    """Tell whether our code or Gymnasium's raised the error, not a user's step."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in _OURS
