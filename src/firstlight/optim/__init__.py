"""Optimizers with our parameter groups, and schedules as pure functions of the step."""
