"""Having a recorded episode again: load a file that ``error.save`` wrote, and replay it."""

from vectasks.debug.replay import Divergence, Outcome, Replay
from vectasks.recording import Recording, Recordings, load, read_about

__all__ = ["Divergence", "Outcome", "Recording", "Recordings", "Replay", "load", "read_about"]
