"""Texts that a model has read, in files of the cache: what one process has read, the next need not."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcm import settings
from lcm.caches import Layers
from lcm.errors import FileError, LcmWarning
from lcm.files.cache_folder import CacheFolder, identity
from lcm.files.safetensors import SafetensorsFile, open_safetensors, save_safetensors
from lcm.generate.decoder import Decoder, shared
from lcm.nn import Model

VERSION = 1  # of what the files hold
SHORTEST = 64  # tokens: fewer are read again sooner than found
PART = 16  # a text that is new in less than one part of so many is not written again


@dataclass(frozen=True)
class Found:
    """A file, and how many tokens it and a text both begin with."""

    path: Path
    length: int
    file: SafetensorsFile

    def layers(self, like: Layers) -> Layers:
        """Each layer's keys and values of these tokens, from the mapped file, as a cache has them."""

        def part(name: str, array: np.ndarray) -> np.ndarray:
            rows = self.file[name][: self.length]
            return rows.view(array.dtype).reshape(1, self.length, *array.shape[2:])

        return [(part(f"{i}.k", k), part(f"{i}.v", v)) for i, (k, v) in enumerate(like)]


class PrefixFiles:
    """Files of one model's texts, in a folder of files of all models' texts.

    They are written whole or not at all, under a name that follows from what is in them, so that several
    processes may use the folder at once. They hold the texts' tokens, and are for the user's eyes only.
    """

    def __init__(self, model: Model, path: Path, folder: CacheFolder) -> None:
        """For a model from this folder or GGUF file: of another file's numbers nothing is used."""
        self._model, self._folder = model, folder
        self._like = model.new_cache().layers(1)
        named = [settings.get(name) for name in ("activations", "cache_format")]
        facts = json.dumps([VERSION, named, identity(path)])
        self._key = hashlib.sha256(facts.encode()).hexdigest()[:16]

    def fill(self, decoder: Decoder, ids: Sequence[int]) -> None:
        """Let the decoder begin with what a file has of the text, if that is more than the decoder has.

        The text's last token is not taken: it must be read, for the logits after it.
        """
        if len(ids) - decoder.cache.length < SHORTEST:
            return
        best = max(self._all(ids), key=lambda found: found.length, default=None)
        if best and best.length > decoder.cache.length:
            self._folder.used(best.path)
            decoder.fill(ids[: best.length], best.layers(self._like), reach=len(ids))

    def save(self, decoder: Decoder) -> None:
        """Write what the decoder has read, in place of files that it goes on from, if enough is new."""
        tokens = decoder.tokens
        size = sum(array.nbytes for pair in decoder.cache.layers(len(tokens)) for array in pair)
        if len(tokens) < SHORTEST or size > self._folder.limit:
            return
        known = list(self._all(tokens))
        new = len(tokens) - max((found.length for found in known), default=0)
        if new * PART < len(tokens):
            return
        try:
            for found in known:
                if 2 * found.length >= found.file.shape("tokens")[0]:
                    found.path.unlink(missing_ok=True)
            self._folder.make_room(size)
            self._write(tokens, decoder.cache.layers(len(tokens)))
        except (FileError, OSError) as error:
            warnings.warn(LcmWarning(f"{error}; this text will be read again"), stacklevel=2)

    def _write(self, tokens: Sequence[int], layers: Layers) -> None:
        arrays = {"tokens": np.array(tokens, np.int32)}
        for i, (k, v) in enumerate(layers):
            for name, array in ((f"{i}.k", k), (f"{i}.v", v)):
                arrays[name] = array.reshape(len(tokens), -1).view(np.uint8)
        text = hashlib.sha256(arrays["tokens"].tobytes()).hexdigest()[:16]
        self._folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_safetensors(self._folder.path / f"{self._key}-{text}", arrays)

    def _all(self, ids: Sequence[int]) -> Iterator[Found]:
        """Every file of this model that is right for a text of so many tokens."""
        for path in sorted(self._folder.path.glob(f"{self._key}-*")):
            try:
                file = self._opened(path)
                tokens = file["tokens"].tolist()
            except FileError as error:
                _remove(path, error)
                continue
            if self._model.reads_alike(len(tokens), len(ids)):
                yield Found(path, min(shared(tokens, ids), len(ids) - 1), file)

    def _opened(self, path: Path) -> SafetensorsFile:
        """The file, checked: as many layers as the model has, of as many bytes, for so many tokens."""
        file = open_safetensors(path)
        count = file.shape("tokens")[0] if "tokens" in file and file.shape("tokens") else 0
        wanted: dict[str, tuple[str, tuple[int, ...]]] = {"tokens": ("i32", (count,))}
        for i, pair in enumerate(self._like):
            for name, array in zip("kv", pair, strict=True):
                wanted[f"{i}.{name}"] = ("u8", (count, array.nbytes))
        if not count or wanted != {name: (file.formats[name], file.shape(name)) for name in file}:
            raise FileError(f"{path}: holds no text that this model has read")
        return file


def _remove(path: Path, error: FileError) -> None:
    with suppress(OSError):  # as where another process has removed it
        path.unlink()
        why = f"{error}; it is removed, and its text is read again"
        warnings.warn(LcmWarning(why), stacklevel=5)
