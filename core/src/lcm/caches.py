"""Where models keep the keys and values of a text, layer by layer.

B batch   T tokens   H query heads   K key heads   Q head width
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lcm import formats, ops
from lcm.errors import ContextError
from lcm.memory import zeros
from lcm.tensor import Tensor, concat

Layers = Sequence[tuple[np.ndarray, np.ndarray]]  # each layer's keys and values, (B, T, K, Q) as stored


class LayerCache(Protocol):
    """Where one layer's attention finds the keys and values of what came before."""

    start: Tensor  # (B,) i32: how many positions each sequence already has

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, softcap: float = 0,
        sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Take in T more keys and values (B, T, K, Q), and look at all: (B, T, H, Q), as q is."""

    def self_attention(self, qkv: Tensor, *, scale: float) -> Tensor:
        """The same for the three in one array, (B, T, 3, H, Q)."""


class Cache(Protocol):
    """Every layer's cache."""

    start: Tensor
    capacity: int  # positions that there may be before the buffers move
    reach: int  # how long the text is to become, as far as it was said

    def layer(self, index: int) -> LayerCache: ...


class NoCache:
    """Nothing came before: what training uses, and every layer's own cache at once."""

    def __init__(self, batch: int, tokens: int) -> None:
        self.start = Tensor(np.zeros(batch, np.int32))
        self.capacity = self.reach = tokens

    def layer(self, index: int) -> "NoCache":
        return self

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, softcap: float = 0,
        sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        return _look(q, k, v, self.start, scale, window, softcap, sinks)

    def self_attention(self, qkv: Tensor, *, scale: float) -> Tensor:
        return ops.self_attention(qkv, scale=scale)


def _look(
    q: Tensor, k: Tensor, v: Tensor, start: Tensor, scale: float, window: int, softcap: float,
    sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    if sinks is None:
        return ops.attention(q, k, v, start, scale=scale, window=window, softcap=softcap)
    assert not softcap, "no model has both"
    return ops.attention_with_sinks(q, k, v, sinks, start, scale=scale, window=window)


def _zeros(shape: tuple[int, ...], format: str) -> Tensor:
    chosen = formats.FORMATS[format]
    return Tensor(zeros(chosen.stored(shape), chosen.storage), format)


class _Layer:
    def __init__(self, shape: tuple[int, ...], format: str, start: Tensor) -> None:
        self.k, self.v = _zeros(shape, format), _zeros(shape, format)
        self.start = start

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, softcap: float = 0,
        sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        ops.cache_write(self.k, k, self.start)
        ops.cache_write(self.v, v, self.start)
        return _look(q, self.k, self.v, self.start, scale, window, softcap, sinks)

    def self_attention(self, qkv: Tensor, *, scale: float) -> Tensor:
        batch, tokens, _, heads, width = qkv.shape
        q, k, v = (qkv.slice(2, i, i + 1).reshape(batch, tokens, heads, width) for i in range(3))
        return self.attention(q, k, v, scale=scale)


class _OneByOneLayer(_Layer):
    """Another layer's keys and values, at which each new position looks alone."""

    def __init__(self, layer: _Layer, starts: list[Tensor]) -> None:
        self.k, self.v, self.start, self._starts = layer.k, layer.v, layer.start, starts

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, softcap: float = 0,
        sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        ops.cache_write(self.k, k, self.start)
        ops.cache_write(self.v, v, self.start)
        return concat([
            _look(q.slice(1, i, i + 1), self.k, self.v, start, scale, window, softcap, sinks)
            for i, start in enumerate(self._starts)
        ], axis=1)  # fmt: skip


class OneByOne:
    """A cache for `tokens` new positions, at which each looks alone: attention gives it the bits of a step.

    Whatever else a model does to several positions at once is up to its kernels.
    """

    def __init__(self, cache: "KVCache", tokens: int) -> None:
        self.start, self.capacity, self.reach = cache.start, cache.capacity, cache.reach
        self._starts = [cache.start + i for i in range(tokens)]
        self._cache = cache

    def layer(self, index: int) -> LayerCache:
        return _OneByOneLayer(self._cache.layer(index), self._starts)


class KVCache:
    """Keys and values of every layer for a batch of sequences of equal length.

    It has room for `capacity` positions, and makes more, twice as many each time, up to `context`: buffers
    stay small for short texts, and keep their place in memory between two growths.

    Where a model reads a text of more than `short` tokens in another way from its start on, what is here is
    right for texts on one side of that only.

    Its numbers are kept in `format`: f32, f16 or q8_0.
    """

    FIRST = 128

    def __init__(
        self, layers: int, kv_heads: int, width: int, *, context: int, batch: int = 1,
        short: int | None = None, format: str = "f32",
    ) -> None:  # fmt: skip
        self.context = context
        self.format = format
        self.length = self.reach = 0
        self.capacity = min(self.FIRST, context)
        self.start = Tensor(np.zeros(batch, np.int32))
        self._short = context if short is None else short
        self._shape = (kv_heads, width)
        self._layers = [_Layer(self._full_shape(), format, self.start) for _ in range(layers)]

    def _full_shape(self) -> tuple[int, ...]:
        return (len(self.start), self.capacity, *self._shape)

    def layer(self, index: int) -> _Layer:
        return self._layers[index]

    def reserve(self, tokens: int) -> bool:
        """Make room for more tokens; True if what was recorded is out of date, since the buffers moved.

        `ContextError` when the context is full, or a text has become too long for what is here of it.
        """
        needed = self.length + tokens
        if needed > self.context:
            raise ContextError(
                f"{needed} tokens do not fit: the model's context is {self.context}; "
                "shorten the prompt or ask for fewer new tokens"
            )
        otherwise = (needed > self._short) != (self.reach > self._short)
        if otherwise and self.length:
            raise ContextError(
                f"{needed} tokens: the model reads a text of more than {self._short} in another way "
                "from its start on; begin again with the whole text"
            )
        self.reach = needed
        return self._grow(needed) or otherwise

    def _grow(self, needed: int) -> bool:
        if needed <= self.capacity:
            return False
        self.capacity = min(
            self.context, self.FIRST << max(0, math.ceil(math.log2(needed / self.FIRST)))
        )
        for layer in self._layers:
            layer.k, layer.v = self._grown(layer.k), self._grown(layer.v)
        return True

    def _grown(self, old: Tensor) -> Tensor:
        new = _zeros(self._full_shape(), self.format)
        new.data[:, : self.length] = old.data[:, : self.length]
        return new

    def advance(self, tokens: int) -> None:
        """The last `tokens` rows written are part of the text now."""
        self.length += tokens
        self.start.data += tokens

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        self.length = length
        self.start.data[...] = length

    @property
    def room(self) -> int:
        """How many more tokens it can take in."""
        short = self.length and self.reach <= self._short
        return (self._short if short else self.context) - self.length

    def suits(self, tokens: int) -> bool:
        """Whether what is here is right for a text of so many tokens that begins with it."""
        return (tokens > self._short) == (self.reach > self._short)

    @property
    def bytes(self) -> int:
        """The memory that it takes, used or not."""
        return sum(layer.k.data.nbytes + layer.v.data.nbytes for layer in self._layers)

    def layers(self, length: int) -> Layers:
        """Each layer's keys and values of the first `length` positions, as they are stored: views."""
        return [(layer.k.data[:, :length], layer.v.data[:, :length]) for layer in self._layers]

    def fill(self, layers: Layers, reach: int) -> None:
        """Begin with what another cache of this shape had, for a text that is to have `reach` tokens."""
        length = layers[0][0].shape[1]
        self.length, self.reach = 0, reach
        self._grow(reach)
        for mine, (k, v) in zip(self._layers, layers, strict=True):
            mine.k.data[:, :length], mine.v.data[:, :length] = k, v
        self.rewind(length)
