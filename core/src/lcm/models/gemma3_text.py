"""Gemma 3's text model: normalised queries and keys, and other angles in layers with a window (2025)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from lcm.models import blocks, gemma2
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import refuse_unless
from lcm.models.gemma2 import Layer, Norm
from lcm.models.rotary import Rotary

__all__ = ["IGNORED", "MODEL", "configure", "file_names", "from_file", "to_file"]


@dataclass(frozen=True, kw_only=True)
class Config(gemma2.Config):
    """The keys of `config.json` that a Gemma 3 is made from."""

    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    sliding_window_pattern: int = 6
    attn_logit_softcapping: None = None
    final_logit_softcapping: float | None = None
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0

    def usual_types(self) -> tuple[str, ...]:
        """A layer without a window ends each pattern."""
        return tuple(
            "sliding_attention" if (i + 1) % self.sliding_window_pattern else "full_attention"
            for i in range(self.num_hidden_layers)
        )


class Gemma3(gemma2.Gemma):
    def __init__(self, c: Config) -> None:
        every = c.rotary()
        local = Rotary(c.max_position_embeddings, c.head_width, c.rope_local_base_freq)
        norm = partial(Norm, c.head_width, c.rms_norm_eps)
        super().__init__(c, (
            Layer(c, local if window else every, blocks.NormedAttention(c, norm, **c.scores(), window=window))
            for window in c.windows()
        ))  # fmt: skip


def configure(values: dict[str, Any]) -> Config:
    """From `config.json`; transformers 5 has rotary settings for each type of layer."""
    refuse_unless(values, "gemma3_text", hidden_activation=tuple(blocks.TANH),
                  use_bidirectional_attention=(None, False))  # fmt: skip
    table = values.get("rope_parameters")
    if isinstance(table, dict) and "full_attention" in table:
        every, local = table["full_attention"] or {}, table.get("sliding_attention") or {}
        refuse_unless(local, "gemma3_text's sliding_attention", rope_type=("default",))
        values = values | {"rope_parameters": every}
        values |= {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {}
    return blocks.read(Config, values, "gemma3_text")


MODEL = Gemma3
