"""Qwen3 with experts: each token goes through the few MLPs that a router chooses for it (Qwen, 2025).

B batch   T tokens   D model width   N tokens of all texts   E experts
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lcm import ops
from lcm.errors import FileError
from lcm.models import blocks
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import from_zero, refuse_unless
from lcm.models.experts import largest, mixed
from lcm.nn import Linear, Module, RMSNorm
from lcm.tensor import Tensor

__all__ = ["IGNORED", "MODEL", "configure", "file_names", "from_file", "to_file"]


@dataclass(frozen=True, kw_only=True)
class Config(blocks.Config):
    """The keys of `config.json` that a Qwen3 with experts is made from."""

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 6144
    num_hidden_layers: int = 24
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 4
    head_dim: int | None = None
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] | None = from_zero(None)
    moe_intermediate_size: int = 768
    num_experts: int = 128
    num_experts_per_tok: int = 8
    norm_topk_prob: bool = False
    tie_word_embeddings: bool = False

    @property
    def head_width(self) -> int:
        return self.head_dim or super().head_width

    @property
    def window(self) -> int:
        return (self.sliding_window or 0) if self.use_sliding_window else 0

    def has_experts(self, layer: int) -> bool:
        only_mlp = layer in (self.mlp_only_layers or ())
        return not only_mlp and (layer + 1) % self.decoder_sparse_step == 0


class Experts(Module):
    def __init__(self, c: Config) -> None:
        self.gate = Linear(c.hidden_size, c.num_experts)
        self.experts = [
            blocks.GatedMLP(c, ops.swiglu, hidden=c.moe_intermediate_size)
            for _ in range(c.num_experts)
        ]
        self._chosen, self._normed = c.num_experts_per_tok, c.norm_topk_prob

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])                                            # (N, D)
        shares = ops.softmax(self.gate(flat))                                        # (N, E)
        shares = largest(shares, self._chosen).where(shares, 0.0)
        if self._normed:
            shares = shares / shares.sum()
        return mixed(self.experts, flat, shares).reshape(*x.shape)                   # (B, T, D)


class Qwen3Moe(blocks.Causal):
    def __init__(self, c: Config) -> None:
        rotary, bias = c.rotary(), c.attention_bias
        norm, head_norm = (partial(RMSNorm, n, c.rms_norm_eps) for n in (c.hidden_size, c.head_width))
        layers = (
            blocks.Layer(
                rotary, norm,
                blocks.NormedAttention(c, head_norm, bias=bias, output_bias=bias, window=c.window),
                Experts(c) if c.has_experts(i) else blocks.GatedMLP(c, ops.swiglu),
            )
            for i in range(c.num_hidden_layers)
        )  # fmt: skip
        super().__init__(c, layers, norm)


def configure(values: dict[str, Any]) -> Config:
    refuse_unless(values, "qwen3_moe", hidden_act=("silu",))
    if "num_local_experts" in values:  # as transformers 5 calls it
        values = values | {"num_experts": values["num_local_experts"]}
    c = blocks.read(Config, values, "qwen3_moe")
    if c.num_experts_per_tok > c.num_experts:
        raise FileError(
            f"config.json: qwen3_moe's num_experts_per_tok={c.num_experts_per_tok} is more than "
            f"num_experts={c.num_experts}"
        )
    # transformers takes null for a width, and writes none of these layers as [].
    return replace(c, head_dim=c.head_width, mlp_only_layers=c.mlp_only_layers or None)


MODEL = Qwen3Moe
