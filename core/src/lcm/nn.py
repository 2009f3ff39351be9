"""Layers: what the models are made of, and the places where they keep keys and values.

B batch   T tokens   D width   K key heads   Q head width   C capacity
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from lcm import formats, ops
from lcm.errors import ContextError
from lcm.formats.cached import cache_format
from lcm.memory import zeros
from lcm.tensor import Tensor, concat


class Module:
    """Something with parameters: its tensors, and those of the modules and lists of modules in it."""

    __call__: Callable[..., Tensor]
    same_input: tuple[str, ...] = ()  # linear layers that it asks by `products`

    def children(self) -> Iterator[tuple[str, "Module | Tensor"]]:
        """The tensors and modules directly in it, by name; a module in a list is named by its place."""
        for name, value in vars(self).items():
            if isinstance(value, (Module, Tensor)):
                yield name, value
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    yield f"{name}.{i}", item

    def modules(self) -> Iterator["Module"]:
        """It, and every module in it."""
        yield self
        for _, value in self.children():
            if isinstance(value, Module):
                yield from value.modules()

    def parameters(self) -> dict[str, Tensor]:
        """Every parameter by its full name; a shared one once, under its first name."""
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, value in self._walk(""):
            if id(value) not in seen:
                seen.add(id(value))
                found[name] = value
        return found

    def _walk(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.children():
            if isinstance(value, Tensor):
                yield prefix + name, value
            else:
                yield from value._walk(f"{prefix}{name}.")

    def initialise(self, rng: np.random.Generator) -> None:
        """Draw fresh parameters."""
        for _, value in self.children():
            if isinstance(value, Module):
                value.initialise(rng)

    def train(self, on: bool = True) -> None:
        """Whether the parameters want gradients."""
        for parameter in self.parameters().values():
            parameter.requires_grad = on
            parameter.grad = None


def parameter(*shape: int) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


class Linear(Module):
    """x @ weight.T + bias; drawn with the deviation `std`."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, std: float = 0.02) -> None:
        self.weight = parameter(outputs, inputs)
        self.bias = parameter(outputs) if bias else None
        self.product = ops.linear  # or an approximation of it
        self.joined: tuple[Linear, tuple[int, ...]] | None = None
        self._std = std

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.bias)

    def initialise(self, rng: np.random.Generator) -> None:
        self.weight.data[...] = rng.standard_normal(self.weight.shape, np.float32) * self._std


def products(x: Tensor, *layers: Linear) -> list[Tensor]:
    """What each of the layers makes of x (…, inputs).

    Of one row by one product for all that are `joined`: then the first of them says with it the layer that
    all are together, and how many outputs each has of it.
    """
    if x.size > x.shape[-1]:
        return [layer(x) for layer in layers]
    made: list[Tensor] = []
    while len(made) < len(layers):
        first = layers[len(made)]
        if first.joined is None:
            made.append(first(x))
            continue
        whole, outputs = first.joined
        y, ends = whole(x), np.cumsum(outputs).tolist()
        made += [y.slice(-1, end - n, end) for n, end in zip(outputs, ends, strict=True)]
    return made


class Embedding(Module):
    """weight[ids]."""

    def __init__(self, count: int, width: int, *, std: float = 0.02) -> None:
        self.weight = parameter(count, width)
        self._std = std

    def __call__(self, ids: Tensor) -> Tensor:
        return ops.embedding(self.weight, ids)

    def initialise(self, rng: np.random.Generator) -> None:
        self.weight.data[...] = rng.standard_normal(self.weight.shape, np.float32) * self._std


class RMSNorm(Module):
    """x / rms(x) * weight."""

    def __init__(self, width: int, eps: float) -> None:
        self.weight = parameter(width)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self._eps)

    def initialise(self, rng: np.random.Generator) -> None:
        self.weight.data[...] = 1


class LayerNorm(Module):
    """(x - mean) / deviation * weight + bias."""

    def __init__(self, width: int, eps: float) -> None:
        self.weight = parameter(width)
        self.bias = parameter(width)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, eps=self._eps)

    def initialise(self, rng: np.random.Generator) -> None:
        self.weight.data[...] = 1


Layers = Sequence[tuple[np.ndarray, np.ndarray]]  # each layer's keys and values, (B, T, K, Q) as stored


class LayerCache(Protocol):
    """Where one layer's attention finds the keys and values of what came before."""

    start: Tensor  # (B,) i32: how many positions each sequence already has

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, softcap: float = 0
    ) -> Tensor:
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
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, softcap: float = 0
    ) -> Tensor:
        return ops.attention(q, k, v, self.start, scale=scale, window=window, softcap=softcap)

    def self_attention(self, qkv: Tensor, *, scale: float) -> Tensor:
        return ops.self_attention(qkv, scale=scale)


def _zeros(shape: tuple[int, ...], format: str) -> Tensor:
    chosen = formats.FORMATS[format]
    return Tensor(zeros(chosen.stored(shape), chosen.storage), format)


class _Layer:
    def __init__(self, shape: tuple[int, ...], format: str, start: Tensor) -> None:
        self.k, self.v = _zeros(shape, format), _zeros(shape, format)
        self.start = start

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, softcap: float = 0
    ) -> Tensor:
        ops.cache_write(self.k, k, self.start)
        ops.cache_write(self.v, v, self.start)
        return ops.attention(
            q, self.k, self.v, self.start, scale=scale, window=window, softcap=softcap
        )

    def self_attention(self, qkv: Tensor, *, scale: float) -> Tensor:
        batch, tokens, _, heads, width = qkv.shape
        q, k, v = (qkv.slice(2, i, i + 1).reshape(batch, tokens, heads, width) for i in range(3))
        return self.attention(q, k, v, scale=scale)


class _OneByOneLayer(_Layer):
    """Another layer's keys and values, at which each new position looks alone."""

    def __init__(self, layer: _Layer, starts: list[Tensor]) -> None:
        self.k, self.v, self.start, self._starts = layer.k, layer.v, layer.start, starts

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int = 0, softcap: float = 0
    ) -> Tensor:
        ops.cache_write(self.k, k, self.start)
        ops.cache_write(self.v, v, self.start)
        return concat([
            ops.attention(
                q.slice(1, i, i + 1), self.k, self.v, start,
                scale=scale, window=window, softcap=softcap,
            )
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


class Model(Module, ABC):
    """What every architecture gives: hidden states, logits, and what a cache for it must hold."""

    config: Any
    model_type: str
    context: int  # positions
    vocabulary: int
    cache_shape: tuple[int, int, int]  # layers, key heads, head width
    short: int | None = None  # a longer text is read in another way from its start on

    @abstractmethod
    def hidden(self, ids: Tensor, cache: Cache) -> Tensor:
        """(B, T) ids to (B, T, D): the last layer's output, normalised."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """(B, T, D) to (B, T, vocabulary)."""

    def __call__(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """(B, T) ids to (B, T, vocabulary) logits."""
        return self.logits(self.hidden(ids, cache or NoCache(*ids.shape)))

    def reads_alike(self, tokens: int, others: int) -> bool:
        """Whether texts of so many tokens have the same keys and values as far as they begin alike."""
        return self.short is None or (tokens > self.short) == (others > self.short)

    def new_cache(self, batch: int = 1) -> KVCache:
        """An empty one, in the format that is set."""
        format = cache_format(self.cache_shape[-1])
        return KVCache(
            *self.cache_shape, context=self.context, batch=batch, short=self.short, format=format
        )
