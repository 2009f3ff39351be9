"""Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al., 2023).

Mistral is the same with a sliding window (Jiang et al., 2023).

B batch   T tokens   D model width   H query heads   K key heads   Q head width   F hidden width
"""

import math
from dataclasses import dataclass

import numpy as np

from lcm import ops
from lcm.errors import FileError
from lcm.models.config import read, refuse_remainder, refuse_unless
from lcm.nn import Cache, Embedding, LayerCache, Linear, Model, Module, RMSNorm, RotaryTable
from lcm.tensor import Tensor


@dataclass(frozen=True)
class Config:
    """The keys of `config.json` that a Llama is made from."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    sliding_window: int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False

    @property
    def key_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads


class Attention(Module):
    def __init__(self, c: Config, rotary: RotaryTable) -> None:
        width, bias = c.head_width, c.attention_bias
        self.q_proj = Linear(c.hidden_size, c.num_attention_heads * width, bias=bias)
        self.k_proj = Linear(c.hidden_size, c.key_heads * width, bias=bias)
        self.v_proj = Linear(c.hidden_size, c.key_heads * width, bias=bias)
        self.o_proj = Linear(
            c.num_attention_heads * width, c.hidden_size, bias=bias, std=_residual_std(c)
        )
        self._rotary, self._width, self._window = rotary, width, c.sliding_window or 0

    def __call__(self, x: Tensor, cache: LayerCache) -> Tensor:
        q = ops.rope(self.q_proj(x).split_last(self._width), *self._rotary, cache.start)  # (B, T, H, Q)
        k = ops.rope(self.k_proj(x).split_last(self._width), *self._rotary, cache.start)  # (B, T, K, Q)
        v = self.v_proj(x).split_last(self._width)                                        # (B, T, K, Q)
        y = cache.attention(q, k, v, scale=self._width**-0.5, window=self._window)        # (B, T, H, Q)
        return self.o_proj(y.join_last())                                                 # (B, T, D)


class MLP(Module):
    def __init__(self, c: Config) -> None:
        self.gate_proj = Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.up_proj = Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.down_proj = Linear(
            c.intermediate_size, c.hidden_size, bias=c.mlp_bias, std=_residual_std(c)
        )

    def __call__(self, x: Tensor) -> Tensor:
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))             # (B, T, F) inside


class Layer(Module):
    def __init__(self, c: Config, rotary: RotaryTable) -> None:
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c, rotary)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = MLP(c)

    def __call__(self, x: Tensor, cache: LayerCache) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(Module):
    def __init__(self, c: Config) -> None:
        rotary = RotaryTable.of(c.max_position_embeddings, c.head_width, c.rope_theta)
        self.embed_tokens = Embedding(c.vocab_size, c.hidden_size)
        self.layers = [Layer(c, rotary) for _ in range(c.num_hidden_layers)]
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def __call__(self, ids: Tensor, cache: Cache) -> Tensor:
        x = self.embed_tokens(ids)                                                        # (B, T, D)
        for i, layer in enumerate(self.layers):
            x = layer(x, cache.layer(i))
        return self.norm(x)


class Llama(Model):
    def __init__(self, c: Config) -> None:
        self.config = c
        self.context, self.vocabulary = c.max_position_embeddings, c.vocab_size
        self.cache_shape = (c.num_hidden_layers, c.key_heads, c.head_width)
        self.model = Decoder(c)
        self.lm_head = Linear(c.hidden_size, c.vocab_size)
        if c.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def hidden(self, ids: Tensor, cache: Cache) -> Tensor:
        return self.model(ids, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)


# What its checkpoints may also hold: angles, which are computed here.
IGNORED = (r".*\.rotary_emb\.inv_freq",)


# Where Mistral's configuration means something else than Llama's when it leaves a key out.
MISTRAL = {
    "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    "sliding_window": 4096,
}  # fmt: skip


def configure(values: dict[str, object]) -> Config:
    """From `config.json`; transformers 5 keeps the rotary settings in a table of their own."""
    name = str(values["model_type"])
    rotary = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rotary, dict):
        raise FileError(f"config.json: {name}'s rope settings must be a table, not {rotary!r}")
    kind = rotary.get("rope_type", rotary.get("type", "default"))  # `type` until transformers 4.43
    refuse_unless({"rope_type": kind}, name, rope_type=("default",))
    refuse_unless(values, name, hidden_act=("silu",))
    defaults = MISTRAL if name == "mistral" else {}
    config = read(Config, {**defaults, **values, **rotary}, name)
    heads = config.num_attention_heads
    refuse_remainder(name, num_attention_heads=heads, num_key_value_heads=config.key_heads)
    if config.head_dim is None:
        refuse_remainder(name, hidden_size=config.hidden_size, num_attention_heads=heads)
    if config.head_width % 2:
        raise FileError(f"config.json: {name}'s head_dim={config.head_width} is odd: pairs are rotated")
    return config


def to_file(name: str, array: np.ndarray) -> np.ndarray:
    """The checkpoint keeps every tensor as it is here."""
    return array


from_file = to_file


def file_names(name: str) -> tuple[str, ...]:
    return (name,)


def _residual_std(c: Config) -> float:
    return 0.02 / math.sqrt(2 * c.num_hidden_layers)


MODEL = Llama
