"""Compile the kernels into the package; the rest is in pyproject.toml."""

from setuptools import setup

from lcm.building import kernels

# Atomic operations in line: the compilers' own choice, made at run time, is made by a constructor. Processors
# that are tuned for find work by themselves: compilers that look for it too run out of registers.
FLAGS = ["-mno-outline-atomics", "-mtune=neoverse-n2"]

VARIANTS = {
    "kernels_i8mm.so": ["-march=armv8.2-a+dotprod+i8mm"],
    "kernels_dotprod.so": ["-march=armv8.2-a+dotprod"],
}

setup(**kernels("lcm_neon", "kernels.c", flags=FLAGS, variants=VARIANTS))
