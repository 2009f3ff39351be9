"""Token files on disk: written one after the other up to a size, mapped, and checked by hash."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lcm.errors import FileError


@dataclass(frozen=True)
class Shard:
    """A file of little-endian unsigned tokens, and what it must hold."""

    file: str
    tokens: int
    sha256: str


class ShardWriter:
    """Writes the tokens of one split to `<split>-00000.bin` and so on, `limit` tokens each."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype[Any], limit: int) -> None:
        self.tokens = 0
        self._folder, self._split, self._dtype, self._limit = folder, split, dtype, limit
        self._shards: list[Shard] = []
        self._file: BinaryIO | None = None
        self._written = 0
        self._hash = hashlib.sha256()

    def add(self, tokens: np.ndarray) -> None:
        self.tokens += len(tokens)
        while len(tokens):
            if self._file is None:
                self._file = (self._folder / self._name()).open("wb")
            part = tokens[: self._limit - self._written]
            content = part.astype(self._dtype).tobytes()
            self._file.write(content)
            self._hash.update(content)
            self._written += len(part)
            if self._written == self._limit:
                self._close()
            tokens = tokens[len(part) :]

    def finish(self) -> list[Shard]:
        self._close()
        return self._shards

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._shards.append(Shard(self._name(), self._written, self._hash.hexdigest()))
            self._file, self._written, self._hash = None, 0, hashlib.sha256()

    def _name(self) -> str:
        return f"{self._split}-{len(self._shards):05d}.bin"


def open_shard(folder: Path, shard: Shard, dtype: np.dtype[Any]) -> np.ndarray:
    """The shard's tokens, mapped; `FileError` unless they are what was written."""
    path = folder / shard.file
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if path.stat().st_size != shard.tokens * dtype.itemsize or digest != shard.sha256:
            raise FileError(f"{path}: does not hold what was written; prepare the data again")
        return np.memmap(path, dtype, "r", shape=(shard.tokens,)).view(np.ndarray)
    except OSError as error:
        raise FileError(
            f"{path}: cannot be read: {error.strerror}; prepare the data again"
        ) from error
