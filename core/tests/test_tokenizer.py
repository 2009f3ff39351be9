"""Tokenizers: round trips, control tokens, streaming, files."""

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from lcm.errors import DataError, FileError, UsageError
from lcm.text.tokenizer import END, SPECIAL, Tokenizer

TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "class Point:\n\tdef __init__(self):\n\t\tself.x = 12345\n",
    "# größer, 漢字, 😀\nprint('größer 漢字 漢字 😀')\r\n",
] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocabulary=300)


@pytest.fixture(scope="module")
def library(tokenizer, tmp_path_factory):
    """The same tokenizer as its library alone sees it."""
    path = tmp_path_factory.mktemp("library") / "tokenizer.json"
    tokenizer.save(path)
    return tokenizers.Tokenizer.from_file(str(path))


@given(st.text())
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.sampled_from("ab_ \t\n\r(:é漢😀1'<|>")))
def test_any_code_like_text_round_trips_in_tokens_of_its_length(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths()[ids].sum() == len(text.encode())
    assert tokenizer.encode_batch([text, ""]) == [ids, []]


IDS = st.lists(st.integers(0, 299))


@given(IDS, st.booleans())
def test_any_ids_decode_as_the_library_decodes_them(tokenizer, library, ids, special):
    expected = library.decode(ids, skip_special_tokens=not special)
    assert tokenizer.decode(ids, special) == expected


@given(IDS, IDS, st.booleans())
def test_streamed_text_adds_up_to_the_decoded(tokenizer, before, ids, special):
    stream = tokenizer.stream(special=special)
    assert "".join([stream.push(i) for i in ids] + [stream.flush()]) == tokenizer.decode(
        ids, special
    )
    stream = tokenizer.stream(after=before, special=special)
    parts = [stream.push(i) for i in ids] + [stream.flush()]
    assert tokenizer.decode(before + ids, special).endswith("".join(parts))


def test_a_stream_gives_a_character_out_when_it_is_whole(tokenizer):
    ids = [tokenizer.id_of(c) for c in "ðŁĺĢ"]  # the four bytes of U+1F600 in GPT-2's table
    stream = tokenizer.stream()
    assert [stream.push(i) for i in ids] == ["", "", "", "😀"]
    assert stream.push(ids[0]) == ""
    assert stream.push(tokenizer.id_of("a")) == "\ufffda"
    assert stream.push(ids[0]) == ""
    assert stream.flush() == "\ufffd"


def test_control_tokens_in_a_text_are_text_unless_asked_for(tokenizer):
    text = f"x = '{END}'<|fim_middle|>"
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode(ids) == text
    parsed = tokenizer.encode(text, special=True)
    assert [i for i in parsed if i in tokenizer.special.values()] == [
        tokenizer.end,
        tokenizer.id_of("<|fim_middle|>"),
    ]
    assert tokenizer.decode(parsed) == "x = ''"
    assert tokenizer.decode(parsed, special=True) == text
    assert tuple(tokenizer.special) == SPECIAL
    assert (tokenizer.byte_lengths()[list(tokenizer.special.values())] == 0).all()


def test_training_twice_gives_the_same_tokenizer(tokenizer):
    again = Tokenizer.train(iter(TEXTS), vocabulary=300)
    assert again.fingerprint() == tokenizer.fingerprint()
    other = Tokenizer.train(TEXTS, vocabulary=301)
    assert other.fingerprint() != tokenizer.fingerprint()


def test_indentation_is_one_token_and_the_word_after_it_keeps_its_blank():
    tokenizer = Tokenizer.train(["if x:\n        return y\n" * 9], vocabulary=300)
    pieces = [tokenizer.bytes_of(i) for i in tokenizer.encode("if x:\n        return y\n")]
    assert pieces == [b"if", b" x", b":\n       ", b" return", b" y", b"\n"]


def test_numbers_split_into_at_most_three_digits():
    tokenizer = Tokenizer.train(["1234567 " * 99], vocabulary=300)
    pieces = [tokenizer.bytes_of(i) for i in tokenizer.encode("1234567")]
    assert pieces == [b"123", b"456", b"7"]


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "one.json")
    tokenizer.save(tmp_path / "model")
    for path in (tmp_path / "one.json", tmp_path / "model", tmp_path / "model/tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint() == tokenizer.fingerprint()
        assert loaded.encode(TEXTS[2]) == tokenizer.encode(TEXTS[2])
        assert loaded.end == tokenizer.end
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "model/tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"model": 3}', "\0", '{"added_tokens": [{}]}']
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(FileError, match=r"tokenizer\.json: is no usable tokenizer") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_every_cut_of_a_file_is_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_bytes()
    for length in range(0, len(whole) - 1, 997):
        (tmp_path / "tokenizer.json").write_bytes(whole[:length])
        with pytest.raises(FileError):
            Tokenizer.load(tmp_path)


def test_mistakes_are_named(tokenizer, tmp_path):
    with pytest.raises(FileError, match="name a model folder"):
        Tokenizer.load(tmp_path / "none")
    with pytest.raises(UsageError, match="no token '<nope>'"):
        tokenizer.id_of("<nope>")
    assert "<nope>" not in tokenizer
    with pytest.raises(UsageError, match="need 261"):
        Tokenizer.train([], vocabulary=260)
    with pytest.raises(DataError, match="character 1"):
        tokenizer.encode("a\ud800")


def from_facts(tokenizer, tmp_path, changes, config=None):
    tokenizer.save(tmp_path / "tokenizer.json")
    facts = json.loads((tmp_path / "tokenizer.json").read_text()) | changes
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return Tokenizer.load(tmp_path)


def test_a_models_settings_for_its_own_training_are_not_ours(tokenizer, tmp_path):
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    found = from_facts(tokenizer, tmp_path, {"truncation": truncation})
    assert found.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


@pytest.mark.parametrize("name", ["<｜fim▁hole｜>", "▁<SUF>"])
def test_a_fill_in_token_that_is_marked_as_ordinary_is_still_control(tokenizer, tmp_path, name):
    token = {"id": 300, "content": name, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": False}  # fmt: skip
    blanks = {**token, "id": 301, "content": "      "}
    found = from_facts(tokenizer, tmp_path, {"added_tokens": [token, blanks]})
    assert 300 not in found.encode(f"a{name}      b")
    assert found.decode(found.encode(f"a{name}      b")) == f"a{name}      b"
    assert 301 in found.encode(f"a{name}      b")
    assert 300 in found.encode(f"a{name}b", special=True)
    assert found.byte_lengths()[301] == 6


def test_the_models_configuration_names_its_end_and_its_start(tokenizer, tmp_path):
    assert tokenizer.start is None
    processor = {"type": "TemplateProcessing", "pair": [],
                 "single": [{"SpecialToken": {"id": "<|fim_pad|>", "type_id": 0}},
                            {"Sequence": {"id": "A", "type_id": 0}}],
                 "special_tokens": {"<|fim_pad|>": {"id": "<|fim_pad|>", "ids": [4],
                                                    "tokens": ["<|fim_pad|>"]}}}  # fmt: skip
    for said in ("<|fim_suffix|>", {"content": "<|fim_suffix|>"}):
        changed = {"post_processor": processor}
        found = from_facts(tokenizer, tmp_path, changed, {"eos_token": said})
        assert found.end == found.id_of("<|fim_suffix|>")
        assert found.start == 4
        assert found.encode("x") == tokenizer.encode("x")
        found.save(tmp_path / "copy")
        assert Tokenizer.load(tmp_path / "copy").end == found.end


def sentence_piece(tmp_path):
    """A tokenizer as Llama 2 has it: blanks as ▁, one before each text, unknown bytes as <0xNN>."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abxy"]
    facts = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": names[i], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {name: i for i, name in enumerate(names)}, "merges": []},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
    return Tokenizer.load(tmp_path)


def test_a_sentence_piece_tokenizer_decodes_and_streams_as_its_library_does(tmp_path):
    tokenizer = sentence_piece(tmp_path)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("a b", "  a\n\tb", "aéb漢😀", ""):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == library.decode(ids) == text
        stream = tokenizer.stream()
        assert "".join([stream.push(i) for i in ids] + [stream.flush()]) == text
    assert tokenizer.end == 2


def test_a_stream_after_a_prompt_keeps_the_blank_that_a_text_would_lose(tmp_path):
    tokenizer = sentence_piece(tmp_path)
    stream = tokenizer.stream(after=tokenizer.encode("a"))
    assert [stream.push(i) for i in tokenizer.encode("x")] == [" ", "x"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "split": False}},
        {"normalizer": {"type": "Prepend", "prepend": "▁"},
         "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
             {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}]}},
    ],
    ids=["prepend", "metaspace", "both"],
)  # fmt: skip
def test_a_text_that_goes_on_after_another_gets_no_blank(tmp_path, changes):
    """There are no merges, so a text's ids are those of its characters."""
    sentence_piece(tmp_path)
    facts = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer = Tokenizer(facts | changes)
    for text in ("a b", " a", "\n  x", ""):
        whole = tokenizer.encode("x" + text)
        assert tokenizer.decode(whole[:2]) == "x"
        assert tokenizer.encode_after(text) == whole[2:]


def test_bytes_get_no_blank_either_where_a_text_goes_on(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    facts = json.loads((tmp_path / "tokenizer.json").read_text())
    step = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    with_blank, without = (
        Tokenizer(facts | {"pre_tokenizer": step | {"add_prefix_space": blank}})
        for blank in (True, False)
    )
    assert with_blank.encode("return x") == without.encode(" return x")
    assert with_blank.encode_after("return x") == without.encode("return x")


def test_a_text_that_goes_on_is_the_same_where_no_text_gets_a_blank(tokenizer):
    assert tokenizer.encode_after(" x <|endoftext|>") == tokenizer.encode(" x <|endoftext|>")


def test_any_other_kind_is_decoded_by_its_library(tmp_path):
    library = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {"[UNK]": 0, "un": 1, "##like": 2, "##ly": 3}, unk_token="[UNK]"
        )
    )
    library.decoder = tokenizers.decoders.WordPiece()
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    ids = tokenizer.encode("unlikely")
    assert ids == [1, 2, 3]
    stream = tokenizer.stream()
    assert [stream.push(i) for i in ids] == ["un", "like", "ly"]
    assert stream.flush() == ""
    assert tokenizer.decode(ids) == "unlikely"


def test_byte_lengths_are_one_integer_a_token(tokenizer):
    lengths = tokenizer.byte_lengths()
    assert lengths.dtype == np.int64
    assert lengths.shape == (tokenizer.vocabulary,)
