"""The compiled core, where it was built and is wanted; everything works without it, more slowly."""

from __future__ import annotations

import importlib
import os
from typing import Any

#: Of ``_core.pyx``: raised whenever what it is given or what it does changes, so that a core that
#: was built from older sources is not used.
INTERFACE = 2


def load() -> tuple[Any, str]:
    """Import the core; or None, and why there is none."""
    if os.environ.get("VECTASKS_PURE", "0") not in ("", "0"):
        return None, "VECTASKS_PURE is set"
    try:
        found = importlib.import_module("vectasks.transport._core")
    except Exception as error:  # not built, or built for another Python or numpy
        return None, f"{type(error).__name__}: {error}"
    if getattr(found, "INTERFACE", 1) != INTERFACE:
        return None, "it was built from other sources; build it anew: pip install -e ."
    return found, ""


#: The module ``vectasks.transport._core``, or None.
core: Any
#: Why it is None.
why_not: str
core, why_not = load()


def kind() -> str:
    """Name what makes usual steps: ``"compiled"`` or ``"python"``."""
    return "python" if core is None else "compiled"


def describe() -> str:
    """Say in a few words what makes usual steps, and why."""
    return "compiled" if core is not None else f"made in Python, which is slower ({why_not})"
