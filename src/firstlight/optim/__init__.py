"""Optimizers that torch lacks or whose parameter groups we choose, and schedules as pure functions
of the step.
"""
