"""The tuning table: for each kernel and bucket of shapes, how long every backend took on this machine."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lcm import host, settings
from lcm.backend.contract import Backend
from lcm.errors import LcmWarning

# A backend is replaced only by one that was faster by this share: two that are equal must not take turns.
MARGIN = 0.05


def bucket(symbol: str, sizes: Mapping[str, int]) -> str:
    """The key of a kernel at these sizes: each is rounded up to a power of two."""
    rounded = " ".join(f"{n}={1 << max(0, size - 1).bit_length()}" for n, size in sizes.items())
    return f"{symbol} {rounded}"


def identity(backend: Backend) -> str:
    """Name, version and a hash of the library: a measurement is of one build."""
    name = f"{backend.name} {backend.version}".strip()
    if backend.library is None or not os.path.exists(backend.library):
        return name
    state = os.stat(backend.library)
    mark = f"{backend.library} {state.st_size} {state.st_mtime_ns}"
    return f"{name} {hashlib.sha256(mark.encode()).hexdigest()[:12]}"


@dataclass
class Table:
    """Seconds by key and backend, and the choice that was made from them, for one host."""

    path: Path
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of_this_host() -> "Table":
        path = settings.cache_dir() / "tuning" / f"{host.current().fingerprint()}.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Table(path, values["seconds"], values["choices"])
        except FileNotFoundError:
            return Table(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(
                LcmWarning(f"{path}: the tuning table is unreadable ({error}); starting anew"),
                stacklevel=2,
            )
            return Table(path)

    def add(self, key: str, seconds: Mapping[str, float]) -> None:
        """Take in new measurements; the choice changes only by more than the margin."""
        known = self.seconds.setdefault(key, {})
        known.update(seconds)
        best = min(known, key=known.__getitem__)
        held = self.choices.get(key)
        if held not in known or known[best] < known[held] * (1 - MARGIN):
            self.choices[key] = best

    def choice(self, key: str, candidates: Mapping[str, str]) -> str | None:
        """The candidate (name by identity) that was fastest; None where one of them was not measured."""
        known = {i: s for i, s in self.seconds.get(key, {}).items() if i in candidates}
        if len(known) < len(candidates) or not known:
            return None
        held = self.choices.get(key)
        best = min(known, key=known.__getitem__)
        return candidates[held if held in known else best]

    def save(self) -> None:
        """Write the table whole, beside it and then in its place."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"seconds": self.seconds, "choices": self.choices}, indent=1)
        descriptor, temporary = tempfile.mkstemp(dir=self.path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, self.path)
