"""Number formats: what a stored number is called, how many bytes it has, how it becomes f32 and back."""

from dataclasses import dataclass

import numpy as np

from lcm.errors import FormatError, ShapeError
from lcm.formats.blocks import BLOCKS, decode_blocks
from lcm.formats.interleaved import INTERLEAVED, ROWS
from lcm.formats.quantize import encode_blocks


@dataclass(frozen=True)
class Format:
    """A number format: `storage` is the numpy type of one element, which holds so many `numbers` of each of
    so many `rows`.

    `c` is the element's type in C.
    """

    name: str
    storage: np.dtype
    c: str
    numbers: int = 1
    rows: int = 1

    def bytes(self, count: int) -> int:
        """How many bytes so many numbers take."""
        return count * self.storage.itemsize // (self.numbers * self.rows)

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """How many numbers an array of this many elements holds along each axis."""
        if self.rows > 1:
            stored = (*stored[:-2], stored[-2] * self.rows, stored[-1])
        if self.numbers == 1 or not stored:
            return stored
        return (*stored[:-1], stored[-1] * self.numbers)

    def stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many elements hold this many numbers; `ShapeError` if they do not fill whole elements."""
        if self.numbers == 1:
            return shape
        if not shape or shape[-1] % self.numbers:
            raise ShapeError(
                f"{self.name} stores rows of whole blocks of {self.numbers}, not {shape}"
            )
        whole = (*shape[:-1], shape[-1] // self.numbers)
        if self.rows == 1:
            return whole
        if len(shape) < 2 or shape[-2] % self.rows:
            raise ShapeError(f"{self.name} stores {self.rows} rows together, not {shape}")
        return (*whole[:-2], whole[-2] // self.rows, whole[-1])


FORMATS = {
    name: Format(name, np.dtype(storage), c)
    for name, storage, c in (
        ("f32", np.float32, "float"),
        ("f64", np.float64, "double"),
        ("f16", np.float16, "uint16_t"),
        ("bf16", np.uint16, "uint16_t"),  # the upper half of an f32; numpy has no such type
        ("i32", np.int32, "int32_t"),
        ("i64", np.int64, "int64_t"),
        ("i16", np.int16, "int16_t"),
        ("i8", np.int8, "int8_t"),
        ("u8", np.uint8, "uint8_t"),
        ("bool", np.bool_, "uint8_t"),
    )
}
_OF_DTYPE = {f.storage: f.name for f in FORMATS.values() if f.name != "bf16"}
FORMATS |= {n: Format(n, np.dtype(f"V{b.bytes}"), "uint8_t", b.numbers) for n, b in BLOCKS.items()}
FORMATS |= {
    n: Format(n, np.dtype(f"V{ROWS * BLOCKS[i.of].bytes}"), "uint8_t", BLOCKS[i.of].numbers, ROWS)
    for n, i in INTERLEAVED.items()
}


def format_of(array: np.ndarray) -> str:
    """The format whose storage this array has; never bf16 or a block format, which numpy does not know."""
    try:
        return _OF_DTYPE[array.dtype]
    except KeyError:
        raise FormatError(
            f"no format for numpy's {array.dtype}; there are: {', '.join(FORMATS)}"
        ) from None


def decode(array: np.ndarray, name: str, to: str = "f32") -> np.ndarray:
    """The numbers of `array`, which is stored as `name`, in the numpy type of `to`."""
    dtype = FORMATS[to].storage
    if name in INTERLEAVED:
        return decode(separate(array, name), INTERLEAVED[name].of, to)
    if name in BLOCKS:
        return decode_blocks(array, name, dtype).reshape(FORMATS[name].shape(array.shape))
    if name == "bf16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(dtype, copy=False)


def encode(array: np.ndarray, name: str, weights: np.ndarray | None = None) -> np.ndarray:
    """`array` as it is stored in the format `name`; bf16 is rounded to the nearest, ties to even.

    Block formats (for which `array` must be finite) heed `weights` (columns,): how much the squared
    error of each column counts. q8_0 and formats without blocks have no use for them.
    """
    format = FORMATS[name]
    if name in INTERLEAVED:
        return interleave(encode(array, INTERLEAVED[name].of, weights), name)
    if name in BLOCKS:
        shape = format.stored(array.shape)
        return encode_blocks(array, name, weights).view(format.storage).reshape(shape)
    if name != "bf16":
        return array.astype(format.storage, copy=False)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40  # rounding up must not turn a NaN into an infinity
    return np.where(np.isnan(array), quiet, rounded).astype(np.uint16)


def interleave(array: np.ndarray, name: str) -> np.ndarray:
    """Rows of blocks (rows, columns) in the interleaved format of that name (rows / 16, columns)."""
    made = INTERLEAVED[name]
    FORMATS[name].stored(FORMATS[made.of].shape(array.shape))
    rows, columns = array.shape
    bytes_ = np.ascontiguousarray(array).view(np.uint8).reshape(rows // ROWS, ROWS, columns, -1)
    storage = FORMATS[name].storage
    return made.interleave(bytes_).reshape(rows // ROWS, -1).view(storage)


def separate(array: np.ndarray, name: str) -> np.ndarray:
    """What `interleave` was given."""
    made, storage = INTERLEAVED[name], FORMATS[INTERLEAVED[name].of].storage
    groups, columns = array.shape
    bytes_ = np.ascontiguousarray(array).view(np.uint8).reshape(groups, columns, -1)
    return made.separate(bytes_).reshape(groups * ROWS, -1).view(storage)
