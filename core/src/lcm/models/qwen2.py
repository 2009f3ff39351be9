"""Qwen2: a Llama with biases of queries, keys and values, and windows in some layers (Qwen, 2024)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from lcm import ops
from lcm.models import blocks
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import from_zero, refuse_unless
from lcm.nn import RMSNorm

__all__ = ["IGNORED", "MODEL", "configure", "file_names", "from_file", "to_file"]


@dataclass(frozen=True, kw_only=True)
class Config(blocks.WindowedConfig):
    """The keys of `config.json` that a Qwen2 is made from."""

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 22016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = from_zero(28)
    tie_word_embeddings: bool = False

    @property
    def window(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None

    def usual_types(self) -> tuple[str, ...]:
        first = self.max_window_layers if self.window else self.num_hidden_layers
        return tuple(
            "full_attention" if i < first else "sliding_attention"
            for i in range(self.num_hidden_layers)
        )


class Qwen2(blocks.Causal):
    def __init__(self, c: Config) -> None:
        rotary = c.rotary()
        norm = partial(RMSNorm, c.hidden_size, c.rms_norm_eps)
        layers = (
            blocks.Layer(
                rotary, norm, blocks.Attention(c, bias=True, window=window),
                blocks.GatedMLP(c, ops.swiglu),
            )
            for window in c.windows()
        )  # fmt: skip
        super().__init__(c, layers, norm)


def configure(values: dict[str, Any]) -> Config:
    refuse_unless(values, "qwen2", hidden_act=("silu",))
    return blocks.read(Config, values, "qwen2")


MODEL = Qwen2
