"""Training: data, schedules, the loop and its checkpoints."""
