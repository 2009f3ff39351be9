"""The pieces of which blocks are made: small numbers packed into bytes, scales, and both together."""

import numpy as np


def unpack(packed: np.ndarray, bits: int, run: int) -> np.ndarray:
    """Bytes (n, k) as numbers of so many bits, uint8 (n, 8 k / bits).

    Each `run` bytes hold the next `run` numbers in their lowest bits, those that follow in the bits
    above, and so on.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    numbers: np.ndarray = packed.reshape(len(packed), -1, 1, run) >> shifts & 2**bits - 1
    return numbers.reshape(len(packed), -1)


def pack(numbers: np.ndarray, bits: int, run: int) -> np.ndarray:
    """The bytes from which `unpack` takes these numbers, uint8; bits above are left out."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    planes = (numbers & 2**bits - 1).reshape(len(numbers), -1, 8 // bits, run) << shifts
    packed: np.ndarray = np.bitwise_or.reduce(planes, axis=2)
    return packed.reshape(len(numbers), -1)


def unpack_pairs(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two lists (n, 8) of numbers of 6 bits, from 12 bytes.

    Bytes 0 … 3 hold the first half of one list in their lower 6 bits, bytes 4 … 7 that of the other.
    Bytes 8 … 11 hold the lower 4 bits of both second halves; the upper 2 are those left before.
    """
    first, second, rest = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    return (
        np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=1),
        np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1),
    )


def pack_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The 12 bytes from which `unpack_pairs` takes these lists, uint8."""
    starts = [each[:, :4] | each[:, 4:] >> 4 << 6 for each in (first, second)]
    return np.concatenate([*starts, first[:, 4:] & 15 | second[:, 4:] << 4], axis=1)


def signed(numbers: np.ndarray, first: int) -> np.ndarray:
    """Numbers of uint8 that count from `first`, as int8."""
    counted: np.ndarray = numbers.view(np.int8) + np.int8(first)
    return counted


def half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The f16 at this byte of every block, as f32 (n, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def half_bytes(numbers: np.ndarray) -> np.ndarray:
    """The nearest f16 of each number (n, 1), uint8 (n, 2)."""
    return np.ascontiguousarray(numbers, np.float16).view(np.uint8)


def lines(scales: np.ndarray, numbers: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
    """scale * number + offset, f32: each of k parts of the numbers has its own (n, k)."""
    parts: np.ndarray = scales[:, :, None] * numbers.reshape(*scales.shape, -1)
    if offsets is not None:
        parts += offsets[:, :, None]
    return parts.reshape(len(numbers), -1)
