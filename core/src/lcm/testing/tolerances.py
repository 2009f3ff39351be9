"""How far a kernel's numbers may lie from the right ones: one line for each result of each op.

The right numbers are those of the op's body in f64, on the kernel's own arguments. A result of f32 arithmetic
differs from them by a few roundings of what was *added up* to make it, not of the result itself, which may
be a small difference of large terms. So a line states the size of the terms, number by number, and how many
of them a number sums. A kernel may be off by

    (ROUNDINGS + sqrt(terms)) * eps * size + LEAST        with eps = 2^-23, f32's

`ROUNDINGS` covers an elementary function of some ulp and a handful of operations after it; roundings of a
sum have random signs, and come to about sqrt(terms) whatever the order of summation. The bodies themselves,
in f32, stay within two fifths of it in every trial of the level `full`, and loops over one f32 sum within two
thirds, but for a million positive numbers, where such a sum loses the fourth digit. It is the same for bf16
and f16 weights: these are decoded exactly, and what they meet stays f32. `LEAST` allows numbers below the
smallest normal one to be flushed to zero. Results marked `EXACT` are copies. And sums of products of small
whole numbers are exact in f32, in any order: those of `products` must then be right to the bit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

ROUNDINGS = 16
EPS = 2.0**-23
LEAST = 2.0**-120

Array = np.ndarray


@dataclass(frozen=True)
class Rule:
    """One line: the size of the terms, from the arguments in f64, and the symbols that count them."""

    size: Callable[[SimpleNamespace], Any]
    terms: tuple[str, ...] = ()
    whole: bool = False  # exact for small whole numbers
    exact: bool = False

    def allowed(self, arguments: SimpleNamespace) -> Array:
        """The largest error that is allowed, for each number or for all."""
        if self.exact:
            return np.zeros(())
        terms = math.prod(getattr(arguments, name) for name in self.terms)
        with np.errstate(all="ignore"):
            size = np.asarray(self.size(arguments))
            allowed: Array = (ROUNDINGS + math.sqrt(terms)) * EPS * size + LEAST
        return allowed


def products(size: Callable[[SimpleNamespace], Any], *terms: str) -> Rule:
    """A sum of products."""
    return Rule(size, terms, whole=True)


EXACT = Rule(lambda a: 0.0, exact=True)


# The pieces of the formulas below.


def largest(x: Array) -> Any:
    return np.max(np.abs(x), initial=0.0)


def _parts_of_blocks(weight: Array) -> Any:
    """A number may be scale * q - minimum: the two, which are added up apart, are of the block's size."""
    blocks = np.abs(weight).reshape(len(weight), -1, 32)
    return 2 * np.repeat(blocks.max(-1, initial=0.0), 32, axis=-1)


def _turn_over(x: Array) -> Any:
    return np.abs(x).swapaxes(-1, -2)


def _rows(x: Array) -> Any:
    """A number for each row, beside the row."""
    return np.asarray(x)[..., None]


def _mean(x: Array) -> Any:
    return np.abs(x).mean(-1, keepdims=True)


def _rms(a: SimpleNamespace) -> Any:
    """1 / rms of each row."""
    return 1 / np.sqrt((a.x * a.x).mean(-1, keepdims=True) + a.eps)


def _centred(a: SimpleNamespace) -> Any:
    """(|x| + mean |x|) / deviation: what was subtracted from what, on the scale of the result."""
    variance = a.x.var(-1, keepdims=True)
    return (np.abs(a.x) + _mean(a.x)) / np.sqrt(variance + a.eps)


def _exponential(x: Array) -> Any:
    """softmax(x), times the relative error of exp: its argument's rounding, x - max, and its own."""
    from_top = x.max(-1, keepdims=True, initial=-math.inf) - x
    powers = np.exp(-from_top)
    total = powers.sum(-1, keepdims=True)
    spread = (powers / total * (1 + from_top)).sum(-1, keepdims=True)  # the sum's error
    return powers / total * (1 + from_top + spread)


def _softmax_grad(a: SimpleNamespace) -> Any:
    y, g = _exponential(a.x), np.abs(a.out_grad)
    return y * (g + (y * g).sum(-1, keepdims=True))


def _steep(x: Array, end: float) -> Any:
    """1 + |x| until the function is flat."""
    return 1 + np.minimum(np.abs(x), end)


def _scattered(a: SimpleNamespace) -> Any:
    sums = np.zeros((a.vocabulary, a.width))
    np.add.at(sums, a.ids, np.abs(a.out_grad))
    return sums


def _logits_grad(a: SimpleNamespace) -> Any:
    kept = a.targets != a.ignore_index
    p = _exponential(a.logits) * _rows(kept)
    p[np.flatnonzero(kept), a.targets[kept]] += 1
    return np.abs(a.out_grad) / max(1, int(kept.sum())) * p


def _cross_entropy(a: SimpleNamespace) -> Any:
    kept = a.logits[a.targets != a.ignore_index]
    return (2 * np.abs(kept).max(-1, initial=0.0) + np.log(a.classes + 1)).sum() / max(1, len(kept))


def _turn(a: SimpleNamespace) -> Any:
    return max(1, largest(a.cos) + largest(a.sin))


def _turned(a: SimpleNamespace) -> Any:
    """For the gradient of cos and sin: the products that are added up for each angle, at most."""
    half = 2 * a.half
    both = [np.abs(n[..., :half]) for n in (a.x, a.out_grad)]
    pairs = [n[..., 0::2] + n[..., 1::2] if a.interleaved else n[..., : a.half] + n[..., a.half :]
             for n in both]  # fmt: skip
    sums = np.zeros((a.positions, a.half))
    place = a.start[:, None] + np.arange(a.rows)
    np.add.at(sums, place, (pairs[0] * pairs[1]).sum(2))
    return sums


def _lengths(x: Array) -> Any:
    """The greatest length of a head's vector."""
    return np.sqrt((x * x).sum(-1)).max(initial=0.0)


def _steepness(a: SimpleNamespace) -> Any:
    """1 + the largest score: exp turns an error of the score into one of the share."""
    batch, rows, heads, width = a.q.shape
    q = a.q.reshape(batch, rows, a.k.shape[2], heads // a.k.shape[2], width)
    return 1 + abs(a.scale) * largest(np.einsum("bthgw,bchw->bhgtc", q, a.k, optimize=True))


def _attention(a: SimpleNamespace) -> Any:
    """The shares of a row sum to one."""
    return largest(a.v) * _steepness(a)


def _attention_grad(by: str) -> Callable[[SimpleNamespace], Any]:
    def size(a: SimpleNamespace) -> Any:
        share = largest(a.out_grad) if by == "g" else (
            abs(a.scale) * _lengths(a.out_grad) * _lengths(a.v) * largest(getattr(a, by))
        )  # fmt: skip
        return _steepness(a) * (share + largest(a.want))

    return size


def _sunk(by: str) -> Callable[[SimpleNamespace], Any]:
    """The same with a score more, whose error is a share's too."""
    return lambda a: _attention_grad(by)(a) * (1 + largest(a.sinks))


def _parts(a: SimpleNamespace) -> SimpleNamespace:
    """Self-attention's one array as the three that attention has."""
    q, k, v = (a.qkv[:, :, i] for i in range(3))
    return SimpleNamespace(**{**vars(a), "q": q, "k": k, "v": v})


def _step(a: SimpleNamespace) -> SimpleNamespace:
    """What Adam's step is made of: m, v, and by how much the parameter changes."""
    g = a.grad * a.grad_scale
    m = np.abs(a.m) * a.beta1 + np.abs(g) * (1 - a.beta1)
    v = a.v * a.beta2 + g * g * (1 - a.beta2)
    size = np.sqrt(v / (1 - a.beta2**a.step)) + a.eps
    return SimpleNamespace(m=m, v=v, change=a.lr / (1 - a.beta1**a.step) * m / size)


def _velocity(a: SimpleNamespace) -> Any:
    return np.abs(a.velocity) * a.momentum + np.abs(a.grad * a.grad_scale)


# By op and result: the size of the terms. `a` has the arguments by name, and `want`, the right numbers.
RULES: dict[str, dict[str, Rule]] = {
    "linear": {
        "out": products(
            lambda a: abs(a.x) @ abs(a.weight).T + (0 if a.bias is None else abs(a.bias)), "inputs"),
        "x_grad": products(lambda a: abs(a.out_grad) @ abs(a.weight), "outputs"),
        "weight_grad": products(lambda a: abs(a.out_grad).T @ abs(a.x), "rows"),
        "bias_grad": products(lambda a: abs(a.out_grad).sum(0), "rows"),
    },
    "linear_int8": {
        "out": Rule(
            lambda a: abs(a.x) @ _parts_of_blocks(a.weight).T + (0 if a.bias is None else abs(a.bias)),
            ("inputs",)),
    },
    "matmul": {
        "out": products(lambda a: abs(a.x) @ abs(a.y), "inner"),
        "x_grad": products(lambda a: abs(a.out_grad) @ _turn_over(a.y), "columns"),
        "y_grad": products(lambda a: _turn_over(a.x) @ abs(a.out_grad), "rows"),
    },
    "embedding": {"out": EXACT, "weight_grad": products(_scattered, "rows")},
    "cache_write": {"cache": EXACT},
    "add": {
        "out": products(lambda a: abs(a.x) + abs(a.y)),
        "x_grad": EXACT,
        "y_grad": EXACT,
    },
    "sum_squares": {
        "out": products(lambda a: a.want, "count"),
        "x_grad": products(lambda a: abs(a.want)),
    },
    "rms_norm": {
        "out": Rule(lambda a: abs(a.want), ("width",)),
        "x_grad": Rule(
            lambda a: _rms(a) * (abs(a.out_grad * a.weight)
                                 + abs(a.x) * _rms(a)**2 * _mean(a.out_grad * a.weight * a.x)), ("width",)),
        "weight_grad": Rule(lambda a: abs(a.out_grad * a.x * _rms(a)).sum(0), ("rows", "width")),
    },
    "layer_norm": {
        "out": Rule(lambda a: _centred(a) * abs(a.weight) + abs(a.bias), ("width",)),
        "x_grad": Rule(
            lambda a: (abs(a.out_grad * a.weight) + _mean(a.out_grad * a.weight)
                       + _centred(a) * _mean(a.out_grad * a.weight * _centred(a)))
            / np.sqrt(a.x.var(-1, keepdims=True) + a.eps), ("width",)),
        "weight_grad": Rule(lambda a: (abs(a.out_grad) * _centred(a)).sum(0), ("rows", "width")),
        "bias_grad": products(lambda a: abs(a.out_grad).sum(0), "rows"),
    },
    "softmax": {
        "out": Rule(lambda a: _exponential(a.x), ("width",)),
        "x_grad": Rule(_softmax_grad, ("width",)),
    },
    "cross_entropy": {
        "out": Rule(_cross_entropy, ("rows",)),
        "logits_grad": Rule(_logits_grad, ("classes",)),
    },
    "rope": {
        "out": Rule(lambda a: abs(a.x).max(-1, keepdims=True, initial=0.0) * _turn(a)),
        "x_grad": Rule(lambda a: abs(a.out_grad).max(-1, keepdims=True, initial=0.0) * _turn(a)),
        "cos_grad": Rule(_turned, ("batch", "rows", "heads")),
        "sin_grad": Rule(_turned, ("batch", "rows", "heads")),
    },
    "attention": {
        "out": Rule(_attention),
        "q_grad": Rule(_attention_grad("k")),
        "k_grad": Rule(_attention_grad("q"), ("rows", "heads")),
        "v_grad": Rule(_attention_grad("g"), ("rows", "heads")),
    },
    "attention_with_sinks": {
        "out": Rule(lambda a: largest(a.sinks) * largest(a.v) + _attention(a)),
        "q_grad": Rule(_sunk("k")),
        "k_grad": Rule(_sunk("q"), ("rows", "heads")),
        "v_grad": Rule(_sunk("g"), ("rows", "heads")),
        "sinks_grad": Rule(
            lambda a: _lengths(a.out_grad) * _lengths(a.v) * (_steepness(a) + largest(a.sinks)),
            ("batch", "rows")),
    },
    "self_attention": {
        "out": Rule(lambda a: _attention(_parts(a))),
        "qkv_grad": Rule(
            lambda a: max(_attention_grad(by)(_parts(a)) for by in ("k", "q", "g")), ("rows",)),
    },
    "gelu": {
        "out": Rule(lambda a: abs(a.x)),
        "x_grad": Rule(lambda a: abs(a.out_grad) * _steep(a.x, 8)),
    },
    "silu": {
        "out": Rule(lambda a: abs(a.x)),
        "x_grad": Rule(lambda a: abs(a.out_grad) * _steep(a.x, 20)),
    },
    "swiglu": {
        "out": Rule(lambda a: abs(a.gate * a.up)),
        "gate_grad": Rule(lambda a: abs(a.out_grad * a.up) * _steep(a.gate, 20)),
        "up_grad": Rule(lambda a: abs(a.out_grad * a.gate)),
    },
    "geglu": {
        "out": Rule(lambda a: abs(a.gate * a.up)),
        "gate_grad": Rule(lambda a: abs(a.out_grad * a.up) * _steep(a.gate, 8)),
        "up_grad": Rule(lambda a: abs(a.out_grad * a.gate)),
    },
    "adamw_step": {
        "param": Rule(lambda a: abs(a.param) + _step(a).change),
        "m": Rule(lambda a: _step(a).m),
        "v": Rule(lambda a: _step(a).v),
    },
    "sgd_step": {
        "param": Rule(lambda a: abs(a.param) + a.lr * _velocity(a)),
        "velocity": Rule(_velocity),
    },
}  # fmt: skip


def rule(op: str, result: str) -> Rule:
    """The line for a result; an op without one is measured by its largest number."""
    return RULES.get(op, {}).get(result) or Rule(lambda a: largest(a.want))
