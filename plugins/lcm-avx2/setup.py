"""Compile the kernels into the package; the rest is in pyproject.toml."""

from setuptools import setup

from lcm.building import kernels

setup(**kernels("lcm_avx2", "kernels.c", flags=["-mavx2", "-mfma", "-mf16c"]))
