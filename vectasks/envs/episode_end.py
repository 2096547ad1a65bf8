"""Detect that an environment's episode ended, and why."""

from __future__ import annotations


class EpisodeEnd:
    """The end flags of a task: Gymnasium's two, and what :class:`vectasks.Task` asks of them.

    The task's ``_step`` sets the flags. It is a base class, not a part of the task, because
    ``is_done`` is asked twice in every step.
    """

    _terminated: bool = False
    _truncated: bool = False

    def is_done(self) -> bool:
        """Tell whether the episode was terminated or truncated."""
        return self._terminated or self._truncated

    def reached_max_steps(self) -> bool:
        """Tell whether a limit (of a wrapper, the environment or this task) ended the episode."""
        return self._truncated

    def reached_terminal_state(self) -> bool:
        """Tell whether the environment terminated the episode."""
        return self._terminated

    def _end_flags(self) -> dict[str, bool]:
        """Return what the info of the last step says of the end."""
        return {"terminated": self._terminated, "truncated": self._truncated}
