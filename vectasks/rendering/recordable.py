"""The interface of what a video can be recorded of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from vectasks.batch import StepBatch
from vectasks.protocol import SamplerState
from vectasks.task import RLStepResult


class Recordable(Protocol):
    """The methods of a vector that a recorder uses."""

    @property
    def is_closed(self) -> bool:
        """True if it takes no more commands."""

    @property
    def sampler_ids(self) -> list[int]:
        """Ids of the unpaused samplers, in the order of results."""

    @property
    def sampler_states(self) -> dict[int, SamplerState]:
        """The state of every sampler, paused ones too, by id."""

    def step(self, actions: Any) -> list[RLStepResult]:
        """Step the unpaused samplers."""

    def async_step(self, actions: Any) -> None:
        """Begin a step of the unpaused samplers."""

    def wait_step(self, timeout: float | None = None) -> list[RLStepResult]:
        """Return the results of the step that was begun."""

    def step_batch(
        self, actions: Any, out: StepBatch | None = None, copy: bool = True
    ) -> StepBatch:
        """Step the unpaused samplers."""

    def next_task(self, **kwargs: Any) -> list[Any]:
        """Go on to the next task of the unpaused samplers."""

    def next_task_at(self, sampler_index: int, **kwargs: Any) -> list[Any]:
        """Go on to one unpaused sampler's next task."""

    def reset_all(self) -> None:
        """Reset all samplers, and begin their first tasks."""

    def close(self) -> None:
        """Close the vector."""

    def render(self, mode: Literal["raw_rgb_list"]) -> Any:
        """Return the images of the unpaused samplers."""

    def command(self, commands: str, data_list: Sequence[Any]) -> list[Any]:
        """Send one command ("keep_frames") to all unpaused samplers, with a datum each."""

    def command_at(self, sampler_index: int, command: str, data: Any = None) -> Any:
        """Send one command ("render", "keep_frames") to one unpaused sampler."""
