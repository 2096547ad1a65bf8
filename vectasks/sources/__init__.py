"""Task sources: one stream of tasks for all samplers of a vector."""

from vectasks.sources.base import EpisodeOutcome, TaskSource, check_source

__all__ = ["EpisodeOutcome", "TaskSource", "check_source"]
