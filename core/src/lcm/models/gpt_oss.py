"""gpt-oss: experts in every layer, a sink in each head, windows in every other layer (OpenAI, 2025).

B batch   T tokens   D model width   N tokens of all texts   H query heads   Q head width   E experts
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lcm import ops
from lcm.caches import LayerCache
from lcm.errors import FileError
from lcm.models import blocks
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import refuse_unless
from lcm.models.experts import largest, mixed
from lcm.models.gpt_oss_files import Parts, joined
from lcm.models.rotary import RotaryTable
from lcm.models.scaling import Plain
from lcm.nn import Linear, Module, RMSNorm, parameter
from lcm.tensor import Tensor

__all__ = ["IGNORED", "MODEL", "configure", "file_names", "from_file", "to_file"]


@dataclass(frozen=True, kw_only=True)
class Config(blocks.WindowedConfig):
    """The keys of `config.json` that a gpt-oss is made from."""

    vocab_size: int = 201088
    hidden_size: int = 2880
    intermediate_size: int = 2880
    num_hidden_layers: int = 36
    num_attention_heads: int = 64
    num_key_value_heads: int | None = 8
    head_dim: int = 64
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    rope_theta: float = 150000.0
    attention_bias: bool = True
    sliding_window: int | None = 128
    num_local_experts: int = 128
    num_experts_per_tok: int = 4
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    tie_word_embeddings: bool = False

    @property
    def head_width(self) -> int:
        return self.head_dim

    def usual_types(self) -> tuple[str, ...]:
        types = ("sliding_attention", "full_attention")
        return tuple(types[i % 2] for i in range(self.num_hidden_layers))


class Sinks(Module):
    """For each head, the score of looking at nothing."""

    def __init__(self, heads: int) -> None:
        self.weight = parameter(heads)


class Attention(blocks.Attention):
    def __init__(self, c: Config, window: int) -> None:
        super().__init__(c, bias=c.attention_bias, output_bias=c.attention_bias, window=window)
        self.sinks = Sinks(c.num_attention_heads)

    def __call__(self, x: Tensor, rotary: RotaryTable, cache: LayerCache) -> Tensor:
        q, k, v = self.project(x)
        q, k = ops.rope(q, *rotary, cache.start), ops.rope(k, *rotary, cache.start)
        y = cache.attention(
            q, k, v, scale=self._scale, window=self._window, sinks=self.sinks.weight
        )                                                                            # (B, T, H, Q)
        return self.o_proj(y.join_last())                                            # (B, T, D)


class Experts(Module):
    def __init__(self, c: Config) -> None:
        gate = partial(clamped_swiglu, alpha=c.swiglu_alpha, limit=c.swiglu_limit)
        self.router = Linear(c.hidden_size, c.num_local_experts, bias=True)
        self.experts = [blocks.GatedMLP(c, gate, bias=True) for _ in range(c.num_local_experts)]
        self._chosen = c.num_experts_per_tok

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])                                            # (N, D)
        scores = self.router(flat)                                                   # (N, E)
        shares = ops.softmax(largest(scores, self._chosen).where(scores, -math.inf))
        return mixed(self.experts, flat, shares).reshape(*x.shape)                   # (B, T, D)


def clamped_swiglu(gate: Tensor, up: Tensor, *, alpha: float, limit: float) -> Tensor:
    """gate * sigmoid(alpha * gate) * (up + 1); gate is at most `limit`, up between `-limit` and `limit`."""
    gate = (gate < limit).where(gate, limit)
    up = (up < limit).where(up, limit)
    up = (up < -limit).where(-limit, up)
    return ops.silu(gate * alpha) * (1 / alpha) * (up + 1)


class GptOss(blocks.Causal):
    def __init__(self, c: Config) -> None:
        rotary, norm = c.rotary(), partial(RMSNorm, c.hidden_size, c.rms_norm_eps)
        layers = (blocks.Layer(rotary, norm, Attention(c, w), Experts(c)) for w in c.windows())
        super().__init__(c, layers, norm)

    def parts(self, weights: Any) -> Parts:
        return Parts(weights)

    def whole(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return joined(tensors)


# What a `config.json` that says nothing of positions means.
YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip


def configure(values: dict[str, Any]) -> Config:
    refuse_unless(values, "gpt_oss", hidden_act=("silu",))
    if not values.get("rope_scaling") and not values.get("rope_parameters"):
        values = values | {"rope_scaling": YARN}
    c = blocks.read(Config, values, "gpt_oss")
    if c.num_experts_per_tok > c.num_local_experts:
        raise FileError(
            f"config.json: gpt_oss's num_experts_per_tok={c.num_experts_per_tok} is more than "
            f"num_local_experts={c.num_local_experts}"
        )
    usual = c.layer_types == c.usual_types()
    return replace(
        c, rope_scaling=c.rope_scaling or Plain(), layer_types=None if usual else c.layer_types
    )


MODEL = GptOss
