"""Every sampler's episode log, recordings made of it, and their replay.

Public names are in ``vectasks.debug``.
"""
