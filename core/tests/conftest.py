"""Fixtures that several test files use."""

from installing import site

__all__ = ["site"]
