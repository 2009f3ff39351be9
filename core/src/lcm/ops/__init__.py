"""The ops: every one a definition with shapes, a formula, and a body that is its reference."""

from lcm.ops.activation import geglu, gelu, silu, swiglu
from lcm.ops.attention import attention, attention_with_sinks, cache_write, rope, self_attention
from lcm.ops.elementwise import add
from lcm.ops.embedding import embedding
from lcm.ops.linear import linear, linear_int8, matmul
from lcm.ops.loss import cross_entropy, sum_squares
from lcm.ops.norm import layer_norm, rms_norm, softmax
from lcm.ops.op import CATALOGUE, Op
from lcm.ops.optim import adamw_step, sgd_step

__all__ = [
    "CATALOGUE", "Op", "adamw_step", "add", "attention", "attention_with_sinks", "cache_write",
    "cross_entropy", "embedding", "geglu", "gelu", "layer_norm", "linear", "linear_int8", "matmul",
    "rms_norm", "rope", "self_attention", "sgd_step", "silu", "softmax", "sum_squares", "swiglu",
]  # fmt: skip
