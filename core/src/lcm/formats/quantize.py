"""Numbers into blocks: how the bytes are chosen in each block format that can be written.

Blocks of 32 without weights get the very bytes that ggml's reference gives them. In all others the
scales are fitted so that the squared errors, each times its weight, have a small sum. (Where there
are no weights, ggml counts the errors of large numbers as more in blocks of 256; here all are equal.)
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from lcm.errors import FormatError, ShapeError, UsageError
from lcm.formats.blocks import BLOCKS, PIECE
from lcm.formats.fitting import (
    HALF_MAX,
    farthest,
    fit_line,
    fit_offset,
    fit_scale,
    inverse,
    round_line,
    round_scaled,
)
from lcm.formats.pieces import half_bytes, pack, pack_pairs

# From numbers (n, numbers) and the weights of their errors, or None, to bytes (n, bytes).
Encoder = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


def encode_blocks(array: np.ndarray, name: str, weights: np.ndarray | None = None) -> np.ndarray:
    """The blocks of an array whose rows are whole blocks, uint8 (n, bytes), made piece by piece."""
    if name not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise FormatError(f"{name} can be read, but not written; what can be: {known}")
    block, encoder = BLOCKS[name], ENCODERS[name]
    numbers = array.reshape(-1, block.numbers)
    if weights is not None:
        weights = _checked_weights(weights, array.shape[-1]).reshape(-1, block.numbers)
    stored = np.empty((len(numbers), block.bytes), np.uint8)
    rows = PIECE // block.numbers
    for i in range(0, len(numbers), rows):
        x = _checked(numbers[i : i + rows], name)
        w = None if weights is None else weights[np.arange(i, i + len(x)) % len(weights)]
        stored[i : i + rows] = encoder(x, w)
    return stored


def _checked(numbers: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(numbers, np.float32)
    largest = np.abs(x).max()
    if not largest <= HALF_MAX:
        raise FormatError(f"{name} stores finite numbers up to {HALF_MAX:.0f}, but one is {largest:g}; "
                          f"repair the tensor, or store it as f32")  # fmt: skip
    return x


def _checked_weights(weights: np.ndarray, columns: int) -> np.ndarray:
    """The weights, f32, with 1 as the largest; no column has so little that anything will do for it."""
    if weights.shape != (columns,):
        raise ShapeError(f"weights need shape ({columns},), one for each column, "
                         f"but have {weights.shape}")  # fmt: skip
    largest = weights.max(initial=0)
    if not (np.isfinite(largest) and weights.min(initial=0) >= 0):
        raise UsageError(f"weights say how much an error counts: finite and not negative, but they "
                         f"reach from {weights.min():g} to {largest:g}")  # fmt: skip
    return np.maximum(weights / (largest or 1), 1e-6).astype(np.float32)


# Blocks of 32: scales are f16 --------------------------------------------------------------------


def _q8_0(x: np.ndarray, w: np.ndarray | None) -> np.ndarray:
    scale = np.abs(x).max(1, keepdims=True) / 127
    steps = x * inverse(scale)
    whole = np.floor(np.abs(steps))
    q = np.copysign(whole + (np.abs(steps) - whole >= 0.5), steps)  # ties go away from 0
    return _joined(half_bytes(scale), q.astype(np.int8).view(np.uint8))


def _scaled(x: np.ndarray, w: np.ndarray | None, bits: int) -> np.ndarray:
    """A scale, and numbers of which half are below 0: q4_0, q5_0."""
    reach = 2 ** (bits - 1)
    if w is None:
        scale = farthest(x.T)[:, None] / -reach
        q = np.minimum(np.trunc(x * inverse(scale) + (reach + 0.5)), 2 * reach - 1)
    else:
        t, w = _columns(32, x, w)
        s = _halves(fit_scale(t, w, reach))
        q, scale = round_scaled(t, s, reach).T + reach, s[:, None]
    return _joined(half_bytes(scale), *_bits(q, bits, fifth=1, lower=16))


def _lowest(x: np.ndarray, w: np.ndarray | None, bits: int) -> np.ndarray:
    """A scale, the lowest number, and numbers that count from it: q4_1, q5_1."""
    levels = 2**bits - 1
    if w is None:
        low = x.min(1, keepdims=True)
        scale = (x.max(1, keepdims=True) - low) / levels
        q = np.minimum(np.trunc((x - low) * inverse(scale) + 0.5), levels)
    else:
        t, w = _columns(32, x, w)
        s, b = fit_line(t, w, levels, ceiling=HALF_MAX)
        s = _halves(s)
        b = _halves(fit_offset(t, w, s, b, levels, ceiling=HALF_MAX))
        q, scale, low = round_line(t, s, b, levels).T, s[:, None], b[:, None]
    return _joined(half_bytes(scale), half_bytes(low), *_bits(q, bits, fifth=1, lower=16))


def _halves(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(np.float16).astype(np.float32)


# Blocks of 256: scales are small numbers, and have a scale ---------------------------------------


def _offset(x: np.ndarray, w: np.ndarray | None, bits: int) -> np.ndarray:
    """8 scales and 8 offsets of 6 bits, and numbers that count from there: q4_k, q5_k."""
    levels = 2**bits - 1
    t, w = _columns(32, x, w)
    s, b = fit_line(t, w, levels, ceiling=0)
    s_unit, scales = _six_bits(s)
    s = (s_unit * scales).reshape(-1)
    b_unit, offsets = _six_bits(-fit_offset(t, w, s, b, levels, ceiling=0))
    b = -(b_unit * offsets).reshape(-1)
    q = round_line(t, s, b, levels).T.reshape(x.shape)
    return _joined(
        half_bytes(s_unit), half_bytes(b_unit), pack_pairs(scales, offsets),
        *_bits(q, bits, fifth=32, lower=32),
    )  # fmt: skip


def _six_bits(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each 8 numbers as a unit, f32 (n, 1), and how many of it they are, uint8 (n, 8)."""
    numbers = numbers.reshape(-1, 8)
    unit = _unit(numbers.max(1, keepdims=True), 63)
    return unit, np.clip(np.rint(numbers * inverse(unit)), 0, 63).astype(np.uint8)


def _q6_k(x: np.ndarray, w: np.ndarray | None) -> np.ndarray:
    """16 scales of 8 bits, and numbers of which half are below 0."""
    t, w = _columns(16, x, w)
    s = fit_scale(t, w, 32).reshape(-1, 16)
    largest = farthest(s.T)[:, None]
    unit = _unit(np.abs(largest), 128)
    unit = np.where(largest > 0, -unit, unit)  # -128 of it are the largest: there is no 128
    scales = np.clip(np.rint(s * inverse(unit)), -128, 127).astype(np.int8)
    q = round_scaled(t, (unit * scales).reshape(-1), 32) + 32
    q = q.astype(np.uint8).T.reshape(x.shape)
    return _joined(pack(q, 4, 64), pack(q >> 4, 2, 32), scales.view(np.uint8), half_bytes(unit))


def _unit(largest: np.ndarray, count: int) -> np.ndarray:
    """Of which `count` are the largest number: the nearest f16, as f32, or the next where it is short.

    The least of f16 are so far apart that the nearest may be a third too small.
    """
    nearest = (largest / count).astype(np.float16)
    short = nearest.astype(np.float32) * (count + 0.5) < largest
    return np.where(short, np.nextafter(nearest, np.float16(np.inf)), nearest).astype(np.float32)


def _columns(size: int, x: np.ndarray, w: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The parts of so many numbers as columns (size, n), and their weights: 1 where none are given."""
    if w is None:
        w = np.broadcast_to(np.float32(1), x.shape)
    t, u = (np.ascontiguousarray(each.reshape(-1, size).T) for each in (x, w))
    return t, u


def _bits(q: np.ndarray, bits: int, *, fifth: int, lower: int) -> list[np.ndarray]:
    """The fifth bits, where there are five, and the lower four, in runs of so many bytes."""
    q = np.ascontiguousarray(q, np.uint8)
    return [*([pack(q >> 4, 1, fifth)] if bits == 5 else []), pack(q, 4, lower)]


def _joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts, axis=1)


ENCODERS: dict[str, Encoder] = {
    "q8_0": _q8_0,
    "q4_0": partial(_scaled, bits=4),
    "q4_1": partial(_lowest, bits=4),
    "q5_0": partial(_scaled, bits=5),
    "q5_1": partial(_lowest, bits=5),
    "q4_k": partial(_offset, bits=4),
    "q5_k": partial(_offset, bits=5),
    "q6_k": _q6_k,
}
