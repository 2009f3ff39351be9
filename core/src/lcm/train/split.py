"""One side of a dataset: its tokens, mapped, and the windows of them that batches are made of.

A batch is a pure function of its position, so a run that resumes at a position goes on exactly.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lcm.errors import DataError

IGNORE = -100  # a target that no loss counts
Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Span:
    """Where a document's tokens start in its split, and how many bytes of text they are."""

    name: str
    size: int
    start: int


class Split:
    """Documents one after the other, each with an end-of-text token behind it."""

    def __init__(self, name: str, shards: Sequence[np.ndarray], documents: Sequence[Span]) -> None:
        self.name = name
        self.documents = tuple(documents)
        self._shards = tuple(shards)
        self._starts = [0]
        for shard in shards:
            self._starts.append(self._starts[-1] + len(shard))

    @property
    def tokens(self) -> int:
        return self._starts[-1]

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens from `start` to `stop`, int32 (stop - start,)."""
        first = bisect_right(self._starts, start) - 1
        parts = []
        for shard, at in zip(self._shards[first:], self._starts[first:], strict=False):
            if at >= stop:
                break
            parts.append(shard[max(start - at, 0) : stop - at])
        return np.concatenate(parts, dtype=np.int32) if parts else np.empty(0, np.int32)

    def windows(self, context: int) -> int:
        """How many windows an epoch has; each predicts `context` tokens from those before."""
        if self.tokens < context + 1:
            raise DataError(f"the {self.name} split has {self.tokens} tokens, but a context of "
                            f"{context} needs {context + 1}; give more files")  # fmt: skip
        return self.tokens // context

    def batch(self, position: int, *, batch: int, context: int, seed: int) -> Batch:
        """Windows `position` to `position + batch` of the endless sequence of epochs.

        inputs and targets, both int32 (batch, context). Every epoch visits each window once, in an
        order and from an offset of its own; the window over the end goes on at the beginning.
        """
        rows = np.stack([
            self._read_around(start, context + 1)
            for start in self._window_starts(position, batch, context, seed)
        ])  # fmt: skip
        return rows[:, :-1].copy(), rows[:, 1:].copy()

    def evaluation_batches(
        self, batch: int, context: int, limit: int | None = None
    ) -> Iterator[Batch]:
        """The split once, in order, without overlap; at most `limit` batches of one fixed shape.

        What is behind the end has the target `IGNORE`.
        """
        if self.tokens < 2:
            raise DataError(f"the {self.name} split has {self.tokens} tokens; nothing to evaluate")
        step = batch * context
        for number, start in enumerate(range(0, self.tokens - 1, step)):
            if number == limit:
                return
            inputs = np.zeros(step, np.int32)
            targets = np.full(step, IGNORE, np.int32)
            found = self.read(start, min(start + step + 1, self.tokens))
            inputs[: len(found) - 1] = found[:-1]
            targets[: len(found) - 1] = found[1:]
            yield inputs.reshape(batch, context), targets.reshape(batch, context)

    def sources(self, position: int, batch: int, context: int, seed: int) -> list[str]:
        """The files that this batch's tokens come from, in order, each once."""
        found: dict[str, None] = {}
        for start in self._window_starts(position, batch, context, seed):
            end = start + context + 1
            found |= dict.fromkeys(self._names(start, min(end, self.tokens)))
            found |= dict.fromkeys(self._names(0, end - self.tokens))
        return list(found)

    def _window_starts(self, position: int, batch: int, context: int, seed: int) -> list[int]:
        windows = self.windows(context)
        starts = []
        for i in range(position, position + batch):
            offset, order = _epoch(seed, i // windows, windows, context)
            starts.append(offset + int(order[i % windows]) * context)
        return starts

    def _read_around(self, start: int, count: int) -> np.ndarray:
        found = self.read(start, min(start + count, self.tokens))
        if len(found) == count:
            return found
        return np.concatenate([found, self.read(0, count - len(found))])

    def _names(self, start: int, stop: int) -> list[str]:
        first = bisect_right(self.documents, start, key=lambda span: span.start) - 1
        last = bisect_right(self.documents, stop - 1, key=lambda span: span.start)
        return [span.name for span in self.documents[first:last]] if stop > 0 else []


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, windows: int, context: int) -> tuple[int, np.ndarray]:
    """An offset in [0, context) and an order of the windows.

    Made of raw random bits, which numpy promises never to change, as it does not for shuffles.
    """
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(windows + 1)
    return int(bits[0] % context), np.argsort(bits[1:], kind="stable")
