"""Block formats: some numbers stored together, as a few bits each and the scales they share (ggml's)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lcm.formats import super_blocks
from lcm.formats.pieces import half, lines, signed, unpack

Decoder = Callable[[np.ndarray], np.ndarray]

PIECE = 1 << 16  # numbers; what is made of a piece on the way stays in the cache of a core


@dataclass(frozen=True)
class Block:
    """A block's size, and how its bytes (n, bytes) become numbers (n, numbers), f32."""

    numbers: int
    bytes: int
    decode: Decoder


def decode_blocks(stored: np.ndarray, name: str, dtype: np.dtype) -> np.ndarray:
    """The numbers of these blocks (any shape, `bytes` each), a row for each block, piece by piece."""
    block = BLOCKS[name]
    blocks = np.ascontiguousarray(stored).reshape(-1, 1).view(np.uint8)
    numbers = np.empty((len(blocks), block.numbers), dtype)
    rows = PIECE // block.numbers
    with np.errstate(invalid="ignore", over="ignore"):  # of a file's bytes any may be a scale
        for i in range(0, len(blocks), rows):
            numbers[i : i + rows] = block.decode(blocks[i : i + rows])
    return numbers


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    """A scale; 32 signed bytes."""
    return lines(half(blocks, 0), blocks[:, 2:].view(np.int8))


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    """A scale; 32 times 4 bits that count from -8: the low halves of 16 bytes, then their high ones."""
    return lines(half(blocks, 0), signed(unpack(blocks[:, 2:], 4, 16), -8))


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    """A scale; the lowest number; 32 times 4 bits."""
    return lines(half(blocks, 0), unpack(blocks[:, 4:], 4, 16), half(blocks, 2))


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    """A scale; 32 fifth bits; 32 times the lower 4; they count from -16."""
    return lines(half(blocks, 0), signed(_five_bits(blocks[:, 2:]), -16))


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    """A scale; the lowest number; 32 fifth bits; 32 times the lower 4."""
    return lines(half(blocks, 0), _five_bits(blocks[:, 4:]), half(blocks, 2))


def _five_bits(packed: np.ndarray) -> np.ndarray:
    numbers: np.ndarray = unpack(packed[:, 4:], 4, 16) | unpack(packed[:, :4], 1, 1) << 4
    return numbers


def _iq4_nl(blocks: np.ndarray) -> np.ndarray:
    """A scale; 32 times 4 bits, for UNEVEN."""
    return lines(half(blocks, 0), super_blocks.UNEVEN.take(unpack(blocks[:, 2:], 4, 16)))


# Twice what 4 bits stand for in mxfp4, which are a sign, two bits of exponent and one of mantissa.
DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def _mxfp4(blocks: np.ndarray) -> np.ndarray:
    """The exponent of a scale; 32 times 4 bits (Open Compute Project, Microscaling Formats 1.0)."""
    halved = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    return lines(halved, DOUBLED.take(unpack(blocks[:, 1:], 4, 16)))


BLOCKS = {
    "q8_0": Block(32, 34, _q8_0),
    "q4_0": Block(32, 18, _q4_0),
    "q4_1": Block(32, 20, _q4_1),
    "q5_0": Block(32, 22, _q5_0),
    "q5_1": Block(32, 24, _q5_1),
    "q2_k": Block(256, 84, super_blocks.q2_k),
    "q3_k": Block(256, 110, super_blocks.q3_k),
    "q4_k": Block(256, 144, super_blocks.q4_k),
    "q5_k": Block(256, 176, super_blocks.q5_k),
    "q6_k": Block(256, 210, super_blocks.q6_k),
    "iq4_nl": Block(32, 18, _iq4_nl),
    "iq4_xs": Block(256, 136, super_blocks.iq4_xs),
    "mxfp4": Block(32, 17, _mxfp4),
}
