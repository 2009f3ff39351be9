"""safetensors files and indices that are damaged or made to harm: each ends at once in one line."""

import json
import os
from contextlib import suppress

import numpy as np
import pytest
from bounds import open_within_bounds

from lcm.errors import FileError, FormatError
from lcm.files.reading import MAX_JSON, MAX_MARKS
from lcm.files.safetensors import open_safetensors, save_safetensors
from lcm.files.weights import open_weights

DATA = bytes(16)


def file(header, data=DATA, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensors(*entries, data=DATA):
    """A file of entries (name, dtype, shape, first, last), of which several may have one name."""
    fields = [
        (name, {"dtype": dtype, "shape": shape, "data_offsets": [first, last]})
        for name, dtype, shape, first, last in entries
    ]
    return file(
        b"{%s}" % ",".join(f"{json.dumps(n)}:{json.dumps(f)}" for n, f in fields).encode(), data
    )


def named(name):
    return tensors((name, "Q9", [4], 0, 16))


HOSTILE = {
    "nothing": (b"", "has 0 bytes, too few for a safetensors file"),
    "short": (bytes(7), "has 7 bytes, too few"),
    "header_without_end": (file({}, length=2**64 - 1), "announces a header of 18446744073709551615"),
    "header_behind_the_end": (file({}, length=19), "announces a header of 19 bytes, and has 26 in all"),
    "header_of_nothing": (file(b""), "does not start with"),
    "header_too_long": (file(b"{" + b" " * MAX_JSON + b"}"), "announces a header .* lcm reads 5242880"),
    "header_of_many_marks": (
        file(b'{"a":[' + b"[]," * (MAX_MARKS // 2) + b"[]]}"),
        "commas and brackets, where 524288 are allowed",
    ),
    "brackets_without_end": (file(b'{"a":' + b"[" * 100_000), "brackets are too deep"),
    "brackets_within_each_other": (file(b'{"a":' + b"[" * 400 + b"]" * 400 + b"}"), "'a': its header"),
    "number_without_end": (file(b'{"a":' + b"9" * 100_000 + b"}"), "header is damaged"),
    "infinite_place": (
        file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}}'),
        "data_offsets .* are not two positions",
    ),
    "not_unicode": (file(b'{"\xff":1}'), "header is damaged"),
    "key_twice": (file(b'{"a":1,"a":1}'), "'a' is there twice"),
    "tensor_twice": (tensors(*[("x", "F32", [4], 0, 16)] * 2), "'x' is there twice"),
    "field_twice": (file(b'{"a":{"dtype":"F32","dtype":"F32"}}'), "'dtype' is there twice"),
    "dtype_a_list": (tensors(("x", ["F32"], [4], 0, 16)), "dtype .* is unknown"),
    "shape_negative": (tensors(("x", "F32", [-4], 0, 16)), "is not a list of sizes"),
    "shape_of_fractions": (tensors(("x", "F32", [4.0], 0, 16)), "is not a list of sizes"),
    "shape_of_truths": (tensors(("x", "U8", [True], 0, 1)), "is not a list of sizes"),
    "shape_nested": (tensors(("x", "F32", [[4]], 0, 16)), "is not a list of sizes"),
    "shape_a_text": (tensors(("x", "F32", "4", 0, 16)), "is not a list of sizes"),
    "shape_that_wraps_to_few": (tensors(("x", "F32", [2**62, 2, 2, 4], 0, 16)), "does not fill 16 bytes"),
    "shape_of_nothing": (
        tensors(("x", "F32", [0, 2**62, 2**62], 0, 0), data=b""),
        r"'x': shape \[0, 4611686018427387904, 4611686018427387904\] has more numbers than fit anywhere",
    ),
    "axes_too_many": (tensors(("x", "U8", [1] * 33, 0, 1)), "is not a list of sizes"),
    "axes_without_end": (tensors(("x", "U8", [1] * 99_999, 0, 1)), "is not a list of sizes"),
    "place_negative": (tensors(("x", "F32", [4], -16, 0)), "are not two positions"),
    "place_behind_the_end": (tensors(("x", "F32", [8], 0, 32)), "lies at bytes 0 to 32, but the file has 16"),
    "place_over_2_to_63": (tensors(("x", "F32", [4], 2**64 - 16, 2**64)), "are not two positions"),
    "place_backwards": (tensors(("x", "F32", [4], 16, 0)), "lies at bytes 16 to 0"),
    "overlap": (tensors(("x", "F32", [4], 0, 16), ("y", "F32", [1], 8, 12)), "'y': overlaps"),
    "overlap_of_the_same": (tensors(("x", "F32", [4], 0, 16), ("y", "F32", [4], 0, 16)), "overlaps"),
    "hole": (tensors(("x", "F32", [1], 0, 4), ("y", "F32", [1], 8, 12)), "'y': has a hole before it"),
    "rest": (tensors(("x", "F32", [1], 0, 4)), "12 bytes at its end belong to no tensor"),
    "metadata_of_numbers": (file({"__metadata__": {"a": 1}}), "is not a table of texts"),
    "name_empty": (named(""), "tensor '': dtype"),
    "name_with_nul": (named("a\0b"), r"tensor 'a\\x00b': dtype"),
    "name_with_a_line": (named("a\nb"), r"tensor 'a\\nb': dtype"),
    "name_that_a_terminal_obeys": (named("\x1b[2J\x9b\u202e"), r"tensor '\\x1b\[2J\\x9b\\u202e': dtype"),
    "name_of_half_a_pair": (named("\ud800"), r"tensor '\\ud800': dtype"),
    "name_too_long": (named("x" * 1_000_000), "tensor 'x{50,}…: dtype"),
    "name_of_all_there_is_with_a_wide_character": (
        file(('{"\U00010000\\n' + "x" * (MAX_JSON - 99) + '\\n":3}').encode()),
        "its header entry has no dtype",
    ),
    "name_of_a_path": (named("../../etc/passwd"), "tensor '../../etc/passwd': dtype"),
}  # fmt: skip


def refusal(path, said, open=open_safetensors):
    with pytest.raises(FileError, match=said) as caught:
        open_within_bounds(path, open)
    assert str(caught.value).startswith(f"{path}")
    assert str(caught.value).isprintable(), "one line, and nothing that a terminal obeys"
    assert len(str(caught.value)) < len(str(path)) + 250


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once_in_one_line(tmp_path, name):
    content, said = HOSTILE[name]
    (tmp_path / "bad.safetensors").write_bytes(content)
    refusal(tmp_path / "bad.safetensors", said)


def test_the_builder_of_these_files_builds_good_ones_too(tmp_path):
    entries = [
        ("x", "F32", [2, 1], 0, 8),
        ("empty", "F32", [0, 2**59], 8, 8),
        ("y", "BF16", [4], 8, 16),
    ]
    (tmp_path / "a").write_bytes(tensors(*entries))
    opened = open_within_bounds(tmp_path / "a", open_safetensors)
    assert {name: opened[name].shape for name in opened} == {
        "x": (2, 1),
        "empty": (0, 2**59),
        "y": (4,),
    }


@pytest.mark.parametrize("name", ["x%06d", "\U00010000%06d"], ids=["plain", "wide"])
def test_a_file_at_the_limits_opens_within_the_bounds(tmp_path, name):
    count = min(MAX_MARKS // 9, MAX_JSON // 84)
    entries = [(name % i, "U8", [1, 1], i, i + 1) for i in range(count)]
    (tmp_path / "a").write_bytes(tensors(*entries, data=bytes(count)))
    assert len(open_within_bounds(tmp_path / "a", open_safetensors)) == count


def test_no_file_is_written_that_could_not_be_read(tmp_path):
    with pytest.raises(FormatError, match="is too long; write several files"):
        save_safetensors(tmp_path / "a", {"x" * MAX_JSON: np.zeros(1)})
    assert not (tmp_path / "a").exists()


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(FileError, match="is not a file; name a safetensors file"):
            open_safetensors(path)
    for path in (tmp_path / "none", tmp_path / "loop", tmp_path / ("x" * 300)):
        with pytest.raises(FileError, match="cannot be read: .*; check the path"):
            open_safetensors(path)


@pytest.fixture
def nobody():
    """Who may read nothing of ours, where root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_file_without_permission_is_refused(tmp_path, nobody):
    with suppress(PermissionError):  # of another's folder
        (tmp_path / "a").write_bytes(tensors(("x", "F32", [4], 0, 16)))
        (tmp_path / "a").chmod(0)
    with pytest.raises(FileError, match="cannot be read: Permission denied; check the path"):
        open_safetensors(tmp_path / "a")


def test_a_path_that_a_terminal_obeys_is_escaped_in_the_line(tmp_path):
    (tmp_path / "a\n\x1b[2J").write_bytes(b"")
    with pytest.raises(FileError) as caught:
        open_safetensors(tmp_path / "a\n\x1b[2J")
    assert str(caught.value) == f"{tmp_path}/a\\n\\x1b[2J: has 0 bytes, too few for a safetensors file; " \
        "download or copy it again"  # fmt: skip


# A file that is not what it was.


@pytest.fixture
def opened(tmp_path):
    save_safetensors(tmp_path / "a", {"x": np.arange(4000), "y": np.arange(2)})
    return open_safetensors(tmp_path / "a")


def test_a_tensor_is_refused_after_the_file_has_become_shorter(opened):
    os.truncate(opened.path, 100)
    for name in opened:
        with pytest.raises(FileError, match=f"tensor '{name}' is gone: the file is shorter"):
            opened[name]


def test_a_tensor_is_refused_after_the_file_was_written_to(opened):
    before = opened.path.stat().st_mtime_ns
    with opened.path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(bytes(8))
    os.utime(opened.path, ns=(before + 1, before + 1))  # clocks may be coarse
    with pytest.raises(FileError, match="tensor 'y' is not sure: the file has changed"):
        opened["y"]


def test_a_new_file_in_its_place_or_none_changes_nothing(opened):
    save_safetensors(opened.path, {"x": np.zeros(1)})
    assert opened["x"].tolist() == list(range(4000))
    opened.path.unlink()
    assert opened["y"].tolist() == [0, 1]


# An index of shards.

INDICES = {
    "nothing": (b"", "cannot be read as JSON"),
    "too_long": (b'{"weight_map": {}}' + b" " * MAX_JSON, "bytes, where 5242880 are allowed"),
    "many_marks": (b'{"weight_map": {"a": [' + b"[]," * MAX_MARKS + b"1]}}", "commas and brackets"),
    "too_deep": (b"[" * 100_000, "brackets are too deep"),
    "no_map": (b'{"weight_map": 3}', "there is no weight_map in it"),
    "no_table": (b"[]", "there is no weight_map in it"),
    "twice": (b'{"weight_map": {"a": "a", "a": "b"}}', "'a' is there twice"),
    "outside": (b'{"weight_map": {"a": "../a.safetensors"}}', "'../a.safetensors' is not a file of this"),
    "absolute": (b'{"weight_map": {"a": "/etc/passwd"}}', "is not a file of this folder"),
    "folder": (b'{"weight_map": {"a": "."}}', "is not a file of this folder"),
    "of_nothing": (b'{"weight_map": {"a": ""}}', "'' is not there"),
    "with_nul": (b'{"weight_map": {"a": "a\\u0000"}}', r"'a\\x00' is not there"),
    "half_a_pair": (b'{"weight_map": {"a": "\\ud800"}}', r"'\\ud800' is not there"),
    "endless": (b'{"weight_map": {"a": "%s"}}' % (b"x" * 5000), "'x*…+ is not there"),
    "of_lists": (b'{"weight_map": {"a": ["b"]}}', "is not a file of this folder"),
    "obeyed": (b'{"weight_map": {"a": "\\u001b[2J\\n"}}', r"'\\x1b\[2J\\n' is not there"),
}  # fmt: skip


@pytest.mark.parametrize("name", INDICES)
def test_a_hostile_index_is_refused_at_once_in_one_line(tmp_path, name):
    content, said = INDICES[name]
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(content)
    refusal(index, said, open=lambda _: open_weights(tmp_path))


def test_an_index_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors.index.json")
    with pytest.raises(FileError, match="is not a file"):
        open_weights(tmp_path)
