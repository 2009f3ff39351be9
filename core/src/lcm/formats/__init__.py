"""Number formats: what a stored number is called, how many bytes it has, how it becomes f32 and back."""

from dataclasses import dataclass

import numpy as np

from lcm.errors import FormatError, ShapeError
from lcm.formats.blocks import BLOCKS


@dataclass(frozen=True)
class Format:
    """A number format: `storage` is the numpy type of one element, which holds so many `numbers`.

    `c` is the element's type in C.
    """

    name: str
    storage: np.dtype
    c: str
    numbers: int = 1

    def bytes(self, count: int) -> int:
        """How many bytes so many numbers take."""
        return count * self.storage.itemsize // self.numbers

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """How many numbers an array of this many elements holds along each axis."""
        return stored if self.numbers == 1 else (*stored[:-1], stored[-1] * self.numbers)

    def stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many elements hold this many numbers; `ShapeError` if the last axis is not whole blocks."""
        if self.numbers == 1:
            return shape
        if not shape or shape[-1] % self.numbers:
            raise ShapeError(
                f"{self.name} stores rows of whole blocks of {self.numbers}, not {shape}"
            )
        return (*shape[:-1], shape[-1] // self.numbers)


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
    if name in BLOCKS:
        blocks = np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)
        array = BLOCKS[name].decode(blocks).reshape(FORMATS[name].shape(array.shape))
    elif name == "bf16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(FORMATS[to].storage, copy=False)


def encode(array: np.ndarray, name: str) -> np.ndarray:
    """`array` as it is stored in the format `name`; bf16 is rounded to the nearest, ties to even."""
    if name != "bf16":
        return array.astype(FORMATS[name].storage, copy=False)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40  # rounding up must not turn a NaN into an infinity
    return np.where(np.isnan(array), quiet, rounded).astype(np.uint16)
