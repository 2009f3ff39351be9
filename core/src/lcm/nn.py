"""Layers: what the models are made of.

B batch   T tokens   D width
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from lcm import ops
from lcm.caches import Cache, KVCache, NoCache
from lcm.formats.cached import cache_format
from lcm.tensor import Tensor


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
        """Draw fresh parameters; they are 0 where a module does not say otherwise."""
        for _, value in self.children():
            if isinstance(value, Module):
                value.initialise(rng)
            else:
                value.data = np.zeros(value.shape, np.float32)

    def train(self, on: bool = True) -> None:
        """Whether the parameters want gradients."""
        for parameter in self.parameters().values():
            parameter.requires_grad = on
            parameter.grad = None


def parameter(*shape: int) -> Tensor:
    """One that has no numbers yet, nor memory for them: `initialise` gives it some, or a file."""
    return Tensor(np.broadcast_to(np.float32(0), shape))


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
        super().initialise(rng)
        self.weight.data = rng.standard_normal(self.weight.shape, np.float32) * self._std


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
        super().initialise(rng)
        self.weight.data = rng.standard_normal(self.weight.shape, np.float32) * self._std


class RMSNorm(Module):
    """x / rms(x) * weight."""

    def __init__(self, width: int, eps: float) -> None:
        self.weight = parameter(width)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self._eps)

    def initialise(self, rng: np.random.Generator) -> None:
        super().initialise(rng)
        self.weight.data += 1


class LayerNorm(Module):
    """(x - mean) / deviation * weight + bias."""

    def __init__(self, width: int, eps: float) -> None:
        self.weight = parameter(width)
        self.bias = parameter(width)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, eps=self._eps)

    def initialise(self, rng: np.random.Generator) -> None:
        super().initialise(rng)
        self.weight.data += 1


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

    def parts(self, weights: Any) -> Any:
        """The weights of a checkpoint, as parameters: the same, unless a tensor there is several of these."""
        return weights

    def whole(self, tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Of parameters the tensors of a checkpoint: what `parts` takes apart."""
        return tensors

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
