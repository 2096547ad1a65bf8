"""What a command means: the task sampler, its current task, and the loop that steps them."""
