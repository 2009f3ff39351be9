"""Compile the kernels into the package, once for each length of vectors; the rest is in pyproject.toml."""

from setuptools import setup

from lcm.building import kernels

VARIANTS = {
    "kernels_512.so": ["-march=armv8.2-a+sve", "-msve-vector-bits=512"],
    "kernels_256_i8mm.so": ["-march=armv8.2-a+sve+i8mm", "-msve-vector-bits=256"],
    "kernels_256.so": ["-march=armv8.2-a+sve", "-msve-vector-bits=256"],
    "kernels_128_i8mm.so": ["-march=armv8.2-a+sve+i8mm", "-msve-vector-bits=128"],
    "kernels_128.so": ["-march=armv8.2-a+sve", "-msve-vector-bits=128"],
}

# Processors that are tuned for find work by themselves: compilers that look for it too run out of registers.
setup(**kernels("lcm_sve", "kernels.c", flags=["-mtune=neoverse-n2"], variants=VARIANTS))
