"""Our safetensors reader and writer against the format's own library, and against damage."""

import json
import time
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from lcm.errors import FileError, FormatError
from lcm.files.safetensors import open_safetensors, save_safetensors

TENSORS = {
    "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.linspace(-2, 2, 7).astype(np.float16),
    "double": np.array([[1e300]]),
    "scalar": np.array(7, np.int64),
    "empty": np.zeros((0, 5), np.int32),
    "mask": np.array([True, False, True]),
    "bytes": np.arange(5, dtype=np.uint8),
    "gedächtnis": np.arange(3, dtype=np.int16),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "big_endian": np.arange(4, dtype=">f4"),
}


def test_the_formats_own_library_reads_what_we_write(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", TENSORS, metadata={"made": "here"})
    theirs = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert theirs.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(theirs[name], array)
        assert theirs[name].dtype == array.dtype.newbyteorder("=")
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"made": "here"}


def test_we_read_what_the_formats_own_library_writes(tmp_path):
    native = {
        name: np.ascontiguousarray(a, a.dtype.newbyteorder("=")) for name, a in TENSORS.items()
    }
    native["scalar"] = TENSORS["scalar"]
    safetensors.numpy.save_file(native, tmp_path / "a.safetensors", {"made": "there"})
    ours = open_safetensors(tmp_path / "a.safetensors")
    assert ours.metadata == {"made": "there"}
    assert ours.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(ours[name], array)
        assert ours[name].dtype == native[name].dtype
        assert ours.shape(name) == array.shape
    assert ours.formats["weight"] == "f32"
    assert ours.formats["mask"] == "bool"


def test_bf16_comes_and_goes_as_uint16(tmp_path):
    bits = np.array([0x3F80, 0xC000], np.uint16)
    save_safetensors(tmp_path / "a", {"x": bits, "n": bits}, formats={"x": "bf16"})
    ours = open_safetensors(tmp_path / "a")
    assert ours.formats == {"x": "bf16", "n": "u16"}
    np.testing.assert_array_equal(ours["x"], bits)
    blob = (tmp_path / "a").read_bytes()
    entries = dict(safetensors.deserialize(blob))
    assert entries["x"]["dtype"] == "BF16"
    assert bytes(entries["x"]["data"]) == bits.tobytes()


def test_a_tensor_is_a_read_only_view_of_the_file_and_costs_no_memory(tmp_path):
    save_safetensors(tmp_path / "a", {"x": np.ones(1 << 22, np.float32)})
    tracemalloc.start()
    x = open_safetensors(tmp_path / "a")["x"]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 1 << 16
    assert x.sum() == 1 << 22
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1


def test_the_same_tensors_give_the_same_bytes_with_aligned_data(tmp_path):
    save_safetensors(tmp_path / "a", TENSORS, metadata={"b": "1", "a": "2"})
    backwards = dict(reversed(TENSORS.items()))
    save_safetensors(tmp_path / "b", backwards, metadata={"a": "2", "b": "1"})
    blob = (tmp_path / "a").read_bytes()
    assert blob == (tmp_path / "b").read_bytes()
    assert (8 + int.from_bytes(blob[:8], "little")) % 64 == 0


def test_what_cannot_be_written_is_refused_by_name(tmp_path):
    for array, format in [
        (np.ones(2, np.complex64), None),
        (np.ones(2, np.float32), "bf16"),
        (np.ones(2, np.float32), "f16"),
        (np.ones(2, np.uint16), "f17"),
        (np.array(["a"]), None),
    ]:
        with pytest.raises(FormatError, match="tensor 'x': numpy's"):
            save_safetensors(tmp_path / "a", {"x": array}, formats={"x": format} if format else {})
    assert not (tmp_path / "a").exists()


def write_raw(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"[]", "does not start with"),
        (b'{"a": ', "header is damaged"),
        (b'{"a": "\xff"}', "header is damaged"),
        (b"{" + b'"a":[' * 100_000, "header is damaged"),
        (b'{"x": {}, "x": {}}', "'x' is there twice"),
        ({"__metadata__": {"a": 1}}, "__metadata__"),
        ({"x": 3}, "tensor 'x': its header entry"),
        ({"x": entry(dtype="Q9")}, "tensor 'x': dtype 'Q9' is unknown"),
        ({"x": entry(shape=(-1,))}, "tensor 'x': shape"),
        ({"x": entry(shape=(True,))}, "tensor 'x': shape"),
        ({"x": entry(shape=(1,) * 40)}, "tensor 'x': shape"),
        ({"x": entry(shape=(2,))}, "does not fill 4 bytes"),
        ({"x": entry(shape=(2**62, 4))}, "does not fill 4 bytes"),
        ({"x": entry(shape=(10**30,))}, "tensor 'x': shape"),
        ({"x": entry(offsets=(0, 8), shape=(2,))}, "lies at bytes 0 to 8, but the file has 4"),
        ({"x": entry(offsets=(4, 0))}, "tensor 'x': lies at bytes 4 to 0"),
        ({"x": entry(offsets=(0, 4, 4))}, "data_offsets"),
        ({"x": entry("U8", (1,), (1, 2)), "y": entry("U8", (2,), (2, 4))}, "'x': has a hole"),
        ({"x": entry("U8", (3,), (0, 3)), "y": entry("U8", (2,), (2, 4))}, "'y': overlaps"),
        ({"x": entry("U8", (1,), (0, 1))}, "3 bytes at its end"),
        ({"x": entry("F4", (3,), (0, 2))}, "does not fill"),
    ],
)
def test_a_bad_header_is_refused_at_once_by_file_and_tensor(tmp_path, header, said):
    path = write_raw(tmp_path / "bad.safetensors", header, b"\0\0\0\0")
    started = time.perf_counter()
    with pytest.raises(FileError, match=said) as caught:
        open_safetensors(path)
    assert time.perf_counter() - started < 0.5
    assert "bad.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_or_too_short_is_refused(tmp_path):
    for content in (b"", b"1234567", b"\x80\x02}q" * 10, (1 << 40).to_bytes(8, "little") + b"{}"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(FileError):
            open_safetensors(tmp_path / "a")
    with pytest.raises(FileError, match="cannot be read"):
        open_safetensors(tmp_path / "none")


def test_a_format_that_nobody_here_reads_is_refused_only_when_it_is_used(tmp_path):
    header = {"x": entry("F8_E4M3", (4,)), "y": entry("F32", (1,), (4, 8))}
    file = open_safetensors(write_raw(tmp_path / "a", header, bytes(8)))
    assert file["y"] == 0
    assert file.formats["x"] == "f8_e4m3"
    with pytest.raises(FileError, match="tensor 'x' is F8_E4M3"):
        file["x"]


def test_an_unaligned_tensor_reads_right(tmp_path):
    header = {"a": entry("U8", (1,), (0, 1)), "x": entry("F32", (2,), (1, 9))}
    data = b"\7" + np.array([1.5, -2], np.float32).tobytes()
    x = open_safetensors(write_raw(tmp_path / "a", header, data))["x"]
    assert x.tolist() == [1.5, -2]
    assert x.flags.aligned
    assert not x.flags.writeable


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "a.safetensors"
    save_safetensors(path, TENSORS, metadata={"made": "here"})
    return path


@settings(max_examples=300, deadline=500)
@given(data=st.data())
def test_damage_is_a_file_error_or_nothing(good, data):
    blob = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del blob[data.draw(st.integers(0, len(blob))) :]
    damaged = good.with_name("damaged")
    damaged.write_bytes(blob)
    try:
        file = open_safetensors(damaged)
        for name in file:
            assert file[name].shape == file.shape(name)
    except FileError:
        pass
