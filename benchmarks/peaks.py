"""What this machine can do at best: reading memory, and multiply-adds of 8-bit numbers."""

import json
import subprocess
import tempfile
from pathlib import Path

from lcm.backend import discovery
from lcm.backend.limits import measured

SOURCE = Path(__file__).parent / "int8_peak.c"
FLAGS = ("-O3", "-march=native", "-pthread")


def peaks(threads: int, backend: str = "avx512") -> dict[str, float | None]:
    """`read`: 10^9 bytes a second; `vnni` and `amx`: 10^9 operations a second, None for what is not here."""
    return {"read": read(threads, backend), **int8_peaks(threads)}


def read(threads: int, backend: str) -> float | None:
    """10^9 bytes a second from memory, the best of all times in this process."""
    found = measured(discovery.open_backend(backend), threads, again=True)
    return found.read if found else None


def int8_peaks(threads: int) -> dict[str, float | None]:
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "int8_peak")
        subprocess.run(["cc", *FLAGS, str(SOURCE), "-o", program], check=True)
        done = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))
