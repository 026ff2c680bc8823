"""The training loops and what they are made of: optimizers, schedules, checkpoints, several processes."""
