"""What this machine can do at best: reading memory, and multiply-adds of 8-bit numbers."""

import json
import subprocess
import sys
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


def read_now(threads: int, backend: str = "avx512") -> float:
    """The same at this moment: the best of a second, in a process of its own."""
    code = f"import peaks; print(peaks.read({threads}, {backend!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=SOURCE.parent, check=True, capture_output=True, text=True)
    return float(done.stdout)


def int8_peaks(threads: int) -> dict[str, float | None]:
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "int8_peak")
        subprocess.run(["cc", *FLAGS, str(SOURCE), "-o", program], check=True)
        done = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))
