"""Block formats: some numbers stored together, as a few bits each and the scales they share (ggml's)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Decoder = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Block:
    """A block's size, and how its bytes (n, bytes) become numbers (n, numbers), f32."""

    numbers: int
    bytes: int
    decode: Decoder


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    """A scale, then 32 signed bytes."""
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    """A scale, then 32 times 4 bits that count from -8: the low halves of 16 bytes, then their high ones."""
    low, high = blocks[:, 2:] & 15, blocks[:, 2:] >> 4
    return _half(blocks, 0) * (np.concatenate([low, high], axis=1).astype(np.int8) - 8)


def _half(blocks: np.ndarray, at: int) -> np.ndarray:
    """The f16 at this byte of every block, as f32 (n, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


BLOCKS = {
    "q8_0": Block(32, 34, _q8_0),
    "q4_0": Block(32, 18, _q4_0),
}
