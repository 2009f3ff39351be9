"""Model and checkpoint files: read through checks, mapped, and written whole or not at all."""
