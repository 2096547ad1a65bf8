"""Third-party packages that only parts of vectasks need."""

from __future__ import annotations

import importlib
from typing import Any

from vectasks.errors import MissingExtra


def require(module: str, extra: str | None, what: str) -> Any:
    """Import and return a module that ``what`` needs.

    Args:
        module: its name.
        extra: the extra of vectasks that installs it; None for what vectasks itself installs.
        what: who needs it, as the error says: ``"captions"``.

    Raises:
        MissingExtra: it cannot be imported; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, extra, what, error) from error


def missing(module: str, extra: str | None, what: str, error: ImportError) -> MissingExtra:
    """The error that says that ``module`` is missing, where an import statement found it out."""
    package = "vectasks" if extra is None else f"vectasks[{extra}]"
    return MissingExtra(
        f'{what}: {module} is needed and cannot be imported ({error}): pip install "{package}"',
        name=module,
    )
