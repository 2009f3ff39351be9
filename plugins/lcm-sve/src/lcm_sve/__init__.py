"""Kernels for SVE: lcm_backend.toml names the libraries, by length of vectors, whose symbols they are."""
