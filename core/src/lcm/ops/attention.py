"""Attention: rotary positions, the cache of keys and values, and attention itself.

`start` is, for each sequence of the batch, how many positions came before its first row here. It is a tensor,
so that a recorded program can go on to the next position by changing one number in memory.
"""

import math

import numpy as np

from lcm.ops.op import op
from lcm.ops.signature import cached, f32, i32, inout
from lcm.tensor import Tensor, arange, concat


@op(
    split="batch",
    where=("2 * half <= width",),
    touched={"cos": "rows * half", "sin": "rows * half"},
)
def rope(
    x: f32["batch rows heads width"],
    cos: f32["positions half"],
    sin: f32["positions half"],
    start: i32["batch"].below("positions - rows + 1"),
    *,
    interleaved: bool = False,
) -> f32["batch rows heads width"]:
    """Turn pairs (a, b) of each head by the angle of their position: (a cos - b sin, b cos + a sin).

    A pair is (x[i], x[i + half]), or (x[2 i], x[2 i + 1]) when interleaved; numbers beyond 2 * half stay as
    they are (Su et al., 2021).
    """
    batch, rows, heads, width = x.shape
    half = cos.shape[-1]
    place = _positions(start, rows)  # (batch, rows)
    c = cos.gather(place).reshape(batch, rows, 1, half)
    s = sin.gather(place).reshape(batch, rows, 1, half)
    turned, rest = x.slice(-1, 0, 2 * half), x.slice(-1, 2 * half, width)
    if interleaved:
        pairs = turned.reshape(batch, rows, heads, half, 2)
        a = pairs.slice(-1, 0, 1).reshape(batch, rows, heads, half)
        b = pairs.slice(-1, 1, 2).reshape(batch, rows, heads, half)
        pair = (a * c - b * s).reshape(batch, rows, heads, half, 1)
        other = (b * c + a * s).reshape(batch, rows, heads, half, 1)
        turned = concat([pair, other], axis=-1).reshape(batch, rows, heads, 2 * half)
    else:
        a, b = turned.slice(-1, 0, half), turned.slice(-1, half, 2 * half)
        turned = concat([a * c - b * s, b * c + a * s], axis=-1)
    return concat([turned, rest], axis=-1)


@op(touched={"cache": "batch * rows * heads * width"})
def cache_write(
    cache: inout(cached["batch capacity heads width"]),
    x: f32["batch rows heads width"],
    start: i32["batch"].below("capacity - rows + 1"),
) -> None:
    """cache[b, start[b] + t] = x[b, t], in place.

    Numbers for f16 are rounded to the nearest, ties to even; for q8_0, a block of 32 along the width at a
    time, as `lcm.formats` says, and they must be finite.
    """
    batch, capacity, heads, width = cache.shape
    rows = x.shape[1]
    first = (arange(batch) * capacity).reshape(batch, 1)
    place = _positions(start, rows) + first
    flat = cache.reshape(batch * capacity, heads * width)
    flat.put(place.reshape(batch * rows), x.reshape(batch * rows, heads * width).cast(cache.format))
    return cache


@op(
    split="batch",
    where=("heads % kv_heads == 0",),
    flops="2 * batch * heads * width * rows * (2 * capacity - rows + 1)",  # with a full cache
)
def attention(
    q: f32["batch rows heads width"],
    k: cached["batch capacity kv_heads width"],
    v: cached["batch capacity kv_heads width"],
    start: i32["batch"].below("capacity - rows + 1"),
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> f32["batch rows heads width"]:
    """softmax(q k^T * scale) v, where row t of q sees the keys 0 … start + t (Vaswani et al., 2017).

    Heads h * g … h * g + g - 1 of q share head h of k and v (Ainslie et al., 2023). With a window, only the
    last `window` of those keys are seen; 0 is all. What k and v hold beyond must be finite. With a softcap,
    a score s becomes softcap * tanh(s / softcap) first; 0 is none (Gemma 2, 2024).
    """
    return _attention(q, k.cast(q.format), v.cast(q.format), start, scale, window, softcap)


@op(
    split="batch",
    where=("heads % kv_heads == 0",),
    flops="2 * batch * heads * width * rows * (2 * capacity - rows + 1)",  # with a full cache
)
def attention_with_sinks(
    q: f32["batch rows heads width"],
    k: cached["batch capacity kv_heads width"],
    v: cached["batch capacity kv_heads width"],
    sinks: f32["heads"],
    start: i32["batch"].below("capacity - rows + 1"),
    *,
    scale: float,
    window: int = 0,
) -> f32["batch rows heads width"]:
    """As `attention`, where each head of q has one score more, of nothing: its share of the softmax is lost.

    What a head looks for need not be there (Xiao et al., 2023; gpt-oss, 2025).
    """
    return _attention(q, k.cast(q.format), v.cast(q.format), start, scale, window, sinks=sinks)


@op(
    split="batch",
    where=("three == 3",),
    flops="2 * batch * heads * width * rows * (rows + 1)",
)
def self_attention(
    qkv: f32["batch rows three heads width"],
    *,
    scale: float,
    window: int = 0,
) -> f32["batch rows heads width"]:
    """Attention of each sequence to itself, where one array holds queries, keys and values, in this order.

    As `attention` of the three, with as many key heads as heads and a start of 0.
    """
    batch, rows, _, heads, width = qkv.shape
    parts = (qkv.slice(2, i, i + 1).reshape(batch, rows, heads, width) for i in range(3))
    return _attention(*parts, Tensor(np.zeros(batch, np.int32)), scale, window)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, start: Tensor, scale: float, window: int,
    softcap: float = 0.0, sinks: Tensor | None = None,
) -> Tensor:  # fmt: skip
    batch, rows, heads, width = q.shape
    _, capacity, kv_heads, _ = k.shape
    group = heads // kv_heads
    q = q.reshape(batch, rows, kv_heads, group, width).permute(0, 2, 3, 1, 4)
    q = q.reshape(batch, kv_heads, group * rows, width)
    scores = (q * scale) @ k.permute(0, 2, 3, 1)
    scores = scores.reshape(batch, kv_heads, group, rows, capacity)
    if softcap:
        scores = (scores / softcap).tanh() * softcap
    hidden = _hidden(start, rows, capacity, window, like=q)
    scores = scores + hidden.reshape(batch, 1, 1, rows, capacity)
    top = scores.max().detach()
    if sinks is not None:
        sinks = sinks.reshape(1, kv_heads, group, 1, 1)
        top = (top < sinks.detach()).where(sinks.detach(), top)
    powers = (scores - top).exp()
    total = powers.sum() if sinks is None else powers.sum() + (sinks - top).exp()
    shares = (powers * (1 / total)).reshape(batch, kv_heads, group * rows, capacity)
    y = (shares @ v.permute(0, 2, 1, 3)).reshape(batch, kv_heads, group, rows, width)
    return y.permute(0, 3, 1, 2, 4).reshape(batch, rows, heads, width)


def _positions(start: Tensor, rows: int) -> Tensor:
    return start.reshape(start.shape[0], 1) + arange(rows)


def _hidden(start: Tensor, rows: int, capacity: int, window: int, like: Tensor) -> Tensor:
    """(batch, rows, capacity): 0 where the row may look at the key, -infinity elsewhere."""
    last = _positions(start, rows).reshape(start.shape[0], rows, 1)
    key = arange(capacity)
    seen = key < last + 1
    if window:
        seen = seen.where(last - window < key, Tensor(False))
    return seen.where(Tensor(np.zeros((), like.data.dtype)), -math.inf)
