"""Compile the kernels into the package; the rest is in pyproject.toml."""

from setuptools import setup

from lcm.building import commands

FLAGS = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512"

setup(cmdclass=commands("lcm_avx512", "kernels.c", flags=FLAGS.split()))
