"""Kernels for 64-bit Arm, NEON: lcm_backend.toml names the library, whose symbols they are."""
