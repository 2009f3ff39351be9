"""A folder of files that can be made again, within a limit: what was not used for longest goes first."""

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lcm.files.atomic import remove_abandoned


@dataclass(frozen=True)
class CacheFolder:
    """Several processes may use it at once: a file that goes stays with those that have it open."""

    path: Path
    limit: int  # bytes, of all files together

    def used(self, file: Path) -> None:
        """Now, which file systems do not all note by themselves."""
        with suppress(OSError):  # gone meanwhile
            os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))

    def make_room(self, size: int = 0) -> None:
        """Remove files until so many bytes more are within the limit, or none is left."""
        if self.path.is_dir():
            remove_abandoned(self.path)
        entries = []
        for path in self.path.glob("[!.]*"):
            with suppress(OSError):
                entries.append((path.stat(), path))
        total = size + sum(facts.st_size for facts, _ in entries)
        for facts, path in sorted(entries, key=lambda entry: entry[0].st_atime_ns):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= facts.st_size


def identity(model: Path) -> list[tuple[str, int, int]]:
    """The files that decide what the model in this folder or GGUF file is: name, size, time of change."""
    model = model.resolve()
    if model.is_dir():
        files = [p for p in model.iterdir() if p.suffix in (".json", ".safetensors")]
    else:
        parts = re.sub(r"\d{5}(-of-\d{5}\.gguf)$", r"*\1", model.name)
        files = list(model.parent.glob(parts)) if parts != model.name else [model]
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(files)]
