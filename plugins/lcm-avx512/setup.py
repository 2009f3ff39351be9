"""Compile the kernels into the package; the rest is in pyproject.toml."""

from setuptools import setup

from lcm.building import kernels

FLAGS = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512"

VARIANTS = {
    "kernels_amx.so": ["-mavx512vnni", "-mamx-tile", "-mamx-int8"],
    "kernels_vnni.so": ["-mavx512vnni"],
}

setup(**kernels("lcm_avx512", "kernels.c", flags=FLAGS.split(), variants=VARIANTS))
