"""One policy in one process, that episode runners in many others ask: in batches."""

from vectasks.rollouts.policy_server.client import PolicyClient, ServedPolicy
from vectasks.rollouts.policy_server.messages import Answer
from vectasks.rollouts.policy_server.server import PolicyServer

__all__ = ["Answer", "PolicyClient", "PolicyServer", "ServedPolicy"]
