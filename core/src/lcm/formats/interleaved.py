"""Interleaved formats: 16 rows of a block format side by side, so that one vector of a kernel meets 16 rows.

A block of `<format>_x16` is a block of `<format>` of each of 16 rows: the same bytes in another order. Each
field of the block is cut into units, and the first unit of every row comes first, then every row's second.
So a field that begins at byte n of a block begins at byte 16 n of an interleaved one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ROWS = 16
# The fields of a block: first byte, the byte behind it, bytes of a unit. Units of 4 are what an instruction
# multiplies with 4 bytes of the other factor, and adds up.
FIELDS = {
    "q8_0": ((0, 2, 2), (2, 34, 4)),
    "q4_0": ((0, 2, 2), (2, 18, 4)),
    "q4_1": ((0, 2, 2), (2, 4, 2), (4, 20, 4)),
    "q5_0": ((0, 2, 2), (2, 6, 4), (6, 22, 4)),
    "q5_1": ((0, 2, 2), (2, 4, 2), (4, 8, 4), (8, 24, 4)),
    "iq4_nl": ((0, 2, 2), (2, 18, 4)),
    "mxfp4": ((0, 1, 1), (1, 17, 4)),
    "q2_k": ((0, 16, 1), (16, 80, 4), (80, 82, 2), (82, 84, 2)),
    "q3_k": ((0, 32, 4), (32, 96, 4), (96, 108, 1), (108, 110, 2)),
    "q4_k": ((0, 2, 2), (2, 4, 2), (4, 16, 1), (16, 144, 4)),
    "q5_k": ((0, 2, 2), (2, 4, 2), (4, 16, 1), (16, 48, 4), (48, 176, 4)),
    "q6_k": ((0, 128, 4), (128, 192, 4), (192, 208, 1), (208, 210, 2)),
    "iq4_xs": ((0, 2, 2), (2, 8, 1), (8, 136, 4)),
}


@dataclass(frozen=True)
class Interleaved:
    """An interleaved format: whose blocks it interleaves."""

    of: str

    def interleave(self, blocks: np.ndarray) -> np.ndarray:
        """Bytes (groups, 16, columns, block) as (groups, columns, 16 * block)."""
        groups, _, columns, size = blocks.shape
        made = np.empty((groups, columns, ROWS * size), np.uint8)
        for first, end, together in self._fields(made):
            field = np.ascontiguousarray(blocks[..., first:end])  # so that its units are aligned
            np.copyto(together, field.view(together.dtype).transpose(0, 2, 3, 1))
        return made

    def separate(self, made: np.ndarray) -> np.ndarray:
        """What `interleave` was given."""
        groups, columns, size = made.shape
        blocks = np.empty((groups, ROWS, columns, size // ROWS), np.uint8)
        for first, end, together in self._fields(made):
            field = np.ascontiguousarray(together.transpose(0, 3, 1, 2))
            blocks[..., first:end] = field.view(np.uint8)
        return blocks

    def _fields(self, made: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """Each field, and its units in interleaved blocks (groups, columns, units, 16), as a view."""
        for first, end, unit in FIELDS[self.of]:
            units = made[..., ROWS * first : ROWS * end].view(np.dtype(f"u{unit}"))
            yield first, end, units.reshape(*units.shape[:2], -1, ROWS)


INTERLEAVED = {f"{name}_x{ROWS}": Interleaved(name) for name in FIELDS}
