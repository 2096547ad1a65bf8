"""Ask a task source what comes next, tell it what came of it, and say what went wrong there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from vectasks.errors import TaskSourceError
from vectasks.host.task_host import COMPLETE_TASK_METRICS_KEY
from vectasks.protocol import Failure, StepOutcome
from vectasks.sources.base import EpisodeOutcome, TaskSource

logger: logging.Logger = logging.getLogger("vectasks")

#: What a sampler is asked with that decides by itself.
NO_KEYWORDS: Mapping[str, Any] = {}


class Drawing:
    """Draws tasks from a source.

    Args:
        source: None: samplers decide by themselves, and are given no keywords.
    """

    def __init__(self, source: TaskSource | None) -> None:
        self._source = source

    @property
    def has_source(self) -> bool:
        """Whether a source says what comes next."""
        return self._source is not None

    def draw(self, sampler_id: int) -> Mapping[str, Any] | None:
        """Draw keywords for a sampler's ``next_task``; None: there is no further task.

        Raises:
            TaskSourceError: the source raised, or gave no mapping.
        """
        if self._source is None:
            return NO_KEYWORDS
        try:
            keywords: Any = self._source.next(sampler_id)
        except Exception as error:  # user code
            raise _failed(f"next({sampler_id})", error) from error
        if keywords is not None and not isinstance(keywords, Mapping):
            raise TaskSourceError(
                f"the task source's next({sampler_id}) gave {keywords!r:.80} "
                f"({type(keywords).__name__}); it must give a mapping of keywords for the "
                "sampler's next_task, or None where there is no further task."
            )
        drawn: Mapping[str, Any] | None = keywords
        return drawn

    def tell_end(
        self,
        sampler_id: int,
        keywords: Mapping[str, Any] | None,
        outcome: StepOutcome,
        return_and_length: tuple[Any, int],
    ) -> Failure | None:
        """Tell the source of an episode's end; the failure, if that raised."""
        if self._source is None or keywords is None:
            return None
        metrics = outcome.info.get(COMPLETE_TASK_METRICS_KEY, {})
        ends = outcome.terminated, outcome.truncated
        told = EpisodeOutcome(*return_and_length, metrics, *ends, outcome.info)
        try:
            self._source.ended(sampler_id, keywords, told)
        except Exception as error:  # user code
            return Failure.of(_failed(f"ended({sampler_id}, ...)", error))
        return None

    def give_back(self, sampler_id: int, keywords: Mapping[str, Any] | None) -> None:
        """Give keywords back that were not played to their end."""
        if self._source is None or keywords is None:
            return
        try:
            self._source.give_back(sampler_id, keywords)
        except Exception:  # user code; what is being done goes on
            logger.warning(
                "give_back(%d, ...) of the task source raised", sampler_id, exc_info=True
            )


def _failed(call: str, error: Exception) -> TaskSourceError:
    failed = TaskSourceError(f"{call} of the task source raised {type(error).__name__}: {error}")
    failed.__cause__ = error
    return failed
