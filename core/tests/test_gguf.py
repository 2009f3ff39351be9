"""Our GGUF reader and writer against the format's own library, and against the laws of a round trip."""

import struct
import time
import tracemalloc
from collections.abc import Mapping

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from lcm.errors import FileError
from lcm.files.gguf import TYPES, open_gguf
from lcm.files.gguf_writing import save_gguf
from lcm.formats import FORMATS

FORMAT_NAMES = [name for name in FORMATS if name in TYPES.values()]
NUMBERS = {
    "u8": np.uint8(200),
    "i8": np.int8(-100),
    "u16": np.uint16(60_000),
    "i16": np.int16(-30_000),
    "u32": np.uint32(4_000_000_000),
    "i32": np.int32(-2_000_000_000),
    "u64": np.uint64(2**64 - 1),
    "i64": np.int64(-(2**63)),
    "f32": np.float32(1e-5),
    "f64": np.float64(1e300),
}
ARRAYS = {
    f"array.{name}": np.array([number, 0, 1], number.dtype) for name, number in NUMBERS.items()
}
METADATA = {
    "general.architecture": "llama",
    **NUMBERS,
    **ARRAYS,
    "yes": True,
    "no": False,
    "truths": np.array([True, False, True]),
    "text": "été 🚀\nnew line\0nul",
    "texts": ["Ġthe", "中", "a\0b", "x" * 1000],
}
TENSORS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.linspace(-2, 2, 7).astype(np.float16),
    "double": np.array([[1e300]]),
    "bytes": np.arange(-2, 3, dtype=np.int8),
    "short": np.arange(-2, 3, dtype=np.int16),
    "int": np.arange(24, dtype=np.int32).reshape(2, 3, 2, 2),
    "long": np.array([2**62]),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "big_endian": np.arange(4, dtype=">f4"),
}


def blocks(name, shape, seed=0):
    """Random bytes as an array in the storage of a format."""
    storage = FORMATS[name].storage
    stored = FORMATS[name].stored(shape)
    size = int(np.prod(stored)) * storage.itemsize
    raw = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return raw.view(storage).reshape(stored)


def kind(name):
    """What the format's own library calls a type of numbers."""
    return GGUFValueType[{"u": "UINT", "i": "INT", "f": "FLOAT"}[name[0]] + name[1:]]


def typed(value):
    """A value of metadata, a tensor, or many of them by name, with types: what has to be equal."""
    if isinstance(value, Mapping):
        return [(key, typed(value[key])) for key in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return type(value), value.dtype, value.shape, value.tobytes()
    return type(value), [*map(typed, value)] if isinstance(value, tuple) else value


# Ours, as the format's own library reads it


def test_the_formats_own_library_reads_our_metadata_in_value_and_type(tmp_path):
    save_gguf(tmp_path / "a.gguf", {}, metadata=METADATA)
    fields = gguf.GGUFReader(tmp_path / "a.gguf").fields
    for key, value in METADATA.items():
        assert np.array_equal(fields[key].contents(), value), key
    for key in NUMBERS:
        assert fields[key].types == [kind(key)]
        assert fields[f"array.{key}"].types == [GGUFValueType.ARRAY, kind(key)]
    assert fields["yes"].types == [GGUFValueType.BOOL]
    assert fields["truths"].types == [GGUFValueType.ARRAY, GGUFValueType.BOOL]
    assert fields["texts"].types == [GGUFValueType.ARRAY, GGUFValueType.STRING]


@pytest.mark.parametrize("alignment", [None, 8, 32, 64, 4096])
def test_the_formats_own_library_reads_our_tensors_at_any_alignment(tmp_path, alignment):
    save_gguf(tmp_path / "a.gguf", TENSORS, metadata={"a": "b"}, alignment=alignment)
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert reader.alignment == (alignment or 32)
    assert [tensor.name for tensor in reader.tensors] == list(TENSORS)
    for tensor in reader.tensors:
        assert tensor.data_offset % reader.alignment == 0
        np.testing.assert_array_equal(tensor.data, TENSORS[tensor.name])
        assert tensor.data.dtype == TENSORS[tensor.name].dtype.newbyteorder("=")
        assert tuple(tensor.shape) == TENSORS[tensor.name].shape[::-1]


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_the_formats_own_library_reads_our_tensors_of_every_format(tmp_path, name):
    array = blocks(name, (3, 512))
    save_gguf(tmp_path / "a.gguf", {"x": array}, formats={"x": name}, metadata={})
    (tensor,) = gguf.GGUFReader(tmp_path / "a.gguf").tensors
    assert tensor.tensor_type.name.lower() == name
    assert tuple(tensor.shape) == (512, 3)
    assert tensor.data.tobytes() == array.tobytes()


def test_names_and_sizes_of_formats_are_those_of_the_formats_own_library():
    theirs = {t.value: t.name.lower() for t in GGMLQuantizationType}
    assert {number: theirs.get(number, name) for number, name in TYPES.items()} == TYPES
    for number, name in TYPES.items():
        if name in FORMATS:
            sizes = FORMATS[name].numbers, FORMATS[name].storage.itemsize
            assert sizes == GGML_QUANT_SIZES[GGMLQuantizationType(number)]


# Theirs, as we read it


def write_theirs(path, tensors, *, alignment=None, formats=None, **options):
    writer = gguf.GGUFWriter(path, "llama", **options)
    for name in NUMBERS:
        writer.add_key_value(name, NUMBERS[name].item(), kind(name))
    writer.add_bool("yes", True)
    writer.add_bool("no", False)
    writer.add_string("text", METADATA["text"])
    writer.add_array("texts", METADATA["texts"])
    writer.add_array("truths", [True, False])
    writer.add_array("ints", [-1, 2])
    writer.add_array("floats", [0.5, 2.0])
    writer.add_array("nested", [[1, 2], ["a"]])
    writer.add_key_value("shorts", [1, 2], GGUFValueType.ARRAY, GGUFValueType.UINT16)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for name, array in tensors.items():
        raw = GGMLQuantizationType[formats[name].upper()] if formats else None
        writer.add_tensor(name, array, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


THEIRS = {
    "general.architecture": "llama",
    **NUMBERS,
    "yes": True,
    "no": False,
    "text": METADATA["text"],
    "texts": METADATA["texts"],
    "truths": np.array([True, False]),
    "ints": np.array([-1, 2], np.int32),
    "floats": np.array([0.5, 2], np.float32),
    "nested": (np.array([1, 2], np.int32), ["a"]),
    "shorts": np.array([1, 2], np.uint16),
}
NATIVE = {n: np.ascontiguousarray(a, a.dtype.newbyteorder("=")) for n, a in TENSORS.items()}


@pytest.mark.parametrize("alignment", [None, 32, 64, 4096])
def test_we_read_what_the_formats_own_library_writes(tmp_path, alignment):
    write_theirs(tmp_path / "a.gguf", NATIVE, alignment=alignment)
    ours = open_gguf(tmp_path / "a.gguf")
    said = {} if alignment is None else {"general.alignment": np.uint32(alignment)}
    assert typed(ours.metadata) == typed(THEIRS | said)
    assert typed(ours) == typed(NATIVE)
    for name, array in NATIVE.items():
        assert ours.shape(name) == array.shape
        assert FORMATS[ours.formats[name]].storage == array.dtype


def test_we_read_every_format_that_the_formats_own_library_writes(tmp_path):
    arrays = {name: blocks(name, (2, 3, 256)) for name in FORMAT_NAMES}
    raw = {name: array.view(np.uint8).reshape(2, 3, -1) for name, array in arrays.items()}
    write_theirs(tmp_path / "a.gguf", raw, formats={name: name for name in raw})
    ours = open_gguf(tmp_path / "a.gguf")
    assert ours.formats == {name: name for name in FORMAT_NAMES}
    assert typed(ours) == typed(arrays)
    assert {ours.shape(name) for name in ours} == {(2, 3, 256)}


@pytest.mark.parametrize("name", [n for n in TYPES.values() if n not in FORMATS])
def test_a_format_that_lcm_cannot_decode_is_refused_only_when_it_is_used(tmp_path, name):
    numbers, size = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
    raw = {"x": np.zeros((2, size), np.uint8), "y": np.ones((2, 4), np.uint8)}
    write_theirs(tmp_path / "a.gguf", raw, formats={"x": name, "y": "f32"})
    ours = open_gguf(tmp_path / "a.gguf")
    assert ours["y"].shape == (2, 1)
    assert ours.formats["x"] == name
    assert ours.shape("x") == (2, numbers)
    with pytest.raises(
        FileError, match=rf"a\.gguf: tensor 'x' is {name}.* use a copy of the model in"
    ):
        ours["x"]


def test_version_2_reads_as_version_3(tmp_path):
    text = struct.pack("<Q", 3) + b"abc"
    header = b"GGUF" + struct.pack("<IQQ", 2, 1, 1) + text + struct.pack("<II", 4, 7)
    header += text + struct.pack("<IQQIQ", 2, 2, 1, 0, 0)
    data = np.array([1.5, -2], np.float32)
    (tmp_path / "a").write_bytes(header + bytes(-len(header) % 32) + data.tobytes())
    ours = open_gguf(tmp_path / "a")
    assert typed(ours.metadata) == typed({"abc": np.uint32(7)})
    assert typed(ours) == typed({"abc": data.reshape(1, 2)})


# What a reader gets


def test_a_tensor_is_a_read_only_view_of_the_file_and_costs_no_memory(tmp_path):
    save_gguf(tmp_path / "a", {"x": np.ones(1 << 22, np.float32)}, metadata={})
    tracemalloc.start()
    x = open_gguf(tmp_path / "a")["x"]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 1 << 16
    assert x.sum() == 1 << 22
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1


def test_an_array_of_metadata_is_read_only_as_it_is_given_to_all_who_ask(tmp_path):
    save_gguf(tmp_path / "a", {}, metadata=METADATA)
    ours = open_gguf(tmp_path / "a").metadata
    assert ours["truths"] is ours["truths"]
    for key in ("truths", *ARRAYS):
        with pytest.raises(ValueError, match="read-only"):
            ours[key][0] = 1


@pytest.mark.parametrize("alignment", [1, 2, 4])
def test_a_tensor_that_is_not_aligned_for_its_numbers_is_copied(tmp_path, alignment):
    tensors = {"a": np.ones(3, np.int8), "x": np.array([1.5, -2]), "y": blocks("q4_0", (2, 32))}
    save_gguf(tmp_path / "a", tensors, formats={"y": "q4_0"}, metadata={}, alignment=alignment)
    ours = open_gguf(tmp_path / "a")
    assert typed(ours) == typed(tensors)
    assert all(ours[name].ctypes.data % 8 == 0 and not ours[name].flags.writeable for name in ours)


def test_a_large_vocabulary_is_opened_in_no_time_and_read_when_asked_for(tmp_path):
    tokens = [f"Ġtok{i}" for i in range(151_936)]
    merges = [f"{i} {i + 1}" for i in range(151_387)]
    types = np.ones(len(tokens), np.int32)
    save_gguf(tmp_path / "a", {}, metadata={"tokens": tokens, "merges": merges, "types": types})
    times = []
    for _ in range(5):
        started = time.process_time()
        ours = open_gguf(tmp_path / "a")
        times.append(time.process_time() - started)
    assert min(times) < 0.3  # 0.03 s where nothing else runs
    assert ours.metadata["tokens"] == tokens
    assert ours.metadata["merges"] == merges
    assert ours.metadata["tokens"] is ours.metadata["tokens"]
    assert ours.metadata["types"].sum() == len(tokens)


def test_an_absent_tensor_and_an_absent_key_are_key_errors(tmp_path):
    save_gguf(tmp_path / "a", TENSORS, metadata=METADATA)
    ours = open_gguf(tmp_path / "a")
    assert "none" not in ours and "none" not in ours.metadata
    assert ours.get("none") is None and ours.metadata.get("none") is None
    with pytest.raises(KeyError, match="no tensor 'none'"):
        ours["none"]
    assert len(ours) == len(TENSORS) and len(ours.metadata) == len(METADATA)


# Files in parts


@pytest.fixture(params=[{}, {"small_first_shard": True}], ids=["plain", "first_without_tensors"])
def parts(tmp_path, request):
    """Three parts or four, as the format's own library splits a file."""
    options = {"split_max_tensors": 4} | request.param
    write_theirs(tmp_path / "model.gguf", NATIVE, **options)
    return sorted(tmp_path.iterdir())


def test_any_part_opens_them_all_as_one(parts):
    assert len(parts) in (3, 4)
    for part in parts:
        ours = open_gguf(part)
        assert typed(ours) == typed(NATIVE)
        assert typed(ours.metadata) == typed(THEIRS)
        assert {ours.shape(name) for name in ours} == {array.shape for array in NATIVE.values()}
        assert ours.formats["half"] == "f16"


def test_a_part_that_is_missing_is_named(parts):
    parts[1].unlink()
    for part in parts[::2]:
        with pytest.raises(FileError, match=rf"{parts[1].name}: is missing, one of the model's"):
            open_gguf(part)


def test_a_part_with_another_name_or_in_the_place_of_another_is_refused(parts):
    other = parts[0].with_name("model.gguf")
    other.write_bytes(parts[1].read_bytes())
    with pytest.raises(FileError, match=r"model\.gguf: is one of . parts, but its name"):
        open_gguf(other)
    again = parts[0].with_name("model-00001-of-00009.gguf")
    again.write_bytes(parts[0].read_bytes())
    with pytest.raises(FileError, match=r"00009\.gguf: is one of . parts, but its name"):
        open_gguf(again)
    other.replace(parts[2])
    with pytest.raises(
        FileError, match=rf"{parts[2].name}: is part 2 of . by its metadata, and 3 of"
    ):
        open_gguf(parts[0])


def write_part(folder, number, tensors, **metadata):
    split = {"split.no": number - 1, "split.count": 2, **metadata}
    save_gguf(folder / f"x-0000{number}-of-00002.gguf", tensors, metadata=split)


@pytest.mark.parametrize(
    ("first", "second", "name", "said"),
    [
        ({"split.tensors.count": 3}, {}, "b", "should have 3 tensors, but have 2"),
        ({"split.count": "2"}, {}, "b", "metadata 'split.count' is not an integer"),
        ({}, {"split.count": 3}, "b", "is part 2 of 3 by its metadata, and 2 of 2 by its name"),
        ({"general.alignment": 64}, {}, "b", "aligns its tensors to 32 bytes .* and part 1 to 64"),
        ({}, {}, "a", "tensor 'a' is in another part too"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(tmp_path, first, second, name, said):
    write_part(tmp_path, 1, {"a": np.ones(1)}, **first)
    write_part(tmp_path, 2, {name: np.ones(1)}, **second)
    with pytest.raises(FileError, match=said):
        open_gguf(tmp_path / "x-00001-of-00002.gguf")


def test_parts_are_saved_again_as_one_file(tmp_path):
    write_part(tmp_path, 1, {"a": np.ones(3)}, kept=1)
    write_part(tmp_path, 2, {"b": np.ones(2)})
    ours = open_gguf(tmp_path / "x-00002-of-00002.gguf")
    save_gguf(tmp_path / "whole.gguf", ours, formats=ours.formats, metadata=ours.metadata)
    whole = open_gguf(tmp_path / "whole.gguf")
    assert typed(whole) == typed(ours)
    assert typed(whole.metadata) == typed({"kept": np.uint32(1)})
