"""Compile the kernels into the package; the rest is in pyproject.toml."""

from setuptools import setup

from lcm.building import kernels

setup(**kernels("lcm_generic", "kernels.c"))
