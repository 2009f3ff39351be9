"""Small files that are read whole: only what is a file, only up to a size, only JSON within bounds."""

import json
import stat
from pathlib import Path
from typing import Any

from lcm.files.refusal import brief, refuse

# Bytes, which may take nine times as much memory: one wide character widens all.
MAX_JSON = 5 * 2**20
# Commas and brackets, of which a tensor's entry has about eight: each may cost 70 bytes of memory.
MAX_MARKS = 2**19
MARKS = (b",", b"[", b"{")


def read_whole(path: Path, most: int) -> bytes:
    """The bytes of a file that has at most so many; `OSError` where it cannot be read."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):  # a pipe would wait for its other end, a device may not end
        refuse(path, "is not a file", "check the path")
    if facts.st_size > most:
        refuse(path, f"has {facts.st_size} bytes, where {most} are allowed")
    with path.open("rb") as file:
        return file.read(most)


def read_json(path: Path) -> Any:
    """What a JSON file holds; `FileNotFoundError` where there is none."""
    try:
        raw = read_whole(path, MAX_JSON)
    except FileNotFoundError:
        raise
    except OSError as error:
        refuse(path, f"cannot be read: {error.strerror or error}", "check the path")
    try:
        return parse_json(raw)
    except ValueError as error:
        refuse(path, f"cannot be read as JSON: {error}")


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text, in which no table may have a key twice; `ValueError` says what is wrong."""
    if (marks := sum(map(raw.count, MARKS))) > MAX_MARKS:
        raise ValueError(f"it has {marks} commas and brackets, where {MAX_MARKS} are allowed")
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("its brackets are too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{brief(name)} is there twice")
        found[name] = value
    return found
