"""Where a model's chat templates are: in a folder's files, in a tokenizer_config.json, in a GGUF file.

A template is the source of a Jinja template. A model has one, called `default`, or several by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcm.errors import FileError
from lcm.files.reading import read_whole

DEFAULT = "default"
FILE = "chat_template.jinja"
OTHERS = "additional_chat_templates"  # the folder of those that have another name
LARGEST = 2**18  # bytes of a template's file
KEY = "chat_template"  # in a tokenizer_config.json; in a GGUF file behind `tokenizer.`


def sources_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The templates by name that a tokenizer_config.json holds: one text, or a list with names."""
    said = config.get(KEY)
    if said is None:
        return {}
    if isinstance(said, str):
        return {DEFAULT: said}
    if not isinstance(said, list) or not all(map(_is_named, said)):
        raise FileError(
            "tokenizer_config.json: chat_template is neither a text nor a list of texts with names; "
            "download it again, or name another with --template"
        )
    return {one["name"]: one["template"] for one in said}


def in_folder(folder: Path) -> dict[str, str]:
    """The templates that have files of their own, which come before those of the configuration."""
    paths = {path.stem: path for path in sorted(folder.glob(f"{OTHERS}/*.jinja"))}
    if (folder / FILE).is_file():
        paths[DEFAULT] = folder / FILE
    return {name: read(path) for name, path in paths.items()}


def read(path: Path) -> str:
    """The template in a file."""
    try:
        return read_whole(path, LARGEST).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read as a chat template: {error}") from None


def in_gguf(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Those under `tokenizer.chat_template`, and under its name behind that."""
    key = f"tokenizer.{KEY}"
    found = {DEFAULT: metadata[key]} if key in metadata else {}
    found |= {k[len(key) + 1 :]: metadata[k] for k in metadata if k.startswith(f"{key}.")}
    for name, source in found.items():
        if not isinstance(source, str):
            raise FileError(f"GGUF metadata: the chat template {name!r} ({key}) is no text; "
                            "convert the model again")  # fmt: skip
    return found


def as_config(sources: Mapping[str, str]) -> dict[str, Any]:
    """What a tokenizer_config.json says of these templates."""
    if not sources:
        return {}
    if list(sources) == [DEFAULT]:
        return {KEY: sources[DEFAULT]}
    return {KEY: [{"name": name, "template": source} for name, source in sources.items()]}


def as_metadata(sources: Mapping[str, str]) -> dict[str, Any]:
    """What a GGUF file says of these templates."""
    key = f"tokenizer.{KEY}"
    others = sorted(sources.keys() - {DEFAULT})
    found: dict[str, Any] = {f"{key}.{name}": sources[name] for name in others}
    if others:
        found[f"{key}s"] = others
    return found | ({key: sources[DEFAULT]} if DEFAULT in sources else {})


def _is_named(one: Any) -> bool:
    return isinstance(one, dict) and all(isinstance(one.get(k), str) for k in ("name", "template"))
