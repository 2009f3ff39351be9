"""Qwen3: normalised queries and keys in place of Qwen2's biases (Qwen, 2025)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from lcm import ops
from lcm.models import blocks, qwen2
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import refuse_unless
from lcm.nn import RMSNorm

__all__ = ["IGNORED", "MODEL", "configure", "file_names", "from_file", "to_file"]


@dataclass(frozen=True, kw_only=True)
class Config(qwen2.Config):
    """The keys of `config.json` that a Qwen3 is made from."""

    head_dim: int = 128
    attention_bias: bool = False

    @property
    def head_width(self) -> int:
        return self.head_dim


class Qwen3(blocks.Causal):
    def __init__(self, c: Config) -> None:
        rotary, bias = c.rotary(), c.attention_bias
        norm, head_norm = (partial(RMSNorm, n, c.rms_norm_eps) for n in (c.hidden_size, c.head_width))
        layers = (
            blocks.Layer(
                rotary, norm,
                blocks.NormedAttention(c, head_norm, bias=bias, output_bias=bias, window=window),
                blocks.GatedMLP(c, ops.swiglu),
            )
            for window in c.windows()
        )  # fmt: skip
        super().__init__(c, layers, norm)


def configure(values: dict[str, Any]) -> Config:
    refuse_unless(values, "qwen3", hidden_act=("silu",))
    return blocks.read(Config, values, "qwen3")


MODEL = Qwen3
