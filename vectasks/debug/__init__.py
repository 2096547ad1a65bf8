"""Having a recorded episode again: load a file that ``error.save`` wrote, and replay it."""

from vectasks.replay.recording import Recording, Recordings, load, read_about
from vectasks.replay.replay import Divergence, Outcome, Replay

__all__ = ["Divergence", "Outcome", "Recording", "Recordings", "Replay", "load", "read_about"]
