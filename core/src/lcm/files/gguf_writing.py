"""Writing GGUF files (version 3): whole or not at all, a tensor at a time."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from lcm.errors import FormatError, ShapeError, UsageError
from lcm.files.atomic import write_atomically
from lcm.files.gguf import ALIGNMENT, ALIGNMENT_KEY, HEAD, MAX_AXES, MAX_NAME, TYPES
from lcm.files.gguf_metadata import ARRAY, MAX_DEPTH, MAX_HEADER, MAX_KEY, NUMBERS, TEXT
from lcm.files.refusal import brief
from lcm.formats import FORMATS, Format

NUMBERS_OF_TYPES = {name: number for number, name in TYPES.items()}
KINDS = {dtype: kind for kind, dtype in NUMBERS.items()}
# A Python int is written as the first of these that holds it.
INTEGERS = {np.uint32: range(2**32), np.int64: range(-(2**63), 2**63), np.uint64: range(2**64)}
LARGEST = float(np.finfo(np.float32).max)
POWERS_OF_TWO = [2**n for n in range(32)]
VERSION = 3


@dataclass(frozen=True)
class Plan:
    """What the header will say of a tensor."""

    name: str
    format: Format
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return self.format.bytes(math.prod(self.shape))


def save_gguf(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    *,
    metadata: Mapping[str, Any],
    formats: Mapping[str, str] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    alignment: int | None = None,
) -> None:
    """Write `tensors` to `path`, whole or not at all, in the order they have; the same give the same bytes.

    `formats` names a tensor's format where numpy's type does not tell it: 'bf16' for uint16, and
    the block formats. Only one tensor is held at a time, so a Mapping may make each when it is
    asked for: once for its shape and once for its bytes, or only for its bytes where `formats` and
    `shapes` (in numbers) say before what it will be.

    Metadata is written in the type that it has. A numpy scalar or array tells its own, as do bool,
    str, a list of str, and a tuple of lists and arrays; a float is written as f32, or f64 if
    it is too large for that, and an int as the first of u32, i64 and u64 that holds it. So what
    `open_gguf` read is written as it was.

    `alignment`, a power of two, stands for the metadata's `general.alignment`, or 32 without it.
    """
    metadata, alignment = _aligned(metadata, alignment)
    plans = [_plan(name, tensors, formats or {}, shapes or {}) for name in tensors]
    header = _header(metadata, plans, alignment)

    def write(file: BinaryIO) -> None:
        file.write(header)
        for plan in plans:
            array = _checked(plan, tensors[plan.name])
            file.write(array.reshape(-1).view(np.uint8).data)
            file.write(_padding(plan.bytes, alignment))

    write_atomically(path, write)


def _aligned(metadata: Mapping[str, Any], alignment: int | None) -> tuple[Mapping[str, Any], int]:
    """The metadata that says the alignment, and the alignment."""
    found = metadata.get(ALIGNMENT_KEY, ALIGNMENT) if alignment is None else alignment
    if not isinstance(found, (int, np.integer)) or found not in POWERS_OF_TWO:
        raise UsageError(f"the alignment {brief(found)} is no power of two; give {ALIGNMENT}")
    if alignment is not None and (alignment != ALIGNMENT or ALIGNMENT_KEY in metadata):
        metadata = {**metadata, ALIGNMENT_KEY: np.uint32(alignment)}
    return metadata, int(found)


# Tensors -----------------------------------------------------------------------------------------


def _plan(
    name: str,
    tensors: Mapping[str, np.ndarray],
    formats: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> Plan:
    if name in formats and name in shapes:
        plan = Plan(name, _format(name, formats[name]), tuple(shapes[name]))
    else:
        array = tensors[name]
        format = _format(name, formats.get(name) or _own_format(name, array))
        shape = format.shape(array.shape) if array.ndim else ()
        plan = Plan(name, format, shapes.get(name, shape))
        _checked(plan, array)
    if len(plan.shape) > MAX_AXES:
        raise ShapeError(f"tensor {name!r} has {len(plan.shape)} axes; GGUF has {MAX_AXES} at most")
    plan.format.stored(plan.shape)
    return plan


def _format(name: str, format: str) -> Format:
    if format not in FORMATS or format not in NUMBERS_OF_TYPES:
        raise FormatError(f"tensor {name!r} cannot be written as {format!r}; in GGUF there are "
                          f"{', '.join(n for n in FORMATS if n in NUMBERS_OF_TYPES)}")  # fmt: skip
    return FORMATS[format]


def _own_format(name: str, array: np.ndarray) -> str:
    for format in FORMATS.values():
        if format.storage == _native(array) and format.numbers == 1 and format.name != "bf16":
            return format.name
    raise FormatError(
        f"tensor {name!r}: numpy's {array.dtype} tells no format; name one in `formats`"
    )


def _checked(plan: Plan, array: np.ndarray) -> np.ndarray:
    """The tensor as it is written, if it is what the header says."""
    storage, shape = plan.format.storage, plan.format.stored(plan.shape)
    if _native(array) != storage:
        raise FormatError(f"tensor {plan.name!r}: numpy's {array.dtype} is not how {plan.format.name} is "
                          f"stored; give {storage}")  # fmt: skip
    if array.shape != shape:
        raise ShapeError(
            f"tensor {plan.name!r}: {shape} was announced, but its shape is {array.shape}"
        )
    return np.ascontiguousarray(array, storage)


def _native(array: np.ndarray) -> np.dtype:
    return array.dtype.newbyteorder("=")


# The header --------------------------------------------------------------------------------------


def _header(metadata: Mapping[str, Any], plans: list[Plan], alignment: int) -> bytes:
    parts = [HEAD.pack(b"GGUF", VERSION, len(plans), len(metadata))]
    for key in metadata:
        kind, content = _typed(key, metadata[key])
        parts += [_name("metadata", key, MAX_KEY), struct.pack("<I", kind), content]
    offset = 0
    for plan in plans:
        axes = len(plan.shape)
        facts = struct.pack(f"<I{axes}QIQ", axes, *reversed(plan.shape),
                            NUMBERS_OF_TYPES[plan.format.name], offset)  # fmt: skip
        parts += [_name("tensor", plan.name, MAX_NAME), facts]
        offset += plan.bytes + len(_padding(plan.bytes, alignment))
    header = b"".join(parts)
    if len(header) > MAX_HEADER:
        raise FormatError(f"a header of {len(header)} bytes is too long; leave some metadata out")
    return header + _padding(len(header), alignment)


def _padding(size: int, alignment: int) -> bytes:
    return bytes(-size % alignment)


def _name(what: str, name: str, longest: int) -> bytes:
    text = _text(f"{what} {brief(name)}", name)
    if len(text) > 8 + longest or "\0" in name:
        raise FormatError(f"{what} {brief(name)}: a name has {longest} bytes at most, and no NUL")
    return text


def _text(what: str, text: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{what}: {brief(text)} is not Unicode; mend the text") from None
    return len(raw).to_bytes(8, "little") + raw


def _typed(key: str, value: Any) -> tuple[int, bytes]:
    """The format's number for the type of a value, and its bytes."""
    if isinstance(value, str):
        return TEXT, _text(f"metadata {brief(key)}", value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return ARRAY, _array(key, value)
    number = np.asarray(_number(value))
    if number.dtype not in KINDS:
        _refuse(key, value)
    return KINDS[number.dtype], number.tobytes()


def _number(value: Any) -> Any:
    """A Python number as the numpy scalar that it is written as, if one can hold it; all else as it is."""
    if isinstance(value, np.generic):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return next((kind(value) for kind, all in INTEGERS.items() if value in all), value)
    if isinstance(value, float) and (not math.isfinite(value) or abs(value) <= LARGEST):
        return np.float32(value)
    return value


def _array(key: str, value: Any, depth: int = 1) -> bytes:
    """The type of an array's items, how many there are, and their bytes."""
    if depth > MAX_DEPTH:
        raise FormatError(f"metadata {brief(key)} has more than {MAX_DEPTH} arrays in each other")
    if isinstance(value, tuple):
        kind, items = ARRAY, b"".join(_array(key, item, depth + 1) for item in value)
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        kind, items = TEXT, b"".join(_text(f"metadata {brief(key)}", item) for item in value)
    elif isinstance(value, np.ndarray) and value.ndim == 1 and _native(value) in KINDS:
        kind = KINDS[_native(value)]
        items = value.astype(NUMBERS[kind]).tobytes()
    else:
        _refuse(key, value)
    return struct.pack("<IQ", kind, len(value)) + items


def _refuse(key: str, value: Any) -> NoReturn:
    raise FormatError(
        f"metadata {brief(key)}: GGUF has no type for {brief(value)}; give a number, bool, text, "
        f"list of texts, numpy array of numbers with one axis, or tuple of lists and arrays"
    )
