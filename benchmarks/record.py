"""What a result is worth nothing without: the machine, the versions, the date and the command."""

import datetime
import json
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lcm import host

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("lcm", "lcm-openblas", "lcm-avx2", "lcm-avx512", "scipy-openblas32", "numpy", "torch", "transformers")


def append(name: str, result: dict[str, Any]) -> None:
    """Add a line to `results/<name>.jsonl`."""
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{name}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(result | circumstances(name)) + "\n")


def circumstances(name: str) -> dict[str, Any]:
    """Where and how; `load` is that of the last minute: a quiet machine's is what the benchmark makes."""
    machine = host.current()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
        "cpu": machine.label.value,
        "system": f"{platform.system()} {platform.machine()}",
        "threads": machine.threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def table(head: tuple[str, ...], *rows: tuple[Any, ...]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
