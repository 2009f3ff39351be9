"""The record without which a time says nothing: machine, versions, threads, and how busy it was before."""

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lcm import __version__, host
from lcm.backend import discovery, dispatch
from lcm.packages import metadata

Progress = Callable[[str], object]  # is told what is measured next


def record() -> dict[str, Any]:
    """Take it before the first measurement: the load should be that of others."""
    here = host.current()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["lcm", *sys.argv[1:]]),
        "system": here.describe(),
        "processor": here.label.value,
        "cores": here.cores.value,
        "threads": here.threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "fingerprint": here.fingerprint(),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Of Python, lcm, numpy, and of every ready backend with its library."""
    plugins = {
        f"{v.name} ({v.distribution})": v.version
        for v in discovery.verdicts()
        if v.state == "ready" and v.distribution != "lcm"
    }
    libraries = {b.name: b.version for b in discovery.ready() if b.version}
    own = {"python": platform.python_version(), "lcm": __version__}
    return own | {"numpy": metadata.version("numpy")} | plugins | libraries


def in_words(machine: Mapping[str, Any]) -> str:
    """The record on two lines."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['system']}, {machine['threads']} of {machine['cores']} cores; "
        f"load before: {machine['load']}\n{machine['date']}; {versions}"
    )


def who_ran() -> str:
    """Which backends have run kernels since the last `dispatch.reset`."""
    names = {name for backends in dispatch.ran().values() for name in backends}
    return f"kernels ran on: {', '.join(sorted(names))}"


def peak_memory() -> float | None:
    """The most MiB of memory that this process has had at a time; None where the system does not say."""
    try:  # what `resource` says of a process may be of its parent, which was larger
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def cost(price: float | None, tokens_per_second: float) -> dict[str, float]:
    """What a million tokens cost at a price for an hour; nothing without a price."""
    if price is None:
        return {}
    return {"cost of 1 M tokens": price / 3600 / tokens_per_second * 1e6}
