"""A plugin's manifest: what it needs of a machine, read before any of its code runs.

It is a static file in the package, by convention `lcm_backend.toml`:

    name = "neon"                     # as in the entry point
    abi = 1                           # the backend ABI it was made for
    summary = "Kernels for 64-bit Arm"
    os = ["linux", "macos"]           # empty or absent: any
    arch = ["aarch64"]                # empty or absent: any
    features = ["asimd", "asimddp"]   # all of them, named as in Linux's /proc/cpuinfo
    library = "lib/kernels.so"        # in the package: enough for a plugin without Python code
    module = "lcm_neon.plugin"        # a module with hooks, where there is more to say
    abi_min = 1                       # the oldest ABI that it also works at

    [variants]                        # other libraries: the first whose features are all there is taken
    "lib/kernels_i8mm.so" = ["i8mm"]  # in the place of `library`; without that, one has to fit

    [commands.neon-info]
    target = "lcm_neon.commands:info" # a click command
    help = "Show what the kernels were compiled for"

No other keys are allowed.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from lcm.errors import FileError

OSES = ("linux", "macos", "windows")
SYNONYMS = {"arm64": "aarch64", "amd64": "x86_64", "x64": "x86_64", "darwin": "macos"}
RESERVED = ("reference",)


@dataclass(frozen=True)
class Command:
    """A command that a plugin adds: where its click command is, and its line of help."""

    target: str
    help: str


@dataclass(frozen=True)
class Manifest:
    """The checked content of a `lcm_backend.toml`."""

    name: str
    abi: int
    summary: str
    os: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    library: str | None = None
    module: str | None = None
    abi_min: int | None = None
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    commands: Mapping[str, Command] = field(default_factory=dict)

    @property
    def libraries(self) -> tuple[str, ...]:
        """Every library that it names."""
        return (*([self.library] if self.library else []), *self.variants)

    def library_for(self, has: Callable[[str], bool]) -> str | None:
        """The library for a machine of which this says whether it has a feature."""
        fitting = (name for name, features in self.variants.items() if all(map(has, features)))
        return next(fitting, self.library)

    def least_features(self) -> list[str]:
        """Without a `library`, the least that its variants need: one of these has to be there."""
        if self.library is not None:
            return []
        needed = [frozenset(features) for features in self.variants.values()]
        least = (one for one in needed if not any(other < one for other in needed))
        return [" ".join(sorted(one)) for one in least]


def parse(text: str, where: str) -> Manifest:
    """The manifest in this TOML; `FileError` names `where`, the key and what it should be."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"{where}: not TOML: {error}") from error
    for key in data:
        if key not in CHECKS:
            raise FileError(f"{where}: unknown key {key!r}; there are: {', '.join(CHECKS)}")
    for key in ("name", "abi", "summary"):
        if key not in data:
            raise FileError(f"{where}: {key!r} is missing")
    if not {"library", "variants", "module"} & data.keys():
        raise FileError(f"{where}: needs 'library', 'variants' or 'module'")
    try:
        return Manifest(**{key: CHECKS[key](key, value) for key, value in data.items()})
    except _Unfit as error:
        raise FileError(f"{where}: {error}") from None


class _Unfit(ValueError):
    """What a key's value is not."""


def _text(key: str, value: Any, pattern: str, what: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise _Unfit(f"{key!r} must be {what}, not {value!r}")
    return value


def _name(key: str, value: Any) -> str:
    name = _text(key, value, r"[a-z][a-z0-9_-]{0,39}", "a short name in small letters")
    if name in RESERVED:
        raise _Unfit(f"{key!r} cannot be {name!r}, which is lcm's own")
    return name


def _summary(key: str, value: Any) -> str:
    return _text(key, value, r"[^\n]{1,200}", "one line of text")


def _abi(key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise _Unfit(f"{key!r} must be a whole number from 1 on, not {value!r}")
    return value


def _names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _Unfit(f"{key!r} must be a list, not {value!r}")
    for name in value:
        _text(key, name, r"[a-z][a-z0-9_]*", "a list of names in small letters")
        if name in SYNONYMS:
            raise _Unfit(f"{key!r}: write {SYNONYMS[name]!r} for {name!r}")
    return tuple(value)


def _oses(key: str, value: Any) -> tuple[str, ...]:
    names = _names(key, value)
    for name in names:
        if name not in OSES:
            raise _Unfit(f"{key!r}: no system {name!r}; there are: {', '.join(OSES)}")
    return names


def _library(key: str, value: Any) -> str:
    path = _text(key, value, r"[^\\:\0]+", "a path inside the package, with / in it")
    if path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise _Unfit(f"{key!r} must stay inside the package, not {path!r}")
    return path


def _module(key: str, value: Any) -> str:
    return _text(key, value, r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", "the dotted name of a module")


def _commands(key: str, value: Any) -> Mapping[str, Command]:
    commands = {}
    for name, table in value.items() if isinstance(value, dict) else [("", None)]:
        if not isinstance(table, dict) or set(table) != {"target", "help"}:
            raise _Unfit(f"'{key}.{name}' must have 'target' and 'help', and nothing else")
        target = _text(f"{key}.{name}.target", table["target"], r"[\w.]+:\w+", "module:attribute")
        commands[name] = Command(target, _summary(f"{key}.{name}.help", table["help"]))
    return commands


def _variants(key: str, value: Any) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise _Unfit(f"{key!r} must be a table of libraries and their features, not {value!r}")
    return {
        _library(key, path): _names(f"{key}.{path}", features) for path, features in value.items()
    }


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "name": _name,
    "abi": _abi,
    "summary": _summary,
    "os": _oses,
    "arch": _names,
    "features": _names,
    "library": _library,
    "module": _module,
    "abi_min": _abi,
    "variants": _variants,
    "commands": _commands,
}
