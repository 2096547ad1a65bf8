"""The compiled core, where it was built and is wanted; everything works without it, more slowly."""

from __future__ import annotations

import importlib
import os
from typing import Any


def _load() -> tuple[Any, str]:
    if os.environ.get("VECTASKS_PURE", "0") not in ("", "0"):
        return None, "VECTASKS_PURE is set"
    try:
        return importlib.import_module("vectasks.transport._core"), ""
    except Exception as error:  # not built, or built for another Python or numpy
        return None, f"{type(error).__name__}: {error}"


#: The module ``vectasks.transport._core``, or None.
core: Any
#: Why it is None.
why_not: str
core, why_not = _load()


def kind() -> str:
    """Name what makes usual steps: ``"compiled"`` or ``"python"``."""
    return "python" if core is None else "compiled"


def describe() -> str:
    """Say in a few words what makes usual steps, and why."""
    return "compiled" if core is not None else f"made in Python, which is slower ({why_not})"
