"""Qwen3 with experts: each token goes through the few MLPs that a router chooses for it (Qwen, 2025).

B batch   T tokens   D model width   N tokens of all texts   E experts
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lcm import ops
from lcm.errors import FileError
from lcm.memory import Arena, without_hold
from lcm.models import blocks
from lcm.models.blocks import IGNORED, file_names, from_file, to_file
from lcm.models.config import from_zero, refuse_unless
from lcm.nn import Linear, Module, RMSNorm
from lcm.program import Program, record
from lcm.recording import empty, no_grad, recording, run, state
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
        shares = self._largest(ops.softmax(self.gate(flat)))                         # (N, E)
        if self._normed:
            shares = shares / shares.sum()
        tracked = state.grad_enabled and shares.requires_grad
        y = self._mixed_by_all(flat, shares) if tracked else self._mixed(flat, shares)
        return y.reshape(*x.shape)                                                   # (B, T, D)

    def _largest(self, shares: Tensor) -> Tensor:
        """The largest of each row, so many as experts are chosen, the first of equal ones; 0 elsewhere."""
        chosen = empty(shares.shape, np.bool_)
        run(partial(_choose, *map(without_hold, (chosen, shares.data)), self._chosen))
        return Tensor(chosen).where(shares, 0.0)

    def _mixed_by_all(self, x: Tensor, shares: Tensor) -> Tensor:
        """Every expert for every token, so that the same calls are right for any choice."""
        parts = (e(x) * shares.slice(1, i, i + 1) for i, e in enumerate(self.experts))
        return sum(parts, start=x * 0)

    def _mixed(self, x: Tensor, shares: Tensor) -> Tensor:
        """The same by one step, which asks each expert for its tokens only; it has no gradient."""
        y = empty(x.shape, np.float32)
        arrays = map(without_hold, (y, x.data, shares.data))
        one = state.recording is not None and len(x) == 1
        run(_OneToken(self.experts, *arrays) if one else partial(self._mix, *arrays))
        return Tensor(y)

    def _mix(self, y: np.ndarray, x: np.ndarray, shares: np.ndarray) -> None:
        y[...] = 0
        with recording(None), no_grad():
            for i in np.flatnonzero(shares.any(0)):
                rows = np.flatnonzero(shares[:, i])
                y[rows] += self.experts[i](Tensor(x[rows])).data * shares[rows, i, None]


class _OneToken:
    """The same step for one token, again and again: each expert is a program, recorded when first chosen.

    Else 0.15 ms go into Python for each expert of each layer: of 8 in 48 layers, 60 ms for a token.
    """

    def __init__(
        self, experts: list[blocks.GatedMLP], y: np.ndarray, x: np.ndarray, shares: np.ndarray
    ) -> None:
        self._experts, self._arrays = experts, (y, x, shares)
        self._programs: dict[int, Program[None]] = {}
        self._arena = Arena()  # of all, since they run one at a time

    def __call__(self) -> None:
        y, _, shares = self._arrays
        y[...] = 0
        for i in np.flatnonzero(shares).tolist():
            if i in self._programs:
                self._programs[i]()
            else:
                self._programs[i] = record(partial(self._ask, i), arena=self._arena)

    def _ask(self, i: int) -> None:
        y, x, shares = self._arrays
        part = self._experts[i](Tensor(x)).data
        run(partial(_add, y, without_hold(part), shares[:, i : i + 1]))


def _choose(chosen: np.ndarray, shares: np.ndarray, count: int) -> None:
    chosen[...] = False
    np.put_along_axis(chosen, np.argsort(-shares, kind="stable")[:, :count], True, axis=1)


def _add(y: np.ndarray, part: np.ndarray, share: np.ndarray) -> None:
    y += part * share


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
