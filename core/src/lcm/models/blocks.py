"""Blocks that decoders since Llama are made of, under the names that their checkpoints use.

An architecture's file says what is its own, and puts the rest together from here.

B batch   T tokens   D model width   H query heads   K key heads   Q head width   F hidden width
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lcm import ops
from lcm.caches import Cache, LayerCache
from lcm.errors import FileError
from lcm.models.config import refuse_remainder
from lcm.models.rotary import Rotary, RotaryTable, read_rotary
from lcm.models.scaling import Scaling
from lcm.nn import Embedding, Linear, Model, Module, products
from lcm.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Config:
    """The keys of `config.json` that all of them have; an architecture says what is meant by no key."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None
    max_position_embeddings: int
    tie_word_embeddings: bool
    rope_theta: float = 10000.0
    rope_scaling: Scaling | None = None

    @property
    def key_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_width(self) -> int:
        """How many numbers of each head turn."""
        return self.head_width

    def rotary(self) -> Rotary:
        return Rotary(
            self.max_position_embeddings, self.rotary_width, self.rope_theta, self.rope_scaling
        )

    @property
    def std(self) -> float:
        """The deviation that projections into the residual stream are drawn with."""
        return 0.02 / math.sqrt(2 * self.num_hidden_layers)


@dataclass(frozen=True, kw_only=True)
class WindowedConfig(Config, ABC):
    """The same where some layers see only the last `sliding_window` positions."""

    sliding_window: int | None
    layer_types: tuple[str, ...] | None = None

    @property
    def window(self) -> int | None:
        return self.sliding_window

    @abstractmethod
    def usual_types(self) -> tuple[str, ...]:
        """Each layer's type, where `layer_types` does not say it."""

    def windows(self) -> list[int]:
        """For each layer, how many positions it sees; 0 is all."""
        types, size = self.layer_types or self.usual_types(), self.window
        sizes = {"full_attention": 0} | ({"sliding_attention": size} if size else {})
        if len(types) != self.num_hidden_layers or not sizes.keys() >= set(types):
            raise FileError(
                f"config.json: layer_types must be {self.num_hidden_layers} of "
                f"{', '.join(sizes)}, not {', '.join(types)}"
            )
        return [sizes[name] for name in types]


C = TypeVar("C", bound=Config)


class Attention(Module):
    """Heads that share keys and values in groups, with rotary positions (Ainslie et al., 2023)."""

    same_input: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")

    def __init__(
        self, c: Config, *, bias: bool = False, output_bias: bool = False,
        scale: float | None = None, window: int = 0, softcap: float = 0.0,
    ) -> None:  # fmt: skip
        heads, key_heads = c.num_attention_heads * c.head_width, c.key_heads * c.head_width
        self.q_proj = Linear(c.hidden_size, heads, bias=bias)
        self.k_proj = Linear(c.hidden_size, key_heads, bias=bias)
        self.v_proj = Linear(c.hidden_size, key_heads, bias=bias)
        self.o_proj = Linear(heads, c.hidden_size, bias=output_bias, std=c.std)
        self._width, self._window, self._softcap = c.head_width, window, softcap
        self._scale = c.head_width**-0.5 if scale is None else scale

    def project(self, x: Tensor) -> Sequence[Tensor]:
        """Queries (B, T, H, Q), keys and values (B, T, K, Q)."""
        parts = products(x, self.q_proj, self.k_proj, self.v_proj)
        return [part.split_last(self._width) for part in parts]

    def __call__(self, x: Tensor, rotary: RotaryTable, cache: LayerCache) -> Tensor:
        q, k, v = self.project(x)
        q, k = ops.rope(q, *rotary, cache.start), ops.rope(k, *rotary, cache.start)
        y = cache.attention(
            q, k, v, scale=self._scale, window=self._window, softcap=self._softcap
        )                                                                            # (B, T, H, Q)
        return self.o_proj(y.join_last())                                            # (B, T, D)


class NormedAttention(Attention):
    """The same with queries and keys that are normalised before they turn."""

    def __init__(self, c: Config, norm: Callable[[], Module], **how: Any) -> None:
        super().__init__(c, **how)
        self.q_norm = norm()
        self.k_norm = norm()

    def project(self, x: Tensor) -> Sequence[Tensor]:
        q, k, v = super().project(x)
        return self.q_norm(q), self.k_norm(k), v


class GatedMLP(Module):
    """An MLP with a gate, such as `ops.swiglu` (Shazeer, 2020)."""

    same_input = ("gate_proj", "up_proj")

    def __init__(
        self, c: Config, gate: Callable[..., Tensor], *, hidden: int = 0, bias: bool = False
    ) -> None:
        hidden = hidden or c.intermediate_size
        self.gate_proj = Linear(c.hidden_size, hidden, bias=bias)
        self.up_proj = Linear(c.hidden_size, hidden, bias=bias)
        self.down_proj = Linear(hidden, c.hidden_size, bias=bias, std=c.std)
        self._gate = gate

    def __call__(self, x: Tensor) -> Tensor:
        return self.down_proj(self._gate(*products(x, self.gate_proj, self.up_proj)))  # (B, T, F) inside


class GeluMLP(Module):
    """An MLP without a gate, as GPT-2 has it."""

    def __init__(
        self, width: int, hidden: int, *, activation: str, bias: bool, std: float
    ) -> None:
        self.c_fc = Linear(width, hidden, bias=bias)
        self.c_proj = Linear(hidden, width, bias=bias, std=std)
        self._tanh = TANH[activation]

    def __call__(self, x: Tensor) -> Tensor:
        return self.c_proj(ops.gelu(self.c_fc(x), tanh=self._tanh))                  # (B, T, F) inside


# The names that checkpoints have for gelu, and whether each is the tanh approximation.
TANH = {"gelu_new": True, "gelu_pytorch_tanh": True, "gelu": False}


class Layer(Module):
    """Attention and an MLP, each added to its input, of which it sees a normalised copy."""

    def __init__(
        self, rotary: Rotary, norm: Callable[[], Module], attention: Module, mlp: Module
    ) -> None:
        self.rotary = rotary
        self.input_layernorm = norm()
        self.self_attn = attention
        self.post_attention_layernorm = norm()
        self.mlp = mlp

    def __call__(self, x: Tensor, rotary: RotaryTable, cache: LayerCache) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class ScaledEmbedding(Embedding):
    """weight[ids] * scale."""

    def __init__(self, count: int, width: int, scale: float) -> None:
        super().__init__(count, width)
        self._scale = scale

    def __call__(self, ids: Tensor) -> Tensor:
        return super().__call__(ids) * self._scale


class Stack(Module):
    """From ids to the last layer's output, normalised."""

    def __init__(self, embedding: Module, layers: Iterable[Layer], norm: Module) -> None:
        self.embed_tokens = embedding
        self.layers = list(layers)
        self.norm = norm

    def __call__(self, ids: Tensor, cache: Cache) -> Tensor:
        x = self.embed_tokens(ids)                                                   # (B, T, D)
        for i, layer in enumerate(self.layers):
            x = layer(x, layer.rotary.table(cache), cache.layer(i))
        return self.norm(x)


class Causal(Model):
    """A stack, and the head that says what comes next."""

    def __init__(
        self, c: Config, layers: Iterable[Layer], norm: Callable[[], Module],
        embedding: Embedding | None = None,
    ) -> None:  # fmt: skip
        self.config = c
        self.context, self.vocabulary = c.max_position_embeddings, c.vocab_size
        self.cache_shape = (c.num_hidden_layers, c.key_heads, c.head_width)
        embedding = embedding or Embedding(c.vocab_size, c.hidden_size)
        self.model = Stack(embedding, layers, norm())
        shorts = (layer.rotary.short for layer in self.model.layers)
        self.short = min((n for n in shorts if n is not None), default=None)
        self.lm_head = Linear(c.hidden_size, c.vocab_size)
        if c.tie_word_embeddings:
            self.lm_head.weight = embedding.weight

    def hidden(self, ids: Tensor, cache: Cache) -> Tensor:
        return self.model(ids, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)


def read(kind: type[C], values: dict[str, Any], model_type: str) -> C:
    """The configuration from `config.json`, where its sizes fit each other."""
    config = read_rotary(kind, values, model_type)
    heads = config.num_attention_heads
    refuse_remainder(model_type, num_attention_heads=heads, num_key_value_heads=config.key_heads)
    if vars(config).get("head_dim") is None:
        refuse_remainder(model_type, hidden_size=config.hidden_size, num_attention_heads=heads)
    if config.rotary_width % 2:
        raise FileError(
            f"config.json: {model_type} would rotate {config.rotary_width} of the "
            f"{config.head_width} numbers of a head, which are no pairs"
        )
    return config


# Their checkpoints hold every tensor as it is here, by its name here; some also angles, which are computed.
IGNORED = (r".*\.rotary_emb\.inv_freq",)


def to_file(name: str, array: np.ndarray) -> np.ndarray:
    return array


from_file = to_file


def file_names(name: str) -> tuple[str, ...]:
    return (name,)
