"""Texts that a model has read: a new text that begins as one of them goes on from where they part."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lcm import settings
from lcm.files.cache_folder import CacheFolder
from lcm.generate.decoder import Decoder, shared
from lcm.generate.prefix_files import PrefixFiles
from lcm.nn import Model


class Prefixes:
    """The keys and values of texts, in `memory` bytes at most; those not used for longest go first.

    Weights must not change while texts are kept. Several threads may read at once.
    """

    def __init__(self, model: Model, memory: int, files: PrefixFiles | None = None) -> None:
        self._model, self._memory, self._files = model, memory, files
        self._kept: list[Decoder] = []  # the one used last is the last
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, ids: Sequence[int]) -> Iterator[Decoder]:
        """A decoder that has read as much of the prompt as another text has of it, but for its last token.

        What it has read in the end is kept, except after an error.
        """
        decoder = self._of_memory(ids)
        if self._files:
            self._files.fill(decoder, ids)
        keeps = True
        try:
            yield decoder
        except Exception:
            keeps = False
            raise
        finally:
            if keeps:
                self._keep(decoder)

    def save(self) -> None:
        """Write the text that was read last to a file for other processes, where that will save them time."""
        if self._files and self._kept:
            self._files.save(self._kept[-1])

    def _of_memory(self, ids: Sequence[int]) -> Decoder:
        with self._lock:
            fitting = [d for d in self._kept if d.cache.suits(len(ids))]
            best = max(fitting, key=lambda d: shared(d.tokens, ids), default=None)
            common = min(shared(best.tokens, ids), len(ids) - 1) if best else 0
            if best is None or not common:
                return Decoder(self._model)
            if 2 * common >= best.cache.length:
                self._kept.remove(best)
                best.cache.rewind(common)
                return best
            return self._filled(best, common, ids)

    def _filled(self, other: Decoder, common: int, ids: Sequence[int]) -> Decoder:
        """A new one, where the other text is mostly another, and worth keeping as it is."""
        decoder = Decoder(self._model)
        decoder.fill(ids[:common], other.cache.layers(common), reach=len(ids))
        return decoder

    def _keep(self, decoder: Decoder) -> None:
        decoder.forget_programs()
        with self._lock:
            self._kept.append(decoder)
            while self._kept and sum(d.cache.bytes for d in self._kept) > self._memory:
                del self._kept[0]


def prefixes_of(model: Model, path: Path | None) -> Prefixes:
    """As the settings say, for a model from this folder or GGUF file; without one nothing is kept."""
    if path is None:
        return Prefixes(model, memory=0)
    folder = CacheFolder(settings.cache_dir() / "prefixes", settings.megabytes("prefix_files"))
    files = PrefixFiles(model, path, folder) if folder.limit else None
    return Prefixes(model, settings.megabytes("prefix_memory"), files)
