"""Time for the first attempt with a backend, which an emulator makes tens of times as long."""

SECONDS = 300
CODE = f"from lcm.backend import probe\nprobe.SECONDS = {SECONDS}\n"
