"""What the user has set, and where: environment first, then the configuration file, then the default."""

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lcm.errors import UsageError

# name: (default, what it means). The environment's name is LCM_ and the name in capitals.
SETTINGS = {
    "backend": (
        "",
        "the backend that every op should run on, by name; empty: the fastest measured",
    ),
    "threads": ("", "how many threads kernels may use; empty: the cores this process may use"),
    "host": (
        "",
        "a saved host record (a file, or the name of a shipped one) to use instead of probing",
    ),
    "isa_mask": ("", "instruction-set features to take away, separated by commas"),
    "disable": ("", "backends that must not be used, separated by commas"),
    "trust": (
        "",
        "backends that are used without having been tried in a process of their own first, separated by "
        "commas: for machines that forget between starts, and on which they have been tried",
    ),
    "tune": (
        "auto",
        "auto: commands that run a model measure, once and for 2 s at most, which backend is fastest "
        "for it; off: only lcm tune measures",
    ),
    "activations": (
        "int8",
        "what meets weights that are stored in blocks, such as q8_0: int8 rounds it to 8 bits, which is "
        "fast; f32 does not",
    ),
    "interleave": (
        "on",
        "on: weights in blocks are laid out for kernels, once, in a file of the cache's folder; off: not",
    ),
    "packed_files": ("20000", "MB of such files, of all models together; 0: none"),
    "cache_format": (
        "f32",
        "how a model that writes keeps the keys and values of its text: f32, f16 (half the memory), or q8_0 "
        "(a quarter; for heads of whole blocks of 32 numbers)",
    ),
    "speculate": (
        "ngram",
        "ngram: tokens are guessed from what the text repeats, and read several at a time; off: one by one",
    ),
    "prefix_memory": (
        "512",
        "MB of memory for texts that a model has read, so that a text that begins as one of them is "
        "read sooner; 0: none",
    ),
    "prefix_files": (
        "512",
        "MB of such texts in the cache's folder, for the next run of a command; 0: none",
    ),
    "openblas": ("", "path of a system OpenBLAS library to use instead of scipy-openblas32"),
    "cache_dir": ("", "where measurements, verdicts and prepared data are kept"),
    "model": (
        "",
        "the model that is taken where none is named: a path, a name, or hub:owner/name; empty: one that is "
        "installed",
    ),
    "models_dir": ("", "a folder with models that are found by name"),
    "offline": (
        "off",
        "on: of models on a hub only what is in the cache is used; off: the rest is fetched",
    ),
}


@dataclass(frozen=True)
class Setting:
    """A value, and where it came from: 'environment LCM_…', a file's path, or 'default'."""

    value: str
    source: str


def find(name: str) -> Setting:
    """The setting of this name and its source; `UsageError` where the configuration is broken."""
    default, _ = SETTINGS[name]
    variable = f"LCM_{name.upper()}"
    if os.environ.get(variable):
        return Setting(os.environ[variable], f"environment {variable}")
    path = config_file()
    values = _read_config(path, path.stat().st_mtime_ns) if path.exists() else {}
    if name in values:
        return Setting(values[name], str(path))
    return Setting(default, "default")


def get(name: str) -> str:
    """The value of the setting `name`, as text; empty when it is not set."""
    return find(name).value


def megabytes(name: str) -> int:
    """The setting `name`, a number of MB, in bytes."""
    setting = find(name)
    if not setting.value.isdecimal():
        raise UsageError(f"{setting.source}: {name} is a number of MB, not {setting.value!r}")
    return int(setting.value) * 10**6


def config_file() -> Path:
    """The user's configuration, a TOML file with one `name = value` line a setting."""
    import platformdirs

    return Path(platformdirs.user_config_dir("lcm", appauthor=False)) / "config.toml"


def cache_dir() -> Path:
    """The folder for whatever can be made again."""
    import platformdirs

    return Path(get("cache_dir") or platformdirs.user_cache_dir("lcm", appauthor=False))


@cache
def _read_config(path: Path, mtime: int) -> dict[str, str]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as TOML: {error}") from error
    for name in values:
        if name not in SETTINGS:
            raise UsageError(f"{path}: no setting {name!r}; there are: {', '.join(SETTINGS)}")
    return {name: str(value) for name, value in values.items()}
