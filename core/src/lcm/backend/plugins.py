"""Which backend plugins are installed: entry points and manifests, read without running code."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lcm.backend.manifest import Manifest, parse
from lcm.errors import FileError
from lcm.packages import metadata

GROUP = "lcm.backends"


@dataclass(frozen=True)
class Plugin:
    """One entry point: its distribution, and its manifest or what is wrong with it."""

    name: str
    distribution: str
    version: str
    folder: Path | None = None
    file: str = ""  # the manifest, in the folder
    manifest: Manifest | None = None
    problem: str = ""
    fix: str = ""

    def files(self) -> list[tuple[str, int, int]]:
        """Path, size and time of the files that decide how it behaves, so far as they are named."""
        if self.folder is None or self.manifest is None:
            return []
        files = [self.folder / self.file, self.folder / "__init__.py"]
        files += [self.folder / library for library in self.manifest.libraries]
        if self.manifest.module:
            inner = self.folder.joinpath(*self.manifest.module.split(".")[1:])
            files += [inner / "__init__.py", inner.with_suffix(".py")]
        with contextlib.suppress(OSError):
            there = [(path, path.stat()) for path in dict.fromkeys(files) if path.exists()]
            return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in there]
        return []


def installed() -> tuple[Plugin, ...]:
    """Every entry point of the group, sorted by name; looked up anew when sys.path has changed."""
    return _installed(path_stamp())


def path_stamp() -> tuple[tuple[str, int], ...]:
    """sys.path with the times of its folders, which an installation changes."""
    return tuple((entry, _mtime(entry or ".")) for entry in sys.path)


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=4)
def _installed(stamp: tuple[tuple[str, int], ...]) -> tuple[Plugin, ...]:
    importlib.invalidate_caches()
    found = sorted(_plugins(), key=lambda plugin: (plugin.name, plugin.distribution))
    names = [plugin.name for plugin in found]
    return tuple(
        plugin if names.count(plugin.name) == 1 else _twice(plugin, found) for plugin in found
    )


def _plugins() -> Iterator[Plugin]:
    """The plugins of each distribution, the first of a name on sys.path hiding the others."""
    seen = set()
    for distribution in metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if GROUP not in text:
                continue
            name, version = str(distribution.metadata["Name"]), str(distribution.version)
            points = list(distribution.entry_points.select(group=GROUP))
        except Exception:  # a broken distribution is somebody else's trouble
            continue
        if name.lower() not in seen:
            seen.add(name.lower())
            yield from (_plugin(point, name, version) for point in points)


def _plugin(point: Any, distribution: str, version: str) -> Plugin:
    def problem(reason: str) -> Plugin:
        fix = f"pip install --force-reinstall {distribution}, or tell its authors"
        return Plugin(point.name, distribution, version, problem=reason, fix=fix)

    # Read here: what EntryPoint does with a value that it cannot read differs from Python to Python.
    package, _, file = (part.strip() for part in point.value.partition(":"))
    if not re.fullmatch(r"\w+", package) or not re.fullmatch(r"[\w.]+\.toml", file):
        return problem(f"its entry point {point.value!r} is not a top-level package and a .toml")
    try:
        spec = importlib.util.find_spec(package)
        folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else None
    except Exception:
        folder = None
    if folder is None:
        return problem(f"its package {package} is not there")
    try:
        text = (folder / file).read_text(encoding="utf-8")
        manifest = _fitting(parse(text, f"{package}/{file}"), point.name, package, file)
    except FileError as error:
        return problem(str(error))
    except (OSError, UnicodeDecodeError) as error:
        return problem(f"{package}/{file}: {getattr(error, 'strerror', None) or error}")
    return Plugin(point.name, distribution, version, folder, file, manifest)


def _fitting(manifest: Manifest, name: str, package: str, file: str) -> Manifest:
    """The manifest, if it belongs to this entry point and this package."""
    if manifest.name != name:
        raise FileError(
            f"{package}/{file}: its name is {manifest.name!r}, its entry point {name!r}"
        )
    if manifest.module and manifest.module.split(".")[0] != package:
        raise FileError(f"{package}/{file}: its module {manifest.module} is not in {package}")
    return manifest


def _twice(plugin: Plugin, found: list[Plugin]) -> Plugin:
    owners = sorted({other.distribution for other in found if other.name == plugin.name})
    reason = f"{' and '.join(owners)} both call themselves {plugin.name!r}"
    others = [owner for owner in owners if owner != plugin.distribution] or owners
    fix = f"pip uninstall {others[0]}"
    return dataclasses.replace(plugin, manifest=None, problem=reason, fix=fix)
