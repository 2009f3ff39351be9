"""The header of a GGUF file as far as its metadata: values of stated types by key, read within bounds.

Where each value begins and ends is checked when the file is opened; what it says, when it is asked
for: a vocabulary of 150,000 texts is walked over in 10 ms, but takes 40 ms to read.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lcm.errors import FileError
from lcm.files.refusal import AGAIN, brief

# The format's number for a type of values: numpy's type for one of them.
NUMBERS: dict[int, np.dtype] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
BOOL, TEXT, ARRAY = 7, 8, 9

# Far beyond what models have; a file within these is refused or open in less than a second.
MAX_HEADER = 2**27  # bytes
MAX_TEXTS = 2**21  # in all arrays together; vocabularies with merges have less than a million
MAX_VALUES = 2**15  # keys and arrays
MAX_DEPTH = 8  # of arrays in arrays
MAX_KEY = 2**16 - 1  # bytes, the specification's own bound

_u32 = struct.Struct("<I").unpack_from
_u64 = struct.Struct("<Q").unpack_from


class Cursor:
    """A place in a header, which moves on as things are read or passed over, and never out of it."""

    def __init__(self, path: Path, data: bytes | mmap.mmap, position: int) -> None:
        self.path = path
        self.what = "the header"  # is being read, for an error's line
        self.position = position
        self._data = data
        self._values = self._texts = 0

    def refuse(self, fault: str, remedy: str = AGAIN) -> NoReturn:
        raise FileError(f"{self.path}: {self.what} {fault}; {remedy}")

    def u32(self) -> int:
        found: int = _u32(self._data, self._move(4))[0]
        return found

    def u64(self) -> int:
        found: int = _u64(self._data, self._move(8))[0]
        return found

    def name(self, longest: int) -> str:
        """The name of a value or tensor, of at most so many bytes."""
        length = self.u64()
        if length > longest:
            self.refuse(f"is damaged: it has a name of {length} bytes, where {longest} are allowed")
        start = self._move(length)
        try:
            name = self._data[start : self.position].decode()
        except UnicodeDecodeError:
            self.refuse("is damaged: it has a name that is not UTF-8")
        if "\0" in name:
            self.refuse(f"is damaged: it has a name with a NUL, {brief(name)}")
        return name

    def pass_over(self, kind: int, count: int = 1, depth: int = 0) -> None:
        """Move behind so many values of a kind; `depth` tells how many arrays they lie in."""
        if kind in NUMBERS:
            self._move(count * NUMBERS[kind].itemsize)
        elif kind == TEXT:
            self._pass_over_texts(count)
        elif kind != ARRAY:
            self.refuse(f"is of a type {kind} that GGUF does not have")
        elif depth >= MAX_DEPTH:
            self.refuse(f"has more than {MAX_DEPTH} arrays within each other")
        else:
            self.count_values(count)
            for _ in range(count):
                self.pass_over(self.u32(), self.u64(), depth + 1)

    def count_values(self, count: int) -> None:
        self._values += count
        if self._values > MAX_VALUES:
            self.refuse(f"announces {count} values; all metadata may have {MAX_VALUES}")

    def read(self, kind: int) -> Any:
        """The value that begins here, which was passed over before."""
        if kind == ARRAY:
            return self._array(self.u32(), self.u64())
        value = self._array(kind, 1)[0]
        return bool(value) if kind == BOOL else value

    def _array(self, kind: int, count: int) -> np.ndarray | list[str] | tuple[Any, ...]:
        if kind == ARRAY:
            return tuple(self._array(self.u32(), self.u64()) for _ in range(count))
        return self._read_texts(count) if kind == TEXT else self._read_numbers(kind, count)

    def _read_numbers(self, kind: int, count: int) -> np.ndarray:
        dtype = NUMBERS[kind]
        start = self._move(count * dtype.itemsize)
        raw = np.frombuffer(self._data, np.uint8, self.position - start, start).copy()
        if kind == BOOL and raw.max(initial=0) > 1:
            self.refuse("is damaged: it should be true or false, and is neither")
        raw.flags.writeable = False
        return raw.view(dtype)

    def _read_texts(self, count: int) -> list[str]:
        data, position, texts = self._data, self.position, []
        try:
            for _ in range(count):
                start = position + 8
                position = start + _u64(data, position)[0]
                texts.append(data[start:position].decode())
        except UnicodeDecodeError as error:
            self.refuse(f"is damaged: a text in it is not UTF-8 ({error.reason})")
        self.position = position
        return texts

    def _pass_over_texts(self, count: int) -> None:
        self._texts += count
        if self._texts > MAX_TEXTS:
            self.refuse(f"announces {count} texts; all metadata may have {MAX_TEXTS}")
        data, position = self._data, self.position
        try:
            for _ in range(count):
                position += 8 + _u64(data, position)[0]
        except (struct.error, OverflowError):
            position = MAX_HEADER + 1
        self._move(position - self.position)

    def _move(self, size: int) -> int:
        """Move on by so many bytes; returns where they begin."""
        start, stop = self.position, self.position + size
        if stop > len(self._data):
            self.refuse("is damaged or cut short: it does not end within the file")
        if stop > MAX_HEADER:
            self.refuse(f"ends behind byte {MAX_HEADER}, where no header goes")
        self.position = stop
        return start


class Metadata(Mapping[str, Any]):
    """The values by key. Each comes in a type that tells how it is stored, so that `save_gguf` can keep it.

    A number is a numpy scalar (take `int` or `float` of it to compute), an array of numbers a
    read-only numpy array; a truth is a bool, a text a str, an array of texts a list of them, and an
    array of arrays a tuple.
    """

    def __init__(self, path: Path, header: bytes, fields: Mapping[str, tuple[int, int]]) -> None:
        """`fields` tells of each key the kind of its value, and where in the header that begins."""
        self._path = path
        self._header = header
        self._fields = fields
        self._read: dict[str, Any] = {}

    def without(self, prefix: str) -> "Metadata":
        """The same without the keys that begin with `prefix`."""
        fields = {key: f for key, f in self._fields.items() if not key.startswith(prefix)}
        return Metadata(self._path, self._header, fields)

    def integer(self, key: str, default: int) -> int:
        """What the file says of how it is laid out; `FileError` if it is no integer."""
        if key not in self:
            return default
        kind, _ = self._fields[key]
        if kind not in NUMBERS or NUMBERS[kind].kind not in "iu":
            raise FileError(f"{self._path}: metadata {brief(key)} is not an integer; {AGAIN}")
        return int(self[key])

    def __getitem__(self, key: str) -> Any:
        if key not in self._read:
            kind, start = self._fields[key]
            cursor = Cursor(self._path, self._header, start)
            cursor.what = f"metadata {brief(key)}"
            self._read[key] = cursor.read(kind)
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, key: object) -> bool:
        return key in self._fields

    def __repr__(self) -> str:
        return f"<{len(self)} values of metadata in {self._path}>"


def read_fields(cursor: Cursor, count: int) -> dict[str, tuple[int, int]]:
    """Pass over the metadata: of each key the kind of its value, and where that begins."""
    cursor.count_values(count)
    fields: dict[str, tuple[int, int]] = {}
    for _ in range(count):
        key = cursor.name(MAX_KEY)
        if key in fields:
            cursor.refuse(f"is damaged: metadata {brief(key)} is there twice")
        cursor.what = f"metadata {brief(key)}"
        kind = cursor.u32()
        fields[key] = kind, cursor.position
        cursor.pass_over(kind)
        cursor.what = "the header"
    return fields
