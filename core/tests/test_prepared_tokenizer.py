"""Tokenizers made sooner: of a GGUF file from what was kept of it, of a BPE without its words as JSON."""

import json
import os

import numpy as np
import pytest
import tokenizers

from lcm.errors import FileError
from lcm.files.gguf_writing import save_gguf
from lcm.text import prepared
from lcm.text.compact import compact, spelled_out
from lcm.text.library import library_of
from lcm.text.tokenizer import Tokenizer

CODE = ["def area(self, other):\n    return self.width * other\n", "für x in größe:\n\tprint('é')\n"] * 20
TEXTS = ["", "def area(x):\n\n\n    return x", "größe <|endoftext|> ok", "\t\t é\u3000ü\n 12345"]
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "ab", "▁ab"]
SENTENCE_PIECE = {
    "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": np.array([0] * 259 + [-5, -4, -3, -1, -2], np.float32),
    "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [1] * 5, np.int32),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenizers"


@pytest.fixture(scope="module")
def trained():
    return Tokenizer.train(CODE, vocabulary=320)


@pytest.fixture(params=["bytes", "sentence pieces"])
def metadata(request, trained):
    return trained.gguf_metadata() if request.param == "bytes" else SENTENCE_PIECE


def written(path, metadata):
    save_gguf(path, {}, metadata={"general.architecture": "llama", **metadata})
    return path


def ids(tokenizer):
    return [tokenizer.encode(text, special) for text in TEXTS for special in (True, False)]


def test_from_what_was_kept_it_is_the_same(tmp_path, metadata, monkeypatch):
    path = written(tmp_path / "model.gguf", metadata)
    first = Tokenizer.load(path)
    monkeypatch.setattr(prepared, "facts_of", None)  # not called
    second = Tokenizer.load(path)
    assert second.fingerprint() == first.fingerprint() == Tokenizer.from_gguf(metadata).fingerprint()
    assert ids(second) == ids(first)
    assert second.special == first.special and second.vocabulary == first.vocabulary
    assert json.dumps(second.gguf_metadata(), default=str) == json.dumps(first.gguf_metadata(), default=str)


@pytest.mark.parametrize("damage", [b"", b"\0" * 4096, b'[{"model": 1}', b"[1, 2, 3]", b"{}", b"[[], {}]"])
def test_what_is_damaged_is_made_again(tmp_path, metadata, cache, damage):
    path = written(tmp_path / "model.gguf", metadata)
    wanted = ids(Tokenizer.load(path))
    (kept,) = cache.iterdir()
    kept.write_bytes(damage)
    assert ids(Tokenizer.load(path)) == wanted
    assert len(kept.read_bytes()) > len(damage) or damage.startswith(b"\0")
    assert ids(Tokenizer.load(path)) == wanted


def test_a_changed_file_has_the_tokenizer_that_is_in_it_now(tmp_path, trained):
    path = written(tmp_path / "model.gguf", trained.gguf_metadata())
    Tokenizer.load(path)
    other = Tokenizer.train(CODE[:1] * 20, vocabulary=300)
    written(path, other.gguf_metadata())
    os.utime(path, (1, 1))
    assert Tokenizer.load(path).vocabulary == other.vocabulary != trained.vocabulary


def test_where_nothing_can_be_kept_it_is_read_each_time(tmp_path, trained, cache):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    path = written(tmp_path / "model.gguf", trained.gguf_metadata())
    assert ids(Tokenizer.load(path)) == ids(trained)


def test_what_is_no_file_is_refused_as_ever(tmp_path):
    with pytest.raises(FileError, match=r"none\.gguf: cannot be read: No such file"):
        Tokenizer.load(tmp_path / "none.gguf")


ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
WORD = {**ADDED, "id": 65, "content": "b", "special": False}
BLANKS = {**WORD, "id": 320, "content": "  ", "rstrip": True, "normalized": True}


@pytest.mark.parametrize("parse_control", [True, False])
@pytest.mark.parametrize("changes", [
    {},
    {"model": {"ignore_merges": True}},
    {"model": {"unk_token": "!", "fuse_unk": True, "byte_fallback": True}},
    {"added_tokens": [{"id": 400, "content": "<|x|>", **ADDED}, WORD]},
    {"added_tokens": [BLANKS]},
    {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}},
], ids=str)  # fmt: skip
def test_a_bpe_is_what_the_library_makes_of_the_whole_json(trained, changes, parse_control):
    facts = json.loads(json.dumps(spelled_out(trained._facts)))
    facts |= changes | {"model": facts["model"] | changes.get("model", {})}
    wanted = tokenizers.Tokenizer.from_str(json.dumps(facts | {"truncation": None}))
    wanted.encode_special_tokens = not parse_control
    found = library_of(facts, parse_control=parse_control)
    assert json.loads(found.to_str()) == json.loads(wanted.to_str())
    for text in TEXTS:
        assert found.encode(text).ids == wanted.encode(text).ids


MODEL = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}


@pytest.mark.parametrize(
    ("changes", "smaller"),
    [
        ({}, True),
        ({"merges": [("a", "b")]}, True),
        ({"merges": []}, True),
        ({"vocab": {"b": 1, "a": 0, "ab": 2}}, True),
        ({"vocab": {"a": 0, "b": 1, "ab": 3}}, False),
        ({"vocab": {"a": 0, "b": 1, "a\nb": 2}}, False),
        ({"vocab": {}, "merges": []}, False),
        ({"merges": ["a\tb"]}, False),
        ({"merges": [("a", "b\tb")]}, False),
        ({"merges": ["a b\n"]}, False),
        ({"vocab": [["a", -1.5]]}, False),
    ],
    ids=str,
)
def test_compact_facts_are_the_same_spelled_out(changes, smaller):
    facts = {"added_tokens": [], "model": MODEL | changes}
    found = compact(facts)
    assert (found != facts) == smaller and spelled_out(found) == facts


def test_a_saved_tokenizer_is_as_it_was_loaded(trained, tmp_path):
    for merges in (list, " ".join):
        facts = spelled_out(trained._facts)
        facts["model"]["merges"] = [merges(pair) for pair in facts["model"]["merges"]]
        (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
        Tokenizer.load(tmp_path).save(tmp_path / "again.json")
        assert json.loads((tmp_path / "again.json").read_text()) == json.loads(json.dumps(facts))
