"""Kernels for AVX2: lcm_backend.toml names the library, whose symbols they are."""
