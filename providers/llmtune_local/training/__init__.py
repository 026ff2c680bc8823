"""The training loops and their parts: optimizers, schedules, checkpoints, several processes."""
