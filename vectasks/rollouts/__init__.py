"""Rollouts on policy: storage that workers write into, and the loop that fills it."""

from vectasks.rollouts.buffer import Minibatch, RolloutBuffer
from vectasks.rollouts.collect import EpisodeEnd, collect
from vectasks.rollouts.episodes import Episode
from vectasks.rollouts.policy import Policy
from vectasks.rollouts.whole_episodes import collect_episodes

__all__ = [
    "Episode",
    "EpisodeEnd",
    "Minibatch",
    "Policy",
    "RolloutBuffer",
    "collect",
    "collect_episodes",
]
