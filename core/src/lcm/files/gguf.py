"""The GGUF format: tensors by name, mapped from the file or the parts of a file that they lie in.

The format (docs/gguf.md of https://github.com/ggml-org/ggml), version 3 or 2: a header of counts,
metadata and what is said of each tensor, then the tensors' bytes, each at a multiple of the file's
alignment. Everything a header says is checked before it is believed, when the file is opened; no
tensor's bytes are read until it is used. What lcm writes comes from `gguf_writing`.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcm.errors import ShapeError
from lcm.files.gguf_metadata import Cursor, Metadata, read_fields
from lcm.files.mapped import MAX_NUMBERS, MappedFile
from lcm.files.refusal import refuse
from lcm.files.sharded import ShardedWeights
from lcm.formats import FORMATS

# The format's number for a type of tensors: its name, which is lcm's where lcm can read it.
TYPES = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    9: "q8_1",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
    15: "q8_k",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    24: "i8",
    25: "i16",
    26: "i32",
    27: "i64",
    28: "f64",
    29: "iq1_m",
    30: "bf16",
    34: "tq1_0",
    35: "tq2_0",
    39: "mxfp4",
    40: "nvfp4",
    41: "q1_0",
}
HEAD = struct.Struct("<4sIQQ")  # "GGUF", the version, how many tensors, how many values of metadata
VERSIONS = (2, 3)  # they differ in nothing but that 3 may be big-endian
MAX_TENSORS = 2**15  # far beyond what models have, and read in less than a second
MAX_NAME = 64  # bytes, the specification's own bound
MAX_AXES = 4  # the same
ALIGNMENT = 32  # of a file that says none
ALIGNMENT_KEY = "general.alignment"
PART = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header says of one tensor; `start` and `stop` count from the start of all tensors."""

    format: str
    shape: tuple[int, ...]
    start: int
    stop: int  # where lcm cannot tell the size of the format: `start`


class GgufFile(Mapping[str, np.ndarray]):
    """The tensors of one file by name: read-only views of the mapped file, in `Format.storage`."""

    def __init__(
        self, map: MappedFile, metadata: Metadata, entries: dict[str, Entry], start: int
    ) -> None:
        """The entries' places count from `start`."""
        self.path = map.path
        self.metadata = metadata
        self.formats = {name: entry.format for name, entry in entries.items()}
        self._map = map
        self._entries = entries
        self._start = start

    def shape(self, name: str) -> tuple[int, ...]:
        """How many numbers along each axis, the outermost first: the reverse of the file's order."""
        return self._entry(name).shape

    def __getitem__(self, name: str) -> np.ndarray:
        entry = self._entry(name)
        if entry.format not in FORMATS:
            refuse(self.path, f"tensor {name!r} is {entry.format}, which lcm cannot compute with",
                    "use a copy of the model in q8_0, f16 or bf16")  # fmt: skip
        format = FORMATS[entry.format]
        stored, start = format.stored(entry.shape), self._start + entry.start
        return self._map.array(
            name, format.storage, stored, start, alignment=8
        )  # as kernels need it

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


def open_gguf(path: str | Path) -> GgufFile | ShardedWeights:
    """Map the file and check its header; `FileError` says what is wrong with it, and where.

    Where it is one of several parts, all of them are opened, as one.
    """
    file = _open_file(Path(path))
    count = file.metadata.integer("split.count", 0)
    return _open_parts(file, count) if count > 1 else file


def _open_file(path: Path) -> GgufFile:
    map = MappedFile(path, HEAD.size, "GGUF")
    tensors, values = _read_head(path, map)
    cursor = Cursor(path, map.bytes, HEAD.size)
    fields = read_fields(cursor, values)
    metadata = Metadata(path, map.bytes[: cursor.position], fields)
    alignment = _alignment(path, metadata)
    entries = _read_entries(cursor, tensors, alignment)
    start = cursor.position + -cursor.position % alignment
    _check_places(path, entries, start, len(map))
    return GgufFile(map, metadata, entries, start)


# The header, checked -----------------------------------------------------------------------------


def _read_head(path: Path, map: MappedFile) -> tuple[int, int]:
    """How many tensors there are, and how many values of metadata."""
    magic, version, tensors, values = HEAD.unpack_from(map.bytes)
    if magic != b"GGUF":
        refuse(path, f"is no GGUF file: it begins with {magic!r}")
    if version in {int.from_bytes(v.to_bytes(4, "big"), "little") for v in VERSIONS}:
        refuse(path, "is big-endian, and lcm reads little-endian files",
                "use a little-endian copy of the model")  # fmt: skip
    if version not in VERSIONS:
        refuse(path, f"is GGUF of version {version}, and lcm reads 2 and 3",
                "make it again from the original model with a current converter"
                if version < min(VERSIONS) else "use a newer lcm")  # fmt: skip
    if tensors > MAX_TENSORS:
        refuse(path, f"the header announces {tensors} tensors; a file may have {MAX_TENSORS}")
    return tensors, values


def _alignment(path: Path, metadata: Metadata) -> int:
    found = metadata.integer(ALIGNMENT_KEY, ALIGNMENT)
    if found <= 0 or found.bit_count() != 1:
        refuse(path, f"{ALIGNMENT_KEY} is {found}, and not a power of two")
    return found


def _read_entries(cursor: Cursor, count: int, alignment: int) -> dict[str, Entry]:
    """The tensors' entries, whose places still count from the byte where the header ends."""
    found: dict[str, Entry] = {}
    for _ in range(count):
        name = cursor.name(MAX_NAME)
        if name in found:
            cursor.refuse(f"is damaged: tensor {name!r} is there twice")
        cursor.what = f"tensor {name!r}"
        found[name] = _read_entry(cursor, alignment)
        cursor.what = "the header"
    return found


def _read_entry(cursor: Cursor, alignment: int) -> Entry:
    axes = cursor.u32()
    if axes > MAX_AXES:
        cursor.refuse(f"has {axes} axes, where {MAX_AXES} are allowed")
    shape = tuple(cursor.u64() for _ in range(axes))[::-1]
    if math.prod(size or 1 for size in shape) > MAX_NUMBERS:
        cursor.refuse(f"has more numbers than fit anywhere: its shape is {shape}")
    type, offset = cursor.u32(), cursor.u64()
    if offset % alignment:
        cursor.refuse(f"lies at byte {offset}, and not at a multiple of {alignment}")
    name = TYPES.get(type, f"of type {type}")
    if name not in FORMATS:
        return Entry(name, shape, offset, offset)
    try:
        FORMATS[name].stored(shape)
    except ShapeError as error:
        cursor.refuse(f"is damaged: {error}")
    return Entry(name, shape, offset, offset + FORMATS[name].bytes(math.prod(shape)))


def _check_places(path: Path, entries: dict[str, Entry], start: int, size: int) -> None:
    """The tensors lie between `start` and the end of the file, one behind the other in any order."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if start + entry.stop > size:
            refuse(path, f"tensor {name!r} lies at bytes {start + entry.start} to {start + entry.stop}, "
                    f"but the file has {size}")  # fmt: skip
        if entry.start < end:
            refuse(path, f"tensor {name!r} overlaps the one before")
        end = entry.stop


# Files in parts ----------------------------------------------------------------------------------


def _open_parts(opened: GgufFile, count: int) -> ShardedWeights:
    """All parts of the file that one of them belongs to; only the first one has the model's metadata."""
    found = PART.fullmatch(opened.path.name)
    if found is None or int(found[3]) != count:
        refuse(opened.path, f"is one of {count} parts, but its name does not say so",
                f"give it back its name, which ended in -of-{count:05}.gguf")  # fmt: skip
    parts = []
    for number in range(1, count + 1):
        path = opened.path.with_name(f"{found[1]}-{number:05}-of-{found[3]}.gguf")
        if not path.exists():
            refuse(path, f"is missing, one of the model's {count} parts", "get it into this folder")
        parts.append(opened if path == opened.path else _open_file(path))
        _check_part(parts[-1], number, parts[0], count)
    files: dict[str, GgufFile] = {}
    for part in parts:
        twice = files.keys() & part.keys()
        if twice:
            refuse(part.path, f"tensor {min(twice)!r} is in another part too")
        files.update(dict.fromkeys(part, part))
    total = parts[0].metadata.integer("split.tensors.count", len(files))
    if len(files) != total:
        refuse(parts[0].path, f"all parts should have {total} tensors, but have {len(files)}")
    return ShardedWeights(parts[0].path, files, parts[0].metadata.without("split."))


def _check_part(part: GgufFile, number: int, first: GgufFile, count: int) -> None:
    says = part.metadata.integer("split.no", 0) + 1, part.metadata.integer("split.count", 0)
    if says != (number, count):
        refuse(part.path, f"is part {says[0]} of {says[1]} by its metadata, and {number} of {count} "
                f"by its name")  # fmt: skip
    # Where only part 1 says it, some writers mean it for all parts, and some do not.
    own, its = (file.metadata.integer(ALIGNMENT_KEY, ALIGNMENT) for file in (part, first))
    if own != its:
        refuse(part.path, f"aligns its tensors to {own} bytes by its metadata, and part 1 to {its}",
                "join the parts with the program that split them")  # fmt: skip
