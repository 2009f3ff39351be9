"""The tokenizer of a GGUF file, prepared: what its metadata says, kept in a form that is read sooner."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from lcm import settings
from lcm.errors import FileError
from lcm.files.atomic import write_atomically
from lcm.files.cache_folder import CacheFolder, identity
from lcm.files.gguf import open_gguf
from lcm.text.gguf import config_of, facts_of

VERSION = 1  # of what `facts_of` and `config_of` make of a file
LIMIT = 200_000_000  # bytes of these files


def facts_of_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a tokenizer.json and a tokenizer_config.json would hold; `FileError` as `facts_of`."""
    if not path.is_file():
        open_gguf(path)  # says what is wrong
    key = json.dumps([VERSION, identity(path)]).encode()
    folder = CacheFolder(settings.cache_dir() / "tokenizers", LIMIT)
    file = folder.path / f"{hashlib.sha256(key).hexdigest()[:24]}.json"
    try:
        facts, config = json.loads(file.read_bytes())
        folder.used(file)
        return _whole(facts), config
    except (OSError, ValueError, TypeError, KeyError):  # not there, or damaged
        metadata = open_gguf(path).metadata
        facts, config = facts_of(metadata), config_of(metadata)
        _keep(folder, file, [_short(facts), config])
        return facts, config


def _keep(folder: CacheFolder, file: Path, what: Any) -> None:
    text = json.dumps(what, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with suppress(FileError):  # then it takes as long again
        folder.make_room(len(text))
        write_atomically(file, lambda out: out.write(text), flush=False)


def _short(facts: dict[str, Any]) -> dict[str, Any]:
    """With the words and merges of a BPE as one text each, without quotes and pairs."""
    model = facts["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    if [*model["vocab"].values()] != [*range(len(words))] or any("\n" in word for word in words):
        return facts
    merges = (" ".join(pair) for pair in model["merges"])
    return facts | {"model": model | {"vocab": "\n".join(words), "merges": "\n".join(merges)}}


def _whole(facts: dict[str, Any]) -> dict[str, Any]:
    model = facts["model"]
    if isinstance(model["vocab"], str):
        words = model["vocab"].split("\n")
        model["vocab"] = dict(zip(words, range(len(words)), strict=True))
        model["merges"] = [tuple(line.split(" ")) for line in model["merges"].split("\n") if line]
    return facts
