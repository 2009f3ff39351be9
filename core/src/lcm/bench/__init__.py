"""Benchmarks: cases to time, how they are timed, and reports of what was found."""
