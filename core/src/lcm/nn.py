"""Layers: what the models are made of, and the places where they keep keys and values.

B batch   T tokens   D width   K key heads   Q head width   C capacity
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from lcm import ops
from lcm.errors import ContextError
from lcm.memory import zeros
from lcm.tensor import Tensor


class Module:
    """Something with parameters: its tensors, and those of the modules and lists of modules in it."""

    __call__: Callable[..., Tensor]

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
        self._std = std

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.bias)

    def initialise(self, rng: np.random.Generator) -> None:
        self.weight.data[...] = rng.standard_normal(self.weight.shape, np.float32) * self._std


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


class _Layer:
    def __init__(self, shape: tuple[int, ...], start: Tensor) -> None:
        self.k = Tensor(zeros(shape, np.float32))
        self.v = Tensor(zeros(shape, np.float32))
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


class KVCache:
    """Keys and values of every layer for a batch of sequences of equal length.

    It has room for `capacity` positions, and makes more, twice as many each time, up to `context`: buffers
    stay small for short texts, and keep their place in memory between two growths.

    Where a model reads a text of more than `short` tokens in another way from its start on, what is here is
    right for texts on one side of that only.
    """

    FIRST = 128

    def __init__(
        self, layers: int, kv_heads: int, width: int, *, context: int, batch: int = 1,
        short: int | None = None,
    ) -> None:  # fmt: skip
        self.context = context
        self.length = self.reach = 0
        self.capacity = min(self.FIRST, context)
        self.start = Tensor(np.zeros(batch, np.int32))
        self._short = context if short is None else short
        self._shape = (kv_heads, width)
        self._layers = [_Layer(self._full_shape(), self.start) for _ in range(layers)]

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
        new = zeros(self._full_shape(), np.float32)
        new[:, : self.length] = old.data[:, : self.length]
        return Tensor(new)

    def advance(self, tokens: int) -> None:
        """The last `tokens` rows written are part of the text now."""
        self.length += tokens
        self.start.data += tokens

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        self.length = length
        self.start.data[...] = length


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

    def new_cache(self, batch: int = 1) -> KVCache:
        return KVCache(*self.cache_shape, context=self.context, batch=batch, short=self.short)
