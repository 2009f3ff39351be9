"""Phi-3: a Llama with fused projections, LongRoPE, and heads that turn in part (Abdin et al., 2024).

B batch   T tokens   D model width   H query heads   K key heads   Q head width   F hidden width
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lcm import ops
from lcm.models import blocks
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import refuse_unless
from lcm.nn import Linear, Module, RMSNorm
from lcm.tensor import Tensor

__all__ = ["IGNORED", "MODEL", "configure", "file_names", "from_file", "to_file"]


@dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
    """The keys of `config.json` that a Phi-3 is made from."""

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096
    partial_rotary_factor: float = 1.0
    rms_norm_eps: float = 1e-5
    sliding_window: int | None = None
    tie_word_embeddings: bool = False

    @property
    def rotary_width(self) -> int:
        return int(self.head_width * self.partial_rotary_factor)


class Attention(blocks.Attention):
    same_input = ()  # in one as they are

    def __init__(self, c: Config) -> None:
        self._heads, self._key_heads = c.num_attention_heads, c.key_heads
        self.qkv_proj = Linear(c.hidden_size, (self._heads + 2 * self._key_heads) * c.head_width)
        self.o_proj = Linear(self._heads * c.head_width, c.hidden_size, std=c.std)
        self._width, self._scale = c.head_width, c.head_width**-0.5
        self._window, self._softcap = c.sliding_window or 0, 0.0

    def project(self, x: Tensor) -> Sequence[Tensor]:
        y = self.qkv_proj(x).split_last(self._width)                                 # (B, T, H + 2 K, Q)
        keys, values = self._heads, self._heads + self._key_heads
        return y.slice(2, 0, keys), y.slice(2, keys, values), y.slice(2, values, y.shape[2])


class MLP(Module):
    def __init__(self, c: Config) -> None:
        self._hidden = c.intermediate_size
        self.gate_up_proj = Linear(c.hidden_size, 2 * c.intermediate_size)
        self.down_proj = Linear(c.intermediate_size, c.hidden_size, std=c.std)

    def __call__(self, x: Tensor) -> Tensor:
        y = self.gate_up_proj(x)                                                     # (B, T, 2 F)
        gate, up = y.slice(-1, 0, self._hidden), y.slice(-1, self._hidden, 2 * self._hidden)
        return self.down_proj(ops.swiglu(gate, up))                                  # (B, T, F) inside


class Phi3(blocks.Causal):
    def __init__(self, c: Config) -> None:
        rotary = c.rotary()
        norm = partial(RMSNorm, c.hidden_size, c.rms_norm_eps)
        layers = (blocks.Layer(rotary, norm, Attention(c), MLP(c)) for _ in range(c.num_hidden_layers))
        super().__init__(c, layers, norm)


def configure(values: dict[str, Any]) -> Config:
    refuse_unless(values, "phi3", hidden_act=("silu",), attention_bias=(False,), mlp_bias=(False,),
                  lm_head_bias=(False,))  # fmt: skip
    table = values.get("rope_scaling")
    if isinstance(table, dict) and table.get("type") in ("su", "yarn"):  # LongRoPE's names once
        values = values | {"rope_scaling": table | {"rope_type": "longrope"}}
    return blocks.read(Config, values, "phi3")


MODEL = Phi3
