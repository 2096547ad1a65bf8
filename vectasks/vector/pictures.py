"""Pictures of the samplers' tasks: ask for them, tile them, show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vectasks.errors import InvalidArgument
from vectasks.protocol import Command
from vectasks.vector.calls import Calls
from vectasks.vector.states import SamplerStates

_MODES = ("human", "rgb_array", "raw_rgb_list")


class Pictures:
    """Renders the tasks of a vector's samplers, one by one or as a tile.

    Args:
        calls: ask for the images.
        states: say who is paused, and whose task can be seen.
    """

    def __init__(self, calls: Calls, states: SamplerStates) -> None:
        self._calls = calls
        self._states = states

    def render(
        self, mode: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> NDArray[np.uint8] | list[Any] | None:
        """Render what ``BaseVectorSampledTasks.render`` says of each mode."""
        if mode not in _MODES:
            raise InvalidArgument(
                f"render: mode={mode!r} is unknown; use one of {', '.join(_MODES)}."
            )
        ids = list(self._calls.open_all("render", Command.RENDER))
        data = (("rgb", *args), kwargs)
        if mode == "raw_rgb_list":
            return self._calls.ask_list(Command.RENDER, ids, [data] * len(ids))
        tile = self._tile(ids, data)
        if mode == "rgb_array":
            return tile
        from vectasks.rendering.window import show

        show(tile)
        return None

    def _tile(self, unpaused: Sequence[int], data: Any) -> NDArray[np.uint8]:
        """Tile the images of all samplers, dim paused ones': uint8 [height_px, width_px, 3]."""
        from vectasks.rendering.tiles import as_rgb, tile_images

        everyone = range(len(self._states.states))
        # A paused sampler's task can be seen too, unless it failed or had no next one.
        seen = [i for i in everyone if self._states.can_be_seen(i)]
        images = self._calls.ask(Command.RENDER, seen, [data] * len(seen))
        shown = {i: as_rgb(image, f"the image of sampler {i}") for i, image in images.items()}
        dimmed = [i for i in everyone if i not in unpaused]
        return tile_images([shown.get(i) for i in everyone], dimmed=dimmed)
