"""Fixtures that several test files use."""

import json
from pathlib import Path

import pytest
from installing import site

from lcm.backend import discovery, dispatch, native
from lcm.building import compile_library
from lcm.host.linux import LinuxReadings
from lcm.host.macos import MacReadings

__all__ = ["site"]

# Vectors of four numbers, which every compiler can do on every machine.
GENERIC = """
#define LANES 4
#define TILE_ROWS 4
#define TILE_VECTORS 2
#include <lcm/simd/types.h>
"""


@pytest.fixture(scope="session")
def readings():
    """Recorded readings by name, with changes; of Linux's `files`, a change adds to them."""
    folder = Path(__file__).parent / "readings"

    def readings(name: str, **changes: object) -> LinuxReadings | MacReadings:
        data = json.loads((folder / f"{name}.json").read_text())
        changes["files"] = {**data.get("files", {}), **changes.get("files", {})}
        if "sysctl" in data:
            return MacReadings(**data)
        data["affinity"] = tuple(data["affinity"])
        return LinuxReadings(**{**data, **changes})

    return readings


@pytest.fixture(scope="session")
def compile_kit(tmp_path_factory):
    """Make a library of C code that may include the kit's files."""

    def compile_kit(code: str) -> Path:
        folder = tmp_path_factory.mktemp("kit")
        (folder / "kernels.c").write_text(GENERIC + code)
        flags = ["-Werror", "-Wno-unused-function"]
        compile_library(folder / "kernels.so", [str(folder / "kernels.c")], flags)
        return folder / "kernels.so"

    return compile_kit


@pytest.fixture(autouse=True)
def nothing_is_decided():
    """Each test decides anew which backend runs what: the one before may have had others."""
    dispatch.reset()


@pytest.fixture
def only_backend(monkeypatch):
    """Let a backend be the only one that is ready, beside the reference."""

    def only_backend(backend):
        monkeypatch.setattr(discovery, "ready", lambda: (discovery.REFERENCE, backend))
        dispatch.reset()

    return only_backend


@pytest.fixture(scope="session")
def kit_library(compile_kit):
    """The whole kit, for whatever machine this is."""
    return compile_kit("#include <lcm/simd/kernels.h>\n")


@pytest.fixture
def kit(kit_library, only_backend):
    """The kit's kernels are what runs."""
    only_backend(native.load(kit_library, "kit"))
