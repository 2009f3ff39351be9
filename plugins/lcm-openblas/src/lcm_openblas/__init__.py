"""OpenBLAS as a backend: where its library is, and how its functions are named there."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lcm import settings
from lcm.backend.cblas import Cblas
from lcm.backend.contract import Backend
from lcm.backend.hooks import hookimpl
from lcm.backend.native import exports, function, open_library
from lcm.errors import BackendError
from lcm.host import Host

# The names of scipy-openblas32, then those of everybody else's builds.
PREFIXES = ("scipy_", "")

# For how long a thread waits awake for more work: 2^17 ticks, about 50 µs. By default it is 100 ms, in which
# it takes a core from whoever is next: another backend's product of 128 x 128 took 4 ms instead of 40 µs.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "17")


@hookimpl
def open_backend(host: Host) -> Backend:
    """Load the library that the user set, or the one in scipy-openblas32."""
    path = library_path()
    library = open_library(path)
    prefix = next((p for p in PREFIXES if exports(library, f"{p}cblas_sgemm")), None)
    if prefix is None:
        raise BackendError(
            f"{path}: exports no cblas_sgemm; an OpenBLAS with CBLAS and 32-bit integers is needed"
        )
    set_threads = function(library, f"{prefix}openblas_set_num_threads", "void", "int")
    set_threads(host.threads())
    config = _text(library, f"{prefix}openblas_get_config")
    return Backend(
        "openblas",
        Cblas(library, prefix=prefix).kernels(),
        version=config.split()[1] if config else "",
        library=str(path),
        threads=set_threads,
        notes={"kernels for": _text(library, f"{prefix}openblas_get_corename"), "build": config},
    )


def library_path() -> Path:
    """The library's absolute path; its package is found, not imported, since importing loads it."""
    if chosen := settings.get("openblas"):
        path = Path(chosen)
        if not path.is_file():
            raise BackendError(f"LCM_OPENBLAS: no file {chosen}; unset it to use scipy-openblas32")
        return path.resolve()
    spec = find_spec("scipy_openblas32")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for pattern in ("*.so", "*.dylib", "*.dll"):
            for path in sorted(Path(folder, "lib").glob(pattern)):
                return path.resolve()
    raise BackendError(
        "no OpenBLAS library found: pip install scipy-openblas32, or set LCM_OPENBLAS"
    )


def _text(library: Any, name: str) -> str:
    if not exports(library, name):
        return ""
    value: bytes = function(library, name, "char *")()
    return value.decode(errors="replace")
