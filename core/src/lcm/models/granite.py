"""Granite: a Llama with factors on embedding, scores, residuals and logits (IBM, 2024)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lcm import ops
from lcm.caches import LayerCache
from lcm.models import blocks
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import refuse_unless
from lcm.models.rotary import Rotary, RotaryTable
from lcm.nn import RMSNorm
from lcm.tensor import Tensor

__all__ = ["IGNORED", "MODEL", "configure", "file_names", "from_file", "to_file"]


@dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
    """The keys of `config.json` that a Granite is made from."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    tie_word_embeddings: bool = False


class Layer(blocks.Layer):
    def __init__(self, c: Config, rotary: Rotary, norm: Callable[[], RMSNorm]) -> None:
        bias = c.attention_bias
        attention = blocks.Attention(c, bias=bias, output_bias=bias, scale=c.attention_multiplier)
        super().__init__(rotary, norm, attention, blocks.GatedMLP(c, ops.swiglu, bias=c.mlp_bias))
        self._factor = c.residual_multiplier

    def __call__(self, x: Tensor, rotary: RotaryTable, cache: LayerCache) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, cache) * self._factor
        return x + self.mlp(self.post_attention_layernorm(x)) * self._factor


class Granite(blocks.Causal):
    def __init__(self, c: Config) -> None:
        rotary = c.rotary()
        norm = partial(RMSNorm, c.hidden_size, c.rms_norm_eps)
        layers = (Layer(c, rotary, norm) for _ in range(c.num_hidden_layers))
        embedding = blocks.ScaledEmbedding(c.vocab_size, c.hidden_size, c.embedding_multiplier)
        super().__init__(c, layers, norm, embedding)
        self.scaling = c.logits_scaling

    def logits(self, hidden: Tensor) -> Tensor:
        return super().logits(hidden) / self.scaling


def configure(values: dict[str, Any]) -> Config:
    refuse_unless(values, "granite", hidden_act=("silu",))
    return blocks.read(Config, values, "granite")


MODEL = Granite
