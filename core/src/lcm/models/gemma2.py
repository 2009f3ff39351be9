"""Gemma 2: norms before and after, GeGLU, softly capped scores and logits, windows (Gemma Team, 2024)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

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
class Config(blocks.WindowedConfig):
    """The keys of `config.json` that a Gemma 2 is made from."""

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    query_pre_attn_scalar: int = 256
    sliding_window: int | None = 4096
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    tie_word_embeddings: bool = True

    @property
    def head_width(self) -> int:
        return self.head_dim

    def scores(self) -> dict[str, Any]:
        """Of attention's settings, those of every layer."""
        scale = self.query_pre_attn_scalar**-0.5
        return {"bias": self.attention_bias, "output_bias": self.attention_bias, "scale": scale}

    def usual_types(self) -> tuple[str, ...]:
        types = ("sliding_attention", "full_attention")
        return tuple(types[i % 2] for i in range(self.num_hidden_layers))


class Norm(RMSNorm):
    """x / rms(x) * (1 + weight)."""

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight + 1, eps=self._eps)

    def initialise(self, rng: np.random.Generator) -> None:
        self.weight.data = np.zeros(self.weight.shape, np.float32)


class Layer(blocks.Layer):
    """What attention and MLP add is normalised too."""

    def __init__(self, c: Config, rotary: Rotary, attention: blocks.Attention) -> None:
        norm = partial(Norm, c.hidden_size, c.rms_norm_eps)
        gate = partial(ops.geglu, tanh=blocks.TANH[c.hidden_activation])
        super().__init__(rotary, norm, attention, blocks.GatedMLP(c, gate))
        self.pre_feedforward_layernorm = norm()
        self.post_feedforward_layernorm = norm()

    def __call__(self, x: Tensor, rotary: RotaryTable, cache: LayerCache) -> Tensor:
        y = self.self_attn(self.input_layernorm(x), rotary, cache)
        x = x + self.post_attention_layernorm(y)
        y = self.mlp(self.pre_feedforward_layernorm(x))
        return x + self.post_feedforward_layernorm(y)


class Gemma(blocks.Causal):
    """What is around the layers of Gemma 2 and 3."""

    def __init__(self, c: Config, layers: Iterable[Layer]) -> None:
        embedding = blocks.ScaledEmbedding(c.vocab_size, c.hidden_size, c.hidden_size**0.5)
        super().__init__(c, layers, partial(Norm, c.hidden_size, c.rms_norm_eps), embedding)

    def logits(self, hidden: Tensor) -> Tensor:
        y, largest = super().logits(hidden), self.config.final_logit_softcapping
        return y if largest is None else (y / largest).tanh() * largest


class Gemma2(Gemma):
    def __init__(self, c: Config) -> None:
        rotary, softcap = c.rotary(), c.attn_logit_softcapping or 0
        super().__init__(c, (
            Layer(c, rotary, blocks.Attention(c, **c.scores(), window=window, softcap=softcap))
            for window in c.windows()
        ))  # fmt: skip


def configure(values: dict[str, Any]) -> Config:
    refuse_unless(values, "gemma2", hidden_activation=tuple(blocks.TANH),
                  use_bidirectional_attention=(None, False))  # fmt: skip
    return blocks.read(Config, values, "gemma2")


MODEL = Gemma2
