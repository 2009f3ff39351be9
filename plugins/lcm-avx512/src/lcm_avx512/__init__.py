"""Kernels for AVX-512: lcm_backend.toml names the library, whose symbols they are."""
