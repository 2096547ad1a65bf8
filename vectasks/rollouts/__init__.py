"""Rollouts on policy: storage that workers write into, and the loop that fills it."""

from vectasks.rollouts.buffer import Minibatch, RolloutBuffer
from vectasks.rollouts.collect import EpisodeEnd, collect
from vectasks.rollouts.policy import Policy

__all__ = ["EpisodeEnd", "Minibatch", "Policy", "RolloutBuffer", "collect"]
