"""The sizes that each level tries, for any op: where vectors, blocks and loops end, and what is in real use.

Sizes are combined so that any two symbols meet in any two of a few critical sizes ("pairwise"), and every
size of a longer list once with random companions. The choice follows from the op's name alone.
"""

import itertools
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lcm.ops import Op
from lcm.ops.cases import fixed_sizes, possible, widest

Sizes = dict[str, int]


@dataclass(frozen=True)
class Level:
    """How much is tried."""

    pairs: tuple[int, ...]  # any two of them meet in any two symbols
    each: tuple[int, ...]  # each of them occurs in every symbol
    least: int  # trials of a kernel
    most: int  # numbers in the largest array of these
    busy: int  # trials with work for several threads
    real: int  # multiplications in the sizes of `REAL` that are tried too
    repeats: int  # of what must show by chance, such as a race
    seconds: float  # for them


# Around the lengths of vectors (4, 8, 16) and of small blocks of them, and primes between.
TAILS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 63, 64, 65)
MORE = (29, 53, 61, 79, 96, 97, 111, 112, 113, 127, 128, 129, 191, 193, 255, 256, 257, 383, 385,
        511, 512, 513, 769, 1000, 1023, 1025)  # fmt: skip

LEVELS = {
    "smoke": Level((1, 8, 17), (0, 1, 7, 17, 33), 24, 1 << 12, 1, 0, 5, 0.05),
    "core": Level((0, 1, 3, 8, 17, 33), TAILS, 100, 1 << 15, 6, 1 << 24, 40, 0.2),
    "full": Level(
        (0, 1, 3, 7, 8, 16, 17, 31, 33, 65), (*TAILS, *MORE), 250, 1 << 17, 20, 1 << 40, 200, 1.0
    ),
}

# What models really ask for, and what crosses the blocks of a product.
REAL: dict[str, tuple[Sizes, ...]] = {
    "linear": (
        {"rows": 16, "inputs": 896, "outputs": 4864},
        {"rows": 1, "inputs": 4864, "outputs": 896},
        {"rows": 130, "inputs": 1030, "outputs": 515},
        {"rows": 1030, "inputs": 33, "outputs": 520},
        {"rows": 130, "inputs": 1100, "outputs": 70},
    ),
    "linear_int8": (
        {"rows": 1, "inputs": 896, "outputs": 4864},
        {"rows": 5, "inputs": 4864, "outputs": 896},
        {"rows": 130, "inputs": 1024, "outputs": 515},
    ),
    "matmul": (
        {"batch": 6, "rows": 256, "inner": 64, "columns": 256},
        {"batch": 1, "rows": 300, "inner": 1100, "columns": 270},
    ),
    "rms_norm": ({"rows": 3072, "width": 384}, {"rows": 5, "width": 4864}),
    "layer_norm": ({"rows": 3072, "width": 384}, {"rows": 5, "width": 4864}),
    "softmax": ({"rows": 3072, "width": 384}, {"rows": 16, "width": 32003}),
    "cross_entropy": ({"rows": 1024, "classes": 1021}, {"rows": 24, "classes": 32003}),
    "attention": (
        {"batch": 2, "rows": 256, "heads": 6, "width": 64, "capacity": 256, "kv_heads": 6},
        {"batch": 1, "rows": 130, "heads": 14, "width": 64, "capacity": 515, "kv_heads": 2},
        {"batch": 3, "rows": 1, "heads": 14, "width": 64, "capacity": 1030, "kv_heads": 2},
        {"batch": 2, "rows": 1, "heads": 6, "width": 64, "capacity": 515, "kv_heads": 6},
        {"batch": 1, "rows": 3, "heads": 4, "width": 24, "capacity": 2050, "kv_heads": 2},
    ),
    "attention_with_sinks": (
        {"batch": 2, "rows": 130, "heads": 8, "width": 64, "capacity": 515, "kv_heads": 1},
        {"batch": 2, "rows": 1, "heads": 8, "width": 64, "capacity": 515, "kv_heads": 1},
    ),
    "self_attention": ({"batch": 2, "rows": 256, "three": 3, "heads": 6, "width": 64},),
    "rope": (
        {"batch": 2, "rows": 256, "heads": 6, "width": 64, "positions": 300, "half": 32},
        {"batch": 1, "rows": 1, "heads": 14, "width": 64, "positions": 2048, "half": 32},
    ),
    "cache_write": ({"batch": 2, "capacity": 512, "heads": 6, "width": 64, "rows": 257},),
    "embedding": ({"vocabulary": 4099, "width": 384, "rows": 3072},),
    "gelu": ({"count": 1_000_003},),
    "silu": ({"count": 1_000_003},),
    "swiglu": ({"count": 1_000_003},),
    "geglu": ({"count": 1_000_003},),
    "sum_squares": ({"count": 1_000_003},),
    "adamw_step": ({"count": 1_000_003},),
    "sgd_step": ({"count": 1_000_003},),
}


# Symbols that count twice in the work: every row of the one meets every row of the other.
TWICE = {"self_attention": ("rows",)}


@cache
def shapes(op: Op, level: str) -> tuple[Sizes, ...]:
    """Every combination of sizes that the level tries."""
    chosen, rng = LEVELS[level], _rng(op)
    found = [*_pairwise(op, chosen, rng), *_each(op, chosen, rng)]
    return (*found, *(s for s in REAL.get(op.name, ()) if _work(op, s) <= chosen.real))


def busy(op: Op, count: int) -> Iterator[Sizes]:
    """Odd sizes with work for several threads: each symbol has its turn to be by far the largest."""
    rng, symbols, found = _rng(op), op.signature.symbols, 0
    while found < count:
        weights = np.ones(len(symbols))
        if (turn := found % (len(symbols) + 1)) < len(symbols):
            weights[turn] = 4
        bits = rng.uniform(14, 24) * rng.dirichlet(2 * weights)
        drawn = {s: int(np.exp2(b)) for s, b in zip(symbols, bits, strict=True)} | fixed_sizes(op)
        enough = 1 << 14 <= widest(op, drawn) <= 1 << 17 and _work(op, drawn) <= 1 << 24
        if enough and possible(op, drawn):
            found += 1
            yield drawn


def _rng(op: Op) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(op.name.encode()))


def _pairwise(op: Op, level: Level, rng: np.random.Generator) -> Iterator[Sizes]:
    """Greedily: of some random combinations that hold a pair not met yet, the one with most such pairs."""
    pairs = itertools.combinations(_free(op), 2)
    wanted = {((a, x), (b, y)) for a, b in pairs for x in level.pairs for y in level.pairs}
    for pair in sorted(wanted):
        if pair not in wanted:
            continue
        drawn = [d for _ in range(12) if (d := _drawn(op, level, level.pairs, dict(pair), rng))]
        if drawn:
            best = max(drawn, key=lambda d: len(wanted & _pairs_of(op, d)))
            wanted -= _pairs_of(op, best)
            yield best


def _each(op: Op, level: Level, rng: np.random.Generator) -> Iterator[Sizes]:
    """The others are small; where that cannot be, one of them is as large, or any."""
    small = tuple(n for n in level.each if n <= 33)
    for symbol in _free(op):
        for size in level.each:
            given = [{symbol: size}] * 20
            given += [{str(other): size, symbol: size} for other in rng.choice(_free(op), 100)]
            ways = [(small, sizes) for sizes in given] + [(level.each, given[0])] * 300
            found = (_drawn(op, level, some, sizes, rng) for some, sizes in ways)
            yield from itertools.islice((d for d in found if d), 1)


def _drawn(
    op: Op, level: Level, choices: Sequence[int], given: Sizes, rng: np.random.Generator
) -> Sizes | None:
    """Random sizes with the ones given, if that is possible and not too much."""
    drawn = {s: int(rng.choice(choices)) for s in op.signature.symbols}
    drawn |= fixed_sizes(op) | given
    small = widest(op, drawn) <= level.most and _work(op, drawn) <= level.most << 6
    return drawn if small and possible(op, drawn) else None


def _work(op: Op, drawn: Sizes) -> int:
    """About how many multiplications there are, or more; a body may need memory for them beside a 0."""
    counted = [*drawn.values(), *(drawn[s] for s in TWICE.get(op.name, ()))]
    return math.prod(max(1, n) for n in counted)


def _free(op: Op) -> list[str]:
    return [s for s in op.signature.symbols if s not in fixed_sizes(op)]


def _pairs_of(op: Op, drawn: Sizes) -> set[tuple[tuple[str, int], tuple[str, int]]]:
    return {((a, drawn[a]), (b, drawn[b])) for a, b in itertools.combinations(_free(op), 2)}
