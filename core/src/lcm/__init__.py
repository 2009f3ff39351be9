"""lcm: train, run and serve local code models on whatever hardware is there.

Everything is imported when it is first used: `import lcm` itself costs next to nothing.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Tensor": "lcm.tensor",
    "no_grad": "lcm.recording",
    "use_backend": "lcm.backend.dispatch",
    "hookspec": "lcm.backend.hooks",
    "hookimpl": "lcm.backend.hooks",
    "Backend": "lcm.backend.contract",
    "LcmError": "lcm.errors",
    "load_model": "lcm.generate.loading",
}

__all__ = sorted([*_HOMES, "include_dir"])


def include_dir() -> str:
    """The folder for a C compiler's `-I`: a plugin's kernels include `<lcm/ops.h>` from there."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lcm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
