"""What our GGUF writer writes: that our reader reads it as it was, and what cannot be written."""

import os
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from lcm.errors import FormatError, ShapeError, UsageError
from lcm.files import gguf_writing
from lcm.files.gguf import TYPES, open_gguf
from lcm.files.gguf_metadata import MAX_DEPTH
from lcm.files.gguf_writing import save_gguf
from lcm.formats import FORMATS

FORMAT_NAMES = [name for name in FORMATS if name in TYPES.values()]
TENSORS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "scalar": np.array(7.0),
    "empty": np.zeros((0, 5), np.int32),
    "half": np.ones(7, np.float16),
}


def blocks(name, shape):
    """Random bytes as an array in the storage of a format."""
    storage = FORMATS[name].storage
    stored = FORMATS[name].stored(shape)
    size = int(np.prod(stored)) * storage.itemsize
    raw = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return raw.view(storage).reshape(stored)


def typed(value):
    """A value of metadata, a tensor, or many of them by name, with types: what has to be equal."""
    if isinstance(value, Mapping):
        return [(key, typed(value[key])) for key in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return type(value), value.dtype, value.shape, value.tobytes()
    return type(value), [*map(typed, value)] if isinstance(value, tuple) else value


# Round trips

texts = st.text(max_size=5)
codes = st.sampled_from([np.dtype(c) for c in "? i1 u1 i2 u2 i4 u4 i8 u8 f4 f8".split()])
numbers = hypothesis_numpy.arrays(codes, st.integers(0, 3))
flat = numbers | st.lists(texts, max_size=3)
arrays = st.recursive(flat, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
scalars = numbers.filter(len).map(lambda array: array[0] if array.dtype != "?" else True)
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)


@settings(max_examples=100, deadline=None)
@given(metadata=st.dictionaries(keys, scalars | st.booleans() | texts | arrays, max_size=5))
def test_metadata_comes_back_in_value_and_type_and_is_written_again_as_the_same_bytes(
    tmp_path_factory, metadata
):
    folder = tmp_path_factory.getbasetemp()
    save_gguf(folder / "a", TENSORS, metadata=metadata)
    ours = open_gguf(folder / "a")
    assert typed(ours.metadata) == typed(metadata)
    save_gguf(folder / "b", ours, metadata=ours.metadata, formats=ours.formats)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


@pytest.mark.parametrize("alignment", [None, 32, 4096])
def test_tensors_of_every_format_come_back_and_are_written_again_as_the_same_bytes(
    tmp_path, alignment
):
    tensors = {name: blocks(name, (2, 256)) for name in FORMAT_NAMES}
    tensors |= TENSORS
    tensors["none"] = blocks("q4_0", (0, 32))
    formats = {name: name for name in FORMAT_NAMES} | {"none": "q4_0"}
    save_gguf(tmp_path / "a", tensors, formats=formats, metadata={}, alignment=alignment)
    ours = open_gguf(tmp_path / "a")
    assert typed(ours) == typed(tensors)
    assert ours.shape("scalar") == () and ours.shape("none") == (0, 32)
    save_gguf(tmp_path / "b", ours, formats=ours.formats, metadata=ours.metadata)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Writing


class Made(Mapping):
    """Tensors that are made when they are asked for, and that remember how often they were."""

    def __init__(self, **shapes):
        self.shapes = shapes
        self.asked = []

    def __getitem__(self, name):
        self.asked.append(name)
        return np.full(self.shapes[name], len(name), np.float32)

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)


def test_tensors_are_written_one_at_a_time_as_they_are_made(tmp_path):
    tensors = Made(**{"x" * i: (1 << 18,) for i in range(1, 9)})  # a MiB each
    tracemalloc.start()
    save_gguf(tmp_path / "a", tensors, metadata={})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * (1 << 20)
    assert {name: array.max() for name, array in open_gguf(tmp_path / "a").items()} == {
        name: len(name) for name in tensors
    }


def test_a_tensor_whose_shape_and_format_are_said_is_asked_for_once(tmp_path):
    tensors = Made(a=(2, 3), b=(4,))
    formats = dict.fromkeys(tensors, "f32")
    save_gguf(tmp_path / "a", tensors, metadata={}, formats=formats, shapes=tensors.shapes)
    assert tensors.asked == ["a", "b"]
    before = (tmp_path / "a").read_bytes()
    for format, shape, said in [
        ("q8_0", (33,), "rows of whole blocks"),
        ("f32", (3, 2), "announced"),
    ]:
        with pytest.raises(ShapeError, match=said):
            save_gguf(
                tmp_path / "a", tensors, metadata={}, formats={"a": format}, shapes={"a": shape}
            )
    assert (tmp_path / "a").read_bytes() == before
    assert tensors.asked == ["a", "b", "b", "a"]  # the blocks were refused before any was made


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (7, np.uint32(7)),
        (2**32 - 1, np.uint32(2**32 - 1)),
        (2**32, np.int64(2**32)),
        (-1, np.int64(-1)),
        (2**63, np.uint64(2**63)),
        (0.1, np.float32(0.1)),
        (1e39, np.float64(1e39)),
        (float("inf"), np.float32("inf")),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.arange(3, dtype=">i2"), np.arange(3, dtype=np.int16)),
        (np.arange(6, dtype=np.int8)[::2], np.array([0, 2, 4], np.int8)),
    ],
)
def test_a_value_is_written_in_the_type_that_it_has_or_in_the_usual_one(tmp_path, value, written):
    save_gguf(tmp_path / "a", {}, metadata={"x": value})
    assert typed(open_gguf(tmp_path / "a").metadata) == typed({"x": written})


@pytest.mark.parametrize("value", [
    None, b"bytes", 2**64, -(2**63) - 1, 1j, np.float16(1), np.datetime64(1, "s"), {"a": 1}, [1, 2],
    ["a", 1], (1, 2), (["a"], None), np.ones((2, 2)), np.array(1), np.array(["a"]), np.array([None]),
])  # fmt: skip
def test_a_value_that_gguf_has_no_type_for_is_refused_by_its_key(tmp_path, value):
    with pytest.raises(FormatError, match="metadata 'x': GGUF has no type for") as caught:
        save_gguf(tmp_path / "a", {}, metadata={"x": value})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_what_no_reader_would_take_is_not_written(tmp_path, monkeypatch):
    value = ["a"]
    for _ in range(MAX_DEPTH - 1):
        value = (value,)
    save_gguf(tmp_path / "a", {}, metadata={"x": value})
    assert typed(open_gguf(tmp_path / "a").metadata) == typed({"x": value})
    with pytest.raises(FormatError, match="metadata 'x' has more than 8 arrays in each other"):
        save_gguf(tmp_path / "b", {}, metadata={"x": (value,)})
    monkeypatch.setattr(gguf_writing, "MAX_HEADER", 100)
    with pytest.raises(FormatError, match="a header of 136 bytes is too long; leave some metadata"):
        save_gguf(tmp_path / "b", {}, metadata={"x": "x" * 91})


@pytest.mark.parametrize(
    ("tensors", "options", "said"),
    [
        ({"x": np.ones(2, np.complex64)}, {}, "tensor 'x': numpy's complex64 tells no format"),
        ({"x": np.ones(2, np.uint16)}, {}, "tensor 'x': numpy's uint16 tells no format"),
        ({"x": np.ones(2, np.uint8)}, {}, "tensor 'x' cannot be written as 'u8'"),
        ({"x": blocks("q4_0", (32,))}, {}, "tensor 'x': numpy's .*V18.* tells no format"),
        ({"x": np.ones(2, np.float32)}, {"formats": {"x": "f16"}}, "is not how f16 is stored"),
        ({"x": np.ones(2)}, {"formats": {"x": "q9"}}, "cannot be written as 'q9'"),
        ({"x": np.ones((1,) * 5)}, {}, "has 5 axes; GGUF has 4 at most"),
        (
            {"x": blocks("q4_0", (32,)).reshape(())},
            {"formats": {"x": "q4_0"}},
            "whole blocks of 32",
        ),
        ({"x" * 65: np.ones(1)}, {}, "a name has 64 bytes at most"),
        ({"a\0b": np.ones(1)}, {}, "no NUL"),
        ({"\ud800": np.ones(1)}, {}, "is not Unicode"),
        ({}, {"metadata": {"x": "\ud800"}}, "metadata 'x': .* is not Unicode"),
        ({}, {"metadata": {"x": ["\ud800"]}}, "metadata 'x': .* is not Unicode"),
        ({}, {"metadata": {"x" * 65_536: 1}}, "a name has 65535 bytes at most"),
        ({}, {"metadata": {"general.alignment": "32"}}, "the alignment '32' is no power of two"),
        ({}, {"alignment": 0}, "the alignment 0 is no power of two"),
        ({}, {"alignment": 48}, "the alignment 48 is no power of two"),
        ({}, {"alignment": -32}, "the alignment -32 is no power of two"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(tmp_path, tensors, options, said):
    with pytest.raises((FormatError, ShapeError, UsageError), match=said):
        save_gguf(tmp_path / "a", tensors, **{"metadata": {}} | options)
    assert not os.listdir(tmp_path)


def test_a_given_alignment_stands_for_the_one_in_the_metadata(tmp_path):
    for asked, said, used in [
        (None, 0, 0),
        (32, 0, 0),
        (None, 64, 64),
        (128, 0, 128),
        (128, 64, 128),
        (32, 64, 32),
    ]:
        metadata = {"general.alignment": said} if said else {}
        save_gguf(tmp_path / "a", TENSORS, metadata=metadata, alignment=asked)
        ours = open_gguf(tmp_path / "a").metadata
        assert typed(ours) == typed({"general.alignment": np.uint32(used)} if used else {})
