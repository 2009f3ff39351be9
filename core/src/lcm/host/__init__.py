"""What this machine is: processor, instruction sets, caches, cores, memory; each with its source.

A probe has two halves. A `…Readings` takes what the system says, as plain data; its `host()` turns
that into a `Host` and looks at nothing else, so a recorded reading gives the same record anywhere.
"""

import dataclasses
import difflib
import functools
import sys
from pathlib import Path

from lcm import settings
from lcm.errors import UsageError
from lcm.host.features import FEATURES, near_features, parse_mask
from lcm.host.record import Fact, Host

__all__ = [
    "FEATURES",
    "Fact",
    "Host",
    "current",
    "load_named",
    "near_features",
    "parse_mask",
    "probe",
    "shipped",
]


@functools.cache
def probe() -> Host:
    """This machine, looked at once a process; nothing is run and no plugin is loaded."""
    if sys.platform == "darwin":
        from lcm.host.macos import MacReadings

        return MacReadings.take().host()
    if sys.platform == "win32":
        from lcm.host.windows import WindowsReadings

        return WindowsReadings.take().host()
    from lcm.host.linux import LinuxReadings

    return LinuxReadings.take().host()


def current() -> Host:
    """The machine to decide for: LCM_HOST or else this one, less the features of LCM_ISA_MASK."""
    name = settings.get("host")
    host = load_named(name) if name else probe()
    mask = settings.find("isa_mask")
    taken = parse_mask(mask.value)
    if not taken & host.features.value:
        return host
    source = f"{host.features.source}, less {' '.join(sorted(taken))} ({mask.source})"
    return dataclasses.replace(host, features=Fact(host.features.value - taken, source))


def load_named(name: str) -> Host:
    """A host record by its file, or one that ships with lcm by its name."""
    if name.endswith(".json") or Path(name).name != name:
        return Host.load(name)
    names = shipped()
    if name not in names:
        near = difflib.get_close_matches(name, names) or names
        raise UsageError(f"LCM_HOST: no host record {name!r}; there are: {', '.join(near)}")
    return Host.load(_SHIPPED / f"{name}.json")


_SHIPPED = Path(__file__).parent.parent / "hosts"


def shipped() -> list[str]:
    """The names of the host records that ship with lcm."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))
