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
        "on: weights in blocks are laid out for kernels when they are loaded; off: not",
    ),
    "openblas": ("", "path of a system OpenBLAS library to use instead of scipy-openblas32"),
    "cache_dir": ("", "where measurements, verdicts and prepared data are kept"),
    "models_dir": ("", "a folder with models that are found by name"),
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
