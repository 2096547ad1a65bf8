"""Rollouts on policy: storage that workers write into, the loop that fills it, a policy server."""

from vectasks.rollouts.buffer import Minibatch, RolloutBuffer
from vectasks.rollouts.collect import EpisodeEnd, collect
from vectasks.rollouts.episodes import Episode
from vectasks.rollouts.policy import Policy
from vectasks.rollouts.policy_server import Answer, PolicyClient, PolicyServer, ServedPolicy
from vectasks.rollouts.whole_episodes import collect_episodes

__all__ = [
    "Answer",
    "Episode",
    "EpisodeEnd",
    "Minibatch",
    "Policy",
    "PolicyClient",
    "PolicyServer",
    "RolloutBuffer",
    "ServedPolicy",
    "collect",
    "collect_episodes",
]
