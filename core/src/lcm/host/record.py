"""The host record: facts about one machine, each with its source, as an object and as JSON."""

import dataclasses
import hashlib
import json
import math
import re
import struct
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

from lcm import settings
from lcm.errors import HostError, UsageError

T = TypeVar("T")

OS_NAMES = {"linux": "Linux", "macos": "macOS", "windows": "Windows"}


@dataclass(frozen=True)
class Fact(Generic[T]):
    """A value, and what said so: a file, a system call, a setting."""

    value: T
    source: str


@dataclass(frozen=True)
class Host:
    """One machine, as one process on it sees it. Sizes are in bytes; None is 'not known'."""

    os: Fact[str]  # linux, macos or windows
    arch: Fact[str]  # of this process: x86_64, aarch64 …
    label: Fact[str]  # what people call the processor
    features: Fact[frozenset[str]]
    vector_bits: Fact[int | None]  # length of an SVE vector
    l1d: Fact[int | None]
    l2: Fact[int | None]
    l3: Fact[int | None]
    cores: Fact[int]  # that this process may run on
    performance_cores: Fact[int]
    efficiency_cores: Fact[int]
    quota: Fact[float | None]  # of processor time, in cores
    page_size: Fact[int]
    memory: Fact[int | None]
    rosetta: Fact[bool]

    def threads(self) -> int:
        """How many threads kernels may use: LCM_THREADS, else the usable cores within the quota."""
        text = settings.get("threads")
        if not text:
            quota = self.quota.value
            return max(1, min(self.cores.value, math.ceil(quota) if quota else self.cores.value))
        if not (re.fullmatch("[0-9]{1,4}", text) and 1 <= int(text) <= 1024):
            raise UsageError(f"LCM_THREADS is {text[:20]!r}: must be a whole number from 1 to 1024")
        return int(text)

    def fingerprint(self) -> str:
        """Twelve hex digits that stay while measurements and verdicts made here stay valid."""
        matters = ("os", "arch", "label", "features", "vector_bits", "l1d", "l2", "l3", "cores")
        values = [_plain(getattr(self, name).value) for name in matters]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]

    def describe(self) -> str:
        """The system and architecture in words: `Linux (x86_64)`."""
        under = " under Rosetta" if self.rosetta.value else ""
        return f"{OS_NAMES.get(self.os.value, self.os.value)} ({self.arch.value}{under})"

    def has(self, *features: str) -> bool:
        """Whether the processor has all of these features."""
        return self.features.value.issuperset(features)

    def facts(self) -> dict[str, Fact[Any]]:
        """The facts by name, in the order in which they are declared."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def to_json(self) -> str:
        """The record as JSON text, one fact a line."""
        lines = [
            f"  {json.dumps(name)}: "
            + json.dumps({"value": _plain(fact.value), "source": fact.source})
            for name, fact in self.facts().items()
        ]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the record to a file that `Host.load` and LCM_HOST take."""
        try:
            Path(path).write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise HostError(f"{path}: cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Host":
        """Read a saved record; `HostError` names the file and the key that is wrong."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise HostError(f"{path}: not a readable host record: {error}") from error
        _same_keys(path, "", data, [field.name for field in dataclasses.fields(cls)])
        return cls(**{name: _load_fact(path, name, fact) for name, fact in data.items()})


# What the value of each fact may be, in a saved record.
_NUMBER_OR_NONE: tuple[type, ...] = (int, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    "os": (str,), "arch": (str,), "label": (str,), "features": (list,), "rosetta": (bool,),
    "vector_bits": _NUMBER_OR_NONE, "l1d": _NUMBER_OR_NONE, "l2": _NUMBER_OR_NONE,
    "l3": _NUMBER_OR_NONE, "memory": _NUMBER_OR_NONE, "cores": (int,), "page_size": (int,),
    "performance_cores": (int,), "efficiency_cores": (int,), "quota": (int, float, type(None)),
}  # fmt: skip


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


def _same_keys(path: object, where: str, data: object, names: list[str]) -> None:
    if not isinstance(data, dict):
        raise HostError(f"{path}: {where or 'the record'} must be a JSON object")
    inside = f" in {where!r}" if where else ""
    for name in sorted(set(data) ^ set(names)):
        problem = "missing" if name in names else "unknown"
        raise HostError(f"{path}: {problem} key {name!r}{inside}; save it again: lcm host --save")


def _load_fact(path: object, name: str, data: Any) -> Fact[Any]:
    _same_keys(path, name, data, ["value", "source"])
    value, types = data["value"], _TYPES[name]
    right = isinstance(value, types) and (types == (bool,) or not isinstance(value, bool))
    if right and types == (list,):
        right = all(isinstance(feature, str) for feature in value)
        value = frozenset(value) if right else value
    if not right or not isinstance(data["source"], str):
        raise HostError(f"{path}: {name!r} cannot have the value {value!r}")
    return Fact(value, data["source"])


POINTER_BITS = struct.calcsize("P") * 8  # of this process


def architecture(machine: str, *, bits: int) -> str:
    """The architecture of a process with pointers of `bits` on a machine of that name."""
    names = {"arm64": "aarch64", "amd64": "x86_64", "armv7l": "arm", "armv8l": "arm"}
    arch = names.get(machine.lower(), machine.lower())
    return arch if bits == 64 else {"x86_64": "x86", "aarch64": "arm"}.get(arch, arch)
