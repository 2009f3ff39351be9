"""GGUF files that are damaged or made to harm: each ends at once in one line, or is a file that works."""

import os
import struct
from contextlib import suppress

import numpy as np
import pytest
from bounds import SECONDS, TRIES, open_within_bounds, seconds_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lcm.errors import FileError
from lcm.files.gguf import MAX_TENSORS, open_gguf
from lcm.files.gguf_metadata import MAX_DEPTH, MAX_TEXTS, MAX_VALUES
from lcm.files.gguf_writing import save_gguf

U8, U32, I32, F32, BOOL, TEXT, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10


def u32(n):
    return struct.pack("<I", n)


def u64(n):
    return struct.pack("<Q", n)


def text(raw, length=None):
    return u64(len(raw) if length is None else length) + raw


def pair(key, kind, content):
    return text(key) + u32(kind) + content


def array(kind, count, content=b""):
    return u32(kind) + u64(count) + content


def tensor(name=b"x", dims=(4,), kind=0, offset=0):
    return text(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def file(*parts, pairs=0, tensors=0, version=3, magic=b"GGUF", data=16):
    """A whole file of parts that hold so many values and tensors, and so many bytes of data."""
    header = magic + u32(version) + u64(tensors) + u64(pairs) + b"".join(parts)
    return header + bytes(-len(header) % 32) + bytes(data)


def metadata(kind, content, key=b"k"):
    return file(pair(key, kind, content), pairs=1)


def tensors(*entries, data=16):
    return file(*entries, tensors=len(entries), data=data)


def nested(depth):
    return array(ARRAY, 1) * depth + array(U8, 0)


HOSTILE = {
    "nothing": (b"", "has 0 bytes, too few"),
    "short": (b"GGUF\3\0\0\0" + bytes(15), "has 23 bytes, too few"),
    "other_file": (b"\x80\x02}q" * 10, "is no GGUF file"),
    "other_magic": (file(magic=b"GGML"), "is no GGUF file: it begins with b'GGML'"),
    "version_0": (file(version=0), "is GGUF of version 0.*make it again"),
    "version_1": (file(version=1), "is GGUF of version 1.*make it again"),
    "version_4": (file(version=4), "is GGUF of version 4.*use a newer lcm"),
    "big_endian": (file(version=3 << 24), "is big-endian.*use a little-endian copy"),
    "big_endian_2": (file(version=2 << 24), "is big-endian"),
    "tensors_without_end": (file(tensors=2**63), "announces 9223372036854775808 tensors"),
    "tensors_too_many": (file(tensors=MAX_TENSORS + 1), "announces 32769 tensors"),
    "tensors_absent": (file(tensors=2), "header is damaged"),
    "pairs_without_end": (file(pairs=2**64 - 1), "announces 18446744073709551615 values"),
    "pairs_absent": (file(pairs=3), "header is damaged|twice"),
    "key_without_end": (file(text(b"k", 2**63), pairs=1), "a name of 9223372036854775808 bytes"),
    "key_negative": (file(text(b"k", 2**64 - 1), pairs=1), "a name of 18446744073709551615 bytes"),
    "key_too_long": (metadata(U8, b"\0", b"k" * 65_536), "a name of 65536 bytes, where 65535"),
    "key_behind_the_end": (file(text(b"k", 2000), pairs=1), "does not end within the file"),
    "key_not_unicode": (metadata(U8, b"\0", b"\xff"), "a name that is not UTF-8"),
    "key_with_nul": (metadata(U8, b"\0", b"a\0b"), r"a name with a NUL, 'a\\x00b'"),
    "key_twice": (file(pair(b"k", U8, b"\0") * 2, pairs=2), "metadata 'k' is there twice"),
    "type_unknown": (metadata(13, b""), "metadata 'k' is of a type 13 that GGUF does not have"),
    "type_without_end": (metadata(2**32 - 1, b""), "is of a type 4294967295"),
    "text_without_end": (metadata(TEXT, u64(2**64 - 1)), "metadata 'k' .* does not end within"),
    "text_behind_the_end": (metadata(TEXT, text(b"abc", 900)), "'k' .* does not end within"),
    "array_of_unknown": (metadata(ARRAY, array(13, 1)), "'k' is of a type 13"),
    "numbers_without_end": (metadata(ARRAY, array(U64, 2**61)), "'k' .* does not end within"),
    "numbers_over_all": (metadata(ARRAY, array(U64, 2**64 - 1)), "'k' .* does not end within"),
    "texts_without_end": (metadata(ARRAY, array(TEXT, 2**64 - 1)), "18446744073709551615 texts"),
    "texts_behind_the_end": (metadata(ARRAY, array(TEXT, 99, text(b"a"))), "does not end within"),
    "texts_with_a_jump": (
        metadata(ARRAY, array(TEXT, 3, text(b"a") + text(b"b", 2**64 - 9))),
        "'k' .* does not end within",
    ),
    "arrays_without_end": (metadata(ARRAY, array(ARRAY, 2**64 - 1)), "18446744073709551615 values"),
    "arrays_too_deep": (metadata(ARRAY, nested(MAX_DEPTH)), "'k' has more than 8 arrays"),
    "arrays_deeper_than_python": (metadata(ARRAY, nested(100_000)), "'k' has more than 8 arrays"),
    "alignment_0": (metadata(U32, u32(0), b"general.alignment"), "is 0, and not a power of two"),
    "alignment_48": (metadata(U32, u32(48), b"general.alignment"), "is 48, and not a power"),
    "alignment_negative": (metadata(I32, b"\0\0\0\x80", b"general.alignment"), "not a power of two"),
    "alignment_text": (metadata(TEXT, text(b"32"), b"general.alignment"), "is not an integer"),
    "alignment_texts": (
        metadata(ARRAY, array(TEXT, 1, text(b"32")), b"general.alignment"),
        "is not an integer",
    ),
    "alignment_float": (metadata(F32, u32(32), b"general.alignment"), "is not an integer"),
    "alignment_truth": (metadata(BOOL, b"\1", b"general.alignment"), "is not an integer"),
    "alignment_over_the_end": (
        file(pair(b"general.alignment", U64, u64(2**63)), tensor(), pairs=1, tensors=1),
        "lies at bytes 9223372036854775808 to 9223372036854775824, but the file",
    ),
    "split_text": (metadata(TEXT, text(b"2"), b"split.count"), "'split.count' is not an integer"),
    "split_without_end": (metadata(U64, u64(2**64 - 1), b"split.count"), "its name does not say so"),
    "name_too_long": (tensors(tensor(b"x" * 65)), "a name of 65 bytes, where 64 are allowed"),
    "name_with_nul": (tensors(tensor(b"x\0")), "a name with a NUL"),
    "name_not_unicode": (tensors(tensor(b"\xc3")), "a name that is not UTF-8"),
    "name_that_a_terminal_obeys": (
        tensors(tensor("\x1b[2J\n\u202e".encode(), dims=(1,) * 5)),
        r"tensor '\\x1b\[2J\\n\\u202e' has 5 axes",
    ),
    "key_that_a_terminal_obeys": (metadata(13, b"", b"\x1b[2J\r"), r"'\\x1b\[2J\\r' is of a type 13"),
    "name_twice": (tensors(tensor(), tensor(offset=32), data=64), "tensor 'x' is there twice"),
    "axes_too_many": (tensors(tensor(dims=(1,) * 5)), "tensor 'x' has 5 axes"),
    "axes_without_end": (
        tensors(text(b"x") + u32(2**32 - 1)),
        "tensor 'x' has 4294967295 axes, where 4 are allowed",
    ),
    "dims_negative": (tensors(tensor(dims=(2**64 - 4,))), "more numbers than fit anywhere"),
    "dims_over_2_to_63": (tensors(tensor(dims=(2**32, 2**32))), "more numbers than fit anywhere"),
    "dims_that_wrap_to_few": (tensors(tensor(dims=(2**63, 2))), "more numbers than fit anywhere"),
    "dims_of_nothing": (tensors(tensor(dims=(0, 2**62, 2**62))), "more numbers than fit anywhere"),
    "bytes_that_wrap": (tensors(tensor(dims=(2**62,))), "more numbers than fit anywhere"),
    "unknown_type_that_wraps": (tensors(tensor(dims=(2**63, 2), kind=99)), "more numbers than fit"),
    "blocks_not_whole": (tensors(tensor(dims=(33,), kind=8)), "'x' is damaged: q8_0 .* blocks of 32"),
    "blocks_not_whole_rows": (tensors(tensor(dims=(16, 2), kind=8)), "rows of whole blocks of 32"),
    "blocks_without_axis": (tensors(tensor(dims=(), kind=8)), "rows of whole blocks of 32"),
    "offset_not_aligned": (tensors(tensor(offset=4), data=64), "lies at byte 4, and not at a mult"),
    "offset_behind_the_end": (tensors(tensor(offset=1 << 20)), r"lies at bytes \d+ to \d+, but"),
    "offset_without_end": (tensors(tensor(offset=2**64 - 32)), "lies at bytes"),
    "offset_of_an_unknown_type": (tensors(tensor(kind=99, offset=2**64 - 32)), "lies at bytes"),
    "offset_of_nothing": (tensors(tensor(dims=(0,), offset=64)), "lies at bytes"),
    "one_number_too_many": (tensors(tensor(dims=(5,))), "lies at bytes 64 to 84, but the file has 80"),
    "overlap": (
        tensors(tensor(b"x", (9,)), tensor(b"y", (4,), offset=32), data=96),
        "tensor 'y' overlaps the one before",
    ),
    "overlap_of_the_same": (tensors(tensor(b"x"), tensor(b"y")), "tensor 'y' overlaps"),
    "overlap_of_an_unknown_type": (
        tensors(tensor(b"x", (9,)), tensor(b"y", kind=99, offset=32), data=96),
        "tensor 'y' overlaps",
    ),
}  # fmt: skip


def use(opened):
    """Ask a file for all that it has; returns what it refuses, each in one line."""
    refusals = []
    for part in (opened.metadata, opened):
        for name in part:
            try:
                np.asarray(part[name], object).tolist()  # touches every byte
            except FileError as error:
                refusals.append(str(error))
    assert all(len(opened.shape(name)) <= 4 and opened.formats[name] for name in opened)
    assert not [line for line in refusals if "\n" in line]
    return refusals


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once_in_one_line(tmp_path, name):
    content, said = HOSTILE[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(FileError, match=said) as caught:
        open_within_bounds(path, open_gguf)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable(), "one line, and nothing that a terminal obeys"
    assert len(str(caught.value)) < len(str(path)) + 250


def test_the_builder_of_these_files_builds_good_ones_too(tmp_path):
    entries = [tensor(b"x", (2, 1)), tensor(b"q", (32,), 8, 32), tensor(b"s", (), 0, 96)]
    pairs = [pair(b"k", ARRAY, nested(MAX_DEPTH - 1)), pair(b"t", TEXT, text(b"abc"))]
    (tmp_path / "a").write_bytes(file(*pairs, *entries, pairs=2, tensors=3, data=100))
    opened = open_gguf(tmp_path / "a")
    assert {name: opened.shape(name) for name in opened} == {"x": (1, 2), "q": (32,), "s": ()}
    assert opened.metadata["t"] == "abc"
    assert not use(opened)


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        (BOOL, b"\2", "'k' is damaged: it should be true or false"),
        (ARRAY, array(BOOL, 3, b"\0\1\3"), "'k' is damaged: it should be true or false"),
        (TEXT, text(b"\xff"), "'k' is damaged: a text in it is not UTF-8"),
        (
            ARRAY,
            array(TEXT, 2, text(b"a") + text(b"\xe4\xb8")),
            "'k' is damaged: a text in it is not UTF-8",
        ),
        (TEXT, text(b"\xed\xa0\x80"), "'k' is damaged: a text in it is not UTF-8"),
    ],
)
def test_what_a_value_says_is_refused_when_it_is_asked_for(tmp_path, kind, content, said):
    (tmp_path / "a.gguf").write_bytes(
        file(pair(b"k", kind, content), pair(b"t", U8, b"\7"), pairs=2)
    )
    opened = open_gguf(tmp_path / "a.gguf")
    with pytest.raises(FileError, match=rf"a\.gguf: metadata {said}"):
        opened.metadata["k"]
    assert opened.metadata["t"] == 7


@pytest.mark.parametrize(
    "content",
    [
        lambda: metadata(ARRAY, array(ARRAY, MAX_VALUES - 2, array(U8, 0) * (MAX_VALUES - 2))),
        lambda: file(*(pair(b"%d" % i, U8, b"\0") for i in range(MAX_VALUES)), pairs=MAX_VALUES),
        lambda: tensors(
            *(tensor(b"%064d" % i, (8, 1, 1, 1), 0, 32 * i) for i in range(MAX_TENSORS)),
            data=32 * MAX_TENSORS,
        ),
    ],
    ids=["arrays", "keys", "tensors"],
)
def test_a_file_at_the_limits_opens_within_the_bounds(tmp_path, content):
    (tmp_path / "a").write_bytes(content())
    opened = open_within_bounds(tmp_path / "a", open_gguf)
    assert len(opened.metadata) + len(opened) in (1, MAX_VALUES, MAX_TENSORS)


@pytest.mark.parametrize("kind", [TEXT, ARRAY])
def test_a_value_larger_than_memory_is_refused_at_once(tmp_path, kind):
    content = u64(1 << 38) if kind == TEXT else array(U8, 1 << 38)
    (tmp_path / "a").write_bytes(file(pair(b"k", kind, content), pairs=1, data=0))
    os.truncate(tmp_path / "a", 1 << 39)  # all of it a hole
    with pytest.raises(FileError, match="metadata 'k' ends behind byte 134217728"):
        open_within_bounds(tmp_path / "a", open_gguf)


def test_as_many_texts_as_there_may_be_are_passed_over_at_once(tmp_path):
    texts = array(TEXT, MAX_TEXTS, text(b"ab") * MAX_TEXTS)
    (tmp_path / "a").write_bytes(metadata(ARRAY, texts))
    assert any(seconds_of(tmp_path / "a", open_gguf) < SECONDS for _ in range(TRIES))
    opened = open_gguf(tmp_path / "a")
    assert opened.metadata["k"] == ["ab"] * MAX_TEXTS


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    for path in (tmp_path, tmp_path / "pipe.gguf", "/dev/zero", "/dev/null"):
        with pytest.raises(FileError, match="is not a file; name a GGUF file"):
            open_gguf(path)
    for path in (tmp_path / "none.gguf", tmp_path / "loop.gguf"):
        with pytest.raises(FileError, match="cannot be read: .*; check the path"):
            open_gguf(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small file with something of everything."""
    path = tmp_path_factory.mktemp("good") / "a.gguf"
    values = {
        "general.alignment": 32,
        "text": "abc",
        "yes": True,
        "texts": ["a", "bc", ""],
        "numbers": np.arange(3),
        "nested": (["x"], np.ones(2, np.float32)),
    }
    tensors = {"w": np.ones((2, 3), np.float32), "q": np.zeros(2, "V34"), "i": np.arange(5)}
    save_gguf(path, tensors, formats={"q": "q8_0"}, metadata=values)
    return path


def test_a_file_cut_short_at_any_byte_is_refused(good):
    whole = good.read_bytes()
    end = len(whole) - 24  # what follows the last tensor fills up its alignment
    for size in range(end):
        cut = good.with_name("cut")
        cut.write_bytes(whole[:size])
        with pytest.raises(FileError):
            open_gguf(cut)
    use(open_gguf(good))


def test_a_tensor_is_refused_after_the_file_has_become_shorter(tmp_path, good):
    path = tmp_path / "a"
    path.write_bytes(good.read_bytes())
    opened = open_gguf(path)
    os.truncate(path, 100)
    for name in opened:
        with pytest.raises(FileError, match=f"tensor '{name}' is gone: the file is shorter"):
            opened[name]
    assert opened.metadata["texts"] == ["a", "bc", ""]
    assert opened.metadata["nested"][1].tolist() == [1, 1]


def test_a_tensor_is_refused_after_the_file_was_written_to(tmp_path, good):
    path = tmp_path / "a"
    path.write_bytes(good.read_bytes())
    opened, before = open_gguf(path), path.stat().st_mtime_ns
    os.utime(path, ns=(before + 1, before + 1))
    with pytest.raises(FileError, match="tensor 'w' is not sure: the file has changed"):
        opened["w"]


EXTREMES = [0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**61, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]


@st.composite
def damage(draw, whole):
    """The file with some bytes, numbers and parts of it changed, moved, doubled or cut out."""
    blob = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(blob) - 1, 0)))
        to = draw(st.integers(at, min(at + 40, len(blob))))
        size = draw(st.sampled_from([4, 8]))
        number = draw(st.sampled_from(EXTREMES)) % 2 ** (8 * size)
        match draw(st.sampled_from(["byte", "number", "cut", "double", "move", "end"])):
            case "byte":
                blob[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "number":
                blob[at : at + size] = number.to_bytes(size, "little")
            case "cut":
                del blob[at:to]
            case "double":
                blob[at:at] = blob[at:to]
            case "move":
                piece = blob[at:to]
                del blob[at:to]
                target = draw(st.integers(0, len(blob)))
                blob[target:target] = piece
            case "end":
                del blob[at:]
    return bytes(blob)


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_damage_is_a_file_error_or_a_file_that_works(good, data):
    damaged = good.with_name("damaged")
    damaged.write_bytes(data.draw(damage(good.read_bytes())))
    with suppress(FileError):
        use(open_within_bounds(damaged, open_gguf))
