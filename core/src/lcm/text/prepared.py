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
from lcm.text.compact import compact
from lcm.text.gguf import config_of, facts_of

VERSION = 2  # of what `facts_of` and `config_of` make of a file
LIMIT = 200_000_000  # bytes of these files


def facts_of_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a tokenizer.json, compact, and a tokenizer_config.json would hold; `FileError` as `facts_of`."""
    if not path.is_file():
        open_gguf(path)  # says what is wrong
    key = json.dumps([VERSION, identity(path)]).encode()
    folder = CacheFolder(settings.cache_dir() / "tokenizers", LIMIT)
    file = folder.path / f"{hashlib.sha256(key).hexdigest()[:24]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):  # it is not there, or damaged
        facts, config = json.loads(file.read_bytes())
        if "vocab" in facts["model"]:
            folder.used(file)
            return facts, config
    metadata = open_gguf(path).metadata
    facts, config = compact(facts_of(metadata)), config_of(metadata)
    _keep(folder, file, [facts, config])
    return facts, config


def _keep(folder: CacheFolder, file: Path, what: Any) -> None:
    text = json.dumps(what, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with suppress(FileError):  # then it takes as long again
        folder.make_room(len(text))
        write_atomically(file, lambda out: out.write(text), flush=False)
