"""Which start of the machine this is."""

import sys
from pathlib import Path

from lcm.host import calls

LINUX = Path("/proc/sys/kernel/random/boot_id")


def boot() -> str | None:
    """A name that no other start of this machine has; None where the system says none."""
    if sys.platform == "darwin":
        found = calls.sysctl("kern.bootsessionuuid")
        return None if found is None else str(found)
    try:
        return LINUX.read_text(encoding="ascii").strip()
    except OSError:
        return None
