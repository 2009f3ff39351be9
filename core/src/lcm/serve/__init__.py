"""Completion as a service: what others' servers call."""
