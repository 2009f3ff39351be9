"""The record without which a time says nothing: machine, versions, threads, and how busy it was before."""

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from lcm import __version__, host
from lcm.backend import discovery
from lcm.packages import metadata


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
