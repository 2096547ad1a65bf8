"""Show videos in a notebook's page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: A notebook holds what it shows: larger videos are only named.
MAX_EMBEDDED_BYTES = 20 * 2**20


def videos_html(paths: Sequence[Path], max_bytes: int = MAX_EMBEDDED_BYTES) -> str:
    """Return the videos as HTML that needs no file beside it.

    Args:
        paths: ``.mp4`` or ``.gif`` files.
        max_bytes: of all that is embedded; what would exceed this is named instead.
    """
    parts = []
    for path in paths:
        if not path.exists():
            parts.append(f"<p>{escape(path)} is gone</p>")
            continue
        size_bytes = path.stat().st_size
        if size_bytes > max_bytes:
            parts.append(
                f"<p>{escape(path)} ({size_bytes / 2**20:.0f} MiB: too large to embed)</p>"
            )
            continue
        max_bytes -= size_bytes
        parts.append(_figure(path))
    return "\n".join(parts) or "<p>no video: no sampler had an image</p>"


def display(thing: Any) -> None:
    """Show what has a ``_repr_html_`` below the notebook's cell.

    Raises:
        ModuleNotFoundError: IPython is not installed.
    """
    try:
        from IPython.display import HTML  # type: ignore[import-not-found,unused-ignore]
        from IPython.display import display as show
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "display() is for notebooks, and IPython is not installed: open the file instead.",
            name=error.name,
        ) from error
    show(HTML(thing._repr_html_()))


def escape(text: object) -> str:
    """Escape any text for HTML."""
    return html.escape(str(text))


def _figure(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    name = escape(path.name)
    if path.suffix.lower() == ".gif":
        return f'<img alt="{name}" title="{name}" src="data:image/gif;base64,{data}">'
    return (
        f'<video controls loop title="{name}" style="max-width: 100%" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )
