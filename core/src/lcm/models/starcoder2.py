"""StarCoder2: GPT-2's norms and MLP with Llama's attention, a window, and biases (Lozhkov et al., 2024)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from lcm.models import blocks
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import refuse_unless
from lcm.nn import LayerNorm

__all__ = ["IGNORED", "MODEL", "configure", "file_names", "from_file", "to_file"]


@dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
    """The keys of `config.json` that a StarCoder2 is made from."""

    vocab_size: int = 49152
    hidden_size: int = 3072
    intermediate_size: int = 12288
    num_hidden_layers: int = 30
    num_attention_heads: int = 24
    num_key_value_heads: int | None = 2
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 4096
    norm_epsilon: float = 1e-5
    sliding_window: int | None = None
    use_bias: bool = True
    tie_word_embeddings: bool = True


class StarCoder2(blocks.Causal):
    def __init__(self, c: Config) -> None:
        rotary, bias, window = c.rotary(), c.use_bias, c.sliding_window or 0
        norm = partial(LayerNorm, c.hidden_size, c.norm_epsilon)
        layers = (
            blocks.Layer(
                rotary, norm,
                blocks.Attention(c, bias=bias, output_bias=bias, window=window),
                blocks.GeluMLP(
                    c.hidden_size, c.intermediate_size,
                    activation=c.hidden_act, bias=bias, std=c.std,
                ),
            )
            for _ in range(c.num_hidden_layers)
        )  # fmt: skip
        super().__init__(c, layers, norm)


def configure(values: dict[str, Any]) -> Config:
    refuse_unless(values, "starcoder2", hidden_act=tuple(blocks.TANH))
    return blocks.read(Config, values, "starcoder2")


MODEL = StarCoder2
