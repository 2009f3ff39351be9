"""Blocks of 256 numbers in parts of 16 or 32, whose scales are small numbers with a scale themselves.

Each function takes the bytes of n blocks, (n, bytes), and returns their numbers, f32 (n, 256).
"""

import numpy as np

from lcm.formats.pieces import half, lines, signed, unpack, unpack_pairs

# What 4 bits stand for in iq4_nl and iq4_xs: closer together where numbers are more frequent.
UNEVEN = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


def q2_k(blocks: np.ndarray) -> np.ndarray:
    """16 times a scale and an offset, 4 bits each; 256 times 2 bits; the scales of both."""
    scales, offsets = blocks[:, :16] & 15, blocks[:, :16] >> 4
    numbers = unpack(blocks[:, 16:80], 2, 32)
    return lines(half(blocks, 80) * scales, numbers, -half(blocks, 82) * offsets)


def q3_k(blocks: np.ndarray) -> np.ndarray:
    """256 third bits; 256 times the lower 2; 16 scales, the lower 4 bits, the upper 2; their scale."""
    numbers = unpack(blocks[:, 32:96], 2, 32) | unpack(blocks[:, :32], 1, 32) << 2
    scales = unpack(blocks[:, 96:104], 4, 8) | unpack(blocks[:, 104:108], 2, 4) << 4
    return lines(half(blocks, 108) * signed(scales, -32), signed(numbers, -4))


def q4_k(blocks: np.ndarray) -> np.ndarray:
    """The scales of what follows: 8 scales and 8 offsets, 6 bits each; 256 times 4 bits."""
    scales, offsets = unpack_pairs(blocks[:, 4:16])
    numbers = unpack(blocks[:, 16:], 4, 32)
    return lines(half(blocks, 0) * scales, numbers, -half(blocks, 2) * offsets)


def q5_k(blocks: np.ndarray) -> np.ndarray:
    """Scales and offsets as in q4_k; 256 fifth bits; 256 times the lower 4."""
    scales, offsets = unpack_pairs(blocks[:, 4:16])
    numbers = unpack(blocks[:, 48:], 4, 32) | unpack(blocks[:, 16:48], 1, 32) << 4
    return lines(half(blocks, 0) * scales, numbers, -half(blocks, 2) * offsets)


def q6_k(blocks: np.ndarray) -> np.ndarray:
    """256 times the lower 4 bits; 256 times the upper 2; 16 scales of 8 bits; their scale."""
    numbers = unpack(blocks[:, :128], 4, 64) | unpack(blocks[:, 128:192], 2, 32) << 4
    return lines(half(blocks, 208) * blocks[:, 192:208].view(np.int8), signed(numbers, -32))


def iq4_xs(blocks: np.ndarray) -> np.ndarray:
    """The scale of 8 scales, their upper 2 bits, their lower 4; 256 times 4 bits, for UNEVEN."""
    scales = unpack(blocks[:, 4:8], 4, 1) | unpack(blocks[:, 2:4], 2, 1) << 4
    numbers = UNEVEN.take(unpack(blocks[:, 8:], 4, 16))
    return lines(half(blocks, 0) * signed(scales, -32), numbers)
