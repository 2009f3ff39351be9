"""A backend without any Python: lcm_backend.toml names the library, whose symbols are the kernels."""
