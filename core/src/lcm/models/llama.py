"""Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al., 2023).

Mistral is the same with a sliding window (Jiang et al., 2023).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from lcm import ops
from lcm.models import blocks
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import refuse_unless
from lcm.nn import RMSNorm

__all__ = ["IGNORED", "MODEL", "configure", "file_names", "from_file", "to_file"]


@dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
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
    sliding_window: int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False

    @property
    def head_width(self) -> int:
        return self.head_dim or super().head_width


class Llama(blocks.Causal):
    def __init__(self, c: Config) -> None:
        rotary = c.rotary()
        norm = partial(RMSNorm, c.hidden_size, c.rms_norm_eps)
        bias, window = c.attention_bias, c.sliding_window or 0
        layers = (
            blocks.Layer(
                rotary, norm,
                blocks.Attention(c, bias=bias, output_bias=bias, window=window),
                blocks.GatedMLP(c, ops.swiglu, bias=c.mlp_bias),
            )
            for _ in range(c.num_hidden_layers)
        )  # fmt: skip
        super().__init__(c, layers, norm)


# Where Mistral's configuration means something else than Llama's when it leaves a key out.
MISTRAL = {
    "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    "sliding_window": 4096,
}  # fmt: skip


def configure(values: dict[str, Any]) -> Config:
    name = values["model_type"]
    refuse_unless(values, name, hidden_act=("silu",))
    return blocks.read(Config, (MISTRAL if name == "mistral" else {}) | values, name)


MODEL = Llama
