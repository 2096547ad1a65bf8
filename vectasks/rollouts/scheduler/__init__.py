"""Whole episodes on a pool of runners, with retries, limits and priorities: asyncio."""

from vectasks.rollouts.scheduler.runner import RunnerWrapper, Status, TaskWrapper
from vectasks.rollouts.scheduler.scheduled_batches import sort_batch_id
from vectasks.rollouts.scheduler.scheduler import Scheduler

__all__ = ["RunnerWrapper", "Scheduler", "Status", "TaskWrapper", "sort_batch_id"]
