"""Carry out commands: the task sampler, its current task, and the loop that steps them."""
