"""The safetensors format: tensors by name, mapped from the file they lie in, and written whole.

The format (https://github.com/huggingface/safetensors): eight bytes with the header's length, the
header as a JSON object, then the tensors' bytes without holes. Everything a header says is checked
before it is believed, when the file is opened; no tensor's bytes are read until it is used.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from lcm.errors import FormatError
from lcm.files.atomic import write_atomically
from lcm.files.mapped import MAX_NUMBERS, MappedFile
from lcm.files.reading import MAX_JSON, parse_json
from lcm.files.refusal import brief, refuse

# The format's name: (lcm's name, bits, numpy's type; None: known, but nothing here can read it).
DTYPES: dict[str, tuple[str, int, str | None]] = {
    "F64": ("f64", 64, "<f8"),
    "F32": ("f32", 32, "<f4"),
    "F16": ("f16", 16, "<f2"),
    "BF16": ("bf16", 16, "<u2"),
    "I64": ("i64", 64, "<i8"),
    "I32": ("i32", 32, "<i4"),
    "I16": ("i16", 16, "<i2"),
    "I8": ("i8", 8, "|i1"),
    "U64": ("u64", 64, "<u8"),
    "U32": ("u32", 32, "<u4"),
    "U16": ("u16", 16, "<u2"),
    "U8": ("u8", 8, "|u1"),
    "BOOL": ("bool", 8, "|b1"),
    "C64": ("c64", 64, None),
    "F8_E4M3": ("f8_e4m3", 8, None),
    "F8_E4M3FNUZ": ("f8_e4m3fnuz", 8, None),
    "F8_E5M2": ("f8_e5m2", 8, None),
    "F8_E5M2FNUZ": ("f8_e5m2fnuz", 8, None),
    "F8_E8M0": ("f8_e8m0", 8, None),
    "F6_E2M3": ("f6_e2m3", 6, None),
    "F6_E3M2": ("f6_e3m2", 6, None),
    "F4": ("f4", 4, None),
}
NAMES = {name: dtype for dtype, (name, _, _) in DTYPES.items()}
MAX_HEADER = MAX_JSON  # 40,000 tensors; the specification's own 100 MB may take 2 GB to read
MAX_AXES = 32  # numpy's, before 2.0
ALIGNMENT = 64  # of the first tensor, in the files we write


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header says of one tensor; `start` and `stop` count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile(Mapping[str, np.ndarray]):
    """The tensors of one file by name: read-only views of the mapped file, bf16 as uint16."""

    def __init__(
        self, map: MappedFile, metadata: dict[str, str], entries: dict[str, Entry]
    ) -> None:
        self.path = map.path
        self.metadata = metadata
        self.formats = {name: DTYPES[entry.dtype][0] for name, entry in entries.items()}
        self._map = map
        self._entries = entries

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entry(name)
        numpy_name = DTYPES[entry.dtype][2]
        if numpy_name is None:
            refuse(self.path, f"tensor {brief(name)} is {entry.dtype}, which lcm cannot compute with",
                   "use a copy of the model in BF16, F16 or F32")  # fmt: skip
        dtype = np.dtype(numpy_name)
        return self._map.array(name, dtype, entry.shape, entry.start, alignment=dtype.itemsize)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise KeyError(f"no tensor {name!r} in {self.path}")
        return self._entries[name]


def open_safetensors(path: str | Path) -> SafetensorsFile:
    """Map the file and check its header; `FileError` says what is wrong with it, and where."""
    path = Path(path)
    map = MappedFile(path, 8, "safetensors")
    header, start = _read_header(path, map)
    metadata = _metadata(path, header.pop("__metadata__", None))
    entries = {name: _entry(path, name, fact, start, len(map)) for name, fact in header.items()}
    _check_order(path, entries, start, len(map))
    return SafetensorsFile(map, metadata, entries)


# The header, checked -----------------------------------------------------------------------------


def _read_header(path: Path, map: MappedFile) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors' bytes start."""
    start = 8 + int.from_bytes(map.bytes[:8], "little")
    if start > len(map):
        refuse(path, f"is no safetensors file, or is cut short: it announces a header of {start - 8} "
               f"bytes, and has {len(map)} in all")  # fmt: skip
    if start > MAX_HEADER:
        refuse(path, f"announces a header of {start - 8} bytes; lcm reads {MAX_HEADER}",
               "split the model into several files")  # fmt: skip
    text = map.bytes[8:start]
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not start with '{'")
        return parse_json(text), start
    except ValueError as error:
        refuse(path, f"the header is damaged: {error}")


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        refuse(path, "the header is damaged: __metadata__ is not a table of texts")
    return found


def _entry(path: Path, name: str, found: Any, start: int, size: int) -> Entry:
    def unfit(what: str) -> NoReturn:
        refuse(path, f"tensor {brief(name)}: {what}")

    if not isinstance(found, dict) or not {"dtype", "shape", "data_offsets"} <= set(found):
        unfit("its header entry has no dtype, shape and data_offsets")
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        unfit(f"dtype {brief(dtype)} is unknown")
    if not _are_sizes(shape) or len(shape) > MAX_AXES:
        unfit(f"shape {brief(shape)} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        unfit(f"data_offsets {brief(offsets)} are not two positions")
    first, last = offsets
    if not first <= last <= size - start:
        unfit(f"lies at bytes {first} to {last}, but the file has {size - start} bytes of tensors")
    bits = math.prod(shape) * DTYPES[dtype][1]
    if bits != 8 * (last - first):
        unfit(f"{dtype} of shape {brief(shape)} does not fill {last - first} bytes")
    if math.prod(size or 1 for size in shape) > MAX_NUMBERS:
        unfit(f"shape {brief(shape)} has more numbers than fit anywhere")
    return Entry(dtype, tuple(shape), start + first, start + last)


def _are_sizes(found: Any) -> bool:
    return isinstance(found, list) and all(type(n) is int and 0 <= n < 2**63 for n in found)


def _check_order(path: Path, entries: dict[str, Entry], start: int, size: int) -> None:
    """The tensors follow each other without hole or overlap, to the end of the file."""
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != start:
            what = "overlaps the one before" if entry.start < start else "has a hole before it"
            refuse(path, f"tensor {brief(name)}: {what}")
        start = entry.stop
    if start != size:
        refuse(path, f"{size - start} bytes at its end belong to no tensor")


# Writing -----------------------------------------------------------------------------------------


def save_safetensors(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    *,
    formats: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors` to `path`, whole or not at all; the same tensors give the same bytes.

    `formats` names a tensor's format where numpy's type does not tell it: 'bf16' for uint16.
    """
    formats = formats or {}
    dtypes = {name: _dtype_of(name, array, formats.get(name)) for name, array in tensors.items()}
    # Wide elements first, so that each tensor starts at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-DTYPES[dtypes[name]][1], name))
    header = _header(names, dtypes, tensors, metadata)

    def write(file: BinaryIO) -> None:
        file.write(header)
        for name in names:
            array = np.ascontiguousarray(tensors[name], np.dtype(DTYPES[dtypes[name]][2]))
            if array.size:
                file.write(array.reshape(-1).view(np.uint8).data)

    write_atomically(path, write)


def _header(
    names: list[str],
    dtypes: Mapping[str, str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None,
) -> bytes:
    header: dict[str, Any] = {}
    if metadata:
        if not all(isinstance(value, str) for value in metadata.values()):
            raise FormatError("safetensors metadata must be texts; give str(value)")
        header["__metadata__"] = dict(sorted(metadata.items()))
    start = 0
    for name in names:
        stop = start + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if 8 + len(text) > MAX_HEADER:
        raise FormatError(f"a header of {len(text)} bytes is too long; write several files")
    return len(text).to_bytes(8, "little") + text


def _dtype_of(name: str, array: np.ndarray, format: str | None) -> str:
    if name == "__metadata__":
        raise FormatError("no tensor can be called '__metadata__'; choose another name")
    kind = array.dtype.newbyteorder("<")
    own = next(
        (
            dtype
            for dtype, (_, _, numpy_name) in DTYPES.items()
            if dtype != "BF16" and numpy_name and np.dtype(numpy_name) == kind
        ),
        None,
    )
    wanted = own if format is None else NAMES.get(format)
    if wanted is None or (wanted != own and (wanted, own) != ("BF16", "U16")):
        said = f" as {format!r}" if format else ""
        raise FormatError(f"tensor {name!r}: numpy's {array.dtype} cannot be written{said}; "
                          f"there are {', '.join(NAMES)}, and bf16 comes as uint16")  # fmt: skip
    return wanted
