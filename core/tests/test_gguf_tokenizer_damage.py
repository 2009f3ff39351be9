"""What is wrong with the tokenizer in a GGUF file's metadata is said in one line, by its key."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcm.errors import FileError
from lcm.text.gguf import config_of
from lcm.text.pre_tokenizers import PRE_TOKENIZERS
from lcm.text.tokenizer import Tokenizer

BYTE_LEVEL = {
    "model": "gpt2",
    "pre": "qwen2",
    "tokens": ["a", "b", "ab", "Ġ", "Ġab", "<|endoftext|>", "[PAD6]", "[PAD7]"],
    "token_type": np.array([1, 1, 1, 1, 1, 3, 5, 5], np.int32),
    "merges": ["a b", "Ġ ab"],
    "eos_token_id": 5,
    "bos_token_id": 5,
    "add_bos_token": False,
}
SENTENCE_PIECE = {
    "model": "llama",
    "tokens": ["<unk>", "<s>", "</s>", "▁", "a", "▁a", "[PAD6]"],
    "scores": np.array([0, 0, 0, -2, -1, 0, -10000], np.float32),
    "token_type": np.array([2, 3, 3, 1, 1, 1, 5], np.int32),
}


def metadata(fields):
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items() if value is not ...}


def test_the_files_that_are_damaged_here_are_right():
    found = Tokenizer.from_gguf(metadata(BYTE_LEVEL))
    assert found.encode("ab ab") == [2, 4]
    assert (found.end, found.start, found.vocabulary) == (5, None, 6)
    found = Tokenizer.from_gguf(metadata(SENTENCE_PIECE))
    assert found.encode("a") == [5]
    assert (found.end, found.start, found.vocabulary) == (2, 1, 6)


@pytest.mark.parametrize(
    ("fields", "changes", "said"),
    [
        (BYTE_LEVEL, {"model": ...}, "holds no tokenizer"),
        (BYTE_LEVEL, {"model": 3}, "tokenizer.ggml.model is no text: 3"),
        (BYTE_LEVEL, {"model": "t5"}, "of the kind 't5' .* cannot be read here, only gpt2, llama"),
        (BYTE_LEVEL, {"model": "bert"}, "of the kind 'bert'"),
        (BYTE_LEVEL, {"model": "rwkv"}, "of the kind 'rwkv'"),
        (BYTE_LEVEL, {"tokens": ...}, "tokens is missing"),
        (BYTE_LEVEL, {"tokens": []}, "tokens is empty"),
        (BYTE_LEVEL, {"tokens": "ab"}, "tokens is no list of texts: 'ab'"),
        (BYTE_LEVEL, {"tokens": ["a", 1]}, r"tokens is no list of texts: \['a', 1\]"),
        (BYTE_LEVEL, {"tokens": ["a", "b", "a", *"cdefg"]}, "token 'a' is there twice, as 0 and 2"),
        (
            BYTE_LEVEL,
            {"tokens": ["a\ud800", *"bcdefgh"], "merges": []},
            "holds no usable tokenizer",
        ),
        (BYTE_LEVEL, {"token_type": [1, 1]}, "token_type has 2 numbers for 8 tokens"),
        (BYTE_LEVEL, {"token_type": 1}, "token_type is no list of numbers: 1"),
        (BYTE_LEVEL, {"token_type": [[1], [1, 2]]}, "token_type is no list of numbers"),
        (BYTE_LEVEL, {"token_type": [1.5] * 8}, "token_type is no list of numbers"),
        (BYTE_LEVEL, {"token_type": ["1"] * 8}, "token_type is no list of numbers"),
        (BYTE_LEVEL, {"token_type": np.ones((8, 2), int)}, "token_type is no list of numbers"),
        (BYTE_LEVEL, {"token_type": [1, 1, 1, 1, 1, 9, 5, 5]}, "has the type 9"),
        (BYTE_LEVEL, {"pre": 1}, "pre is no text: 1"),
        (BYTE_LEVEL, {"pre": "qwen9"}, "no pre-tokenizer 'qwen9' .*there are lcm, gpt-2,"),
        (BYTE_LEVEL, {"merges": ...}, "merges is missing"),
        (BYTE_LEVEL, {"merges": 7}, "merges is no list of texts"),
        (BYTE_LEVEL, {"merges": [["a", "b"]]}, "merges is no list of texts"),
        (BYTE_LEVEL, {"merges": ["a b", "ab"]}, "merge 'ab' does not name two tokens"),
        (BYTE_LEVEL, {"merges": ["a b c"]}, "merge 'a b c' does not name two tokens"),
        (BYTE_LEVEL, {"merges": ["a "]}, "merge 'a ' does not name two tokens"),
        (BYTE_LEVEL, {"merges": [" b"]}, "merge ' b' does not name two tokens"),
        (BYTE_LEVEL, {"merges": ["a x"]}, "merge 'a x' needs the token 'x', which is not there"),
        (BYTE_LEVEL, {"merges": ["b a"]}, "merge 'b a' needs the token 'ba', which is not there"),
        (BYTE_LEVEL, {"eos_token_id": 8}, "eos_token_id is 8, but there are 8 tokens"),
        (BYTE_LEVEL, {"eos_token_id": -2}, "eos_token_id is -2, but there are 8 tokens"),
        (BYTE_LEVEL, {"fim_pre_token_id": 99}, "fim_pre_token_id is 99, but there are 8"),
        (BYTE_LEVEL, {"eos_token_id": "5"}, "eos_token_id is no token id: '5'"),
        (BYTE_LEVEL, {"eos_token_id": True}, "eos_token_id is no token id: True"),
        (BYTE_LEVEL, {"bos_token_id": 5.0}, "bos_token_id is no token id: 5.0"),
        (BYTE_LEVEL, {"add_bos_token": 1}, "add_bos_token is neither true nor false: 1"),
        (BYTE_LEVEL, {"add_eos_token": "no"}, "add_eos_token is neither true nor false: 'no'"),
        (BYTE_LEVEL, {"add_bos_token": True, "bos_token_id": ...}, "bos_token_id is missing"),
        (SENTENCE_PIECE, {"scores": ...}, "scores is missing"),
        (SENTENCE_PIECE, {"scores": [0.0] * 6}, "scores has 6 numbers for 7 tokens"),
        (SENTENCE_PIECE, {"scores": [0.0] * 8}, "scores has 8 numbers for 7 tokens"),
        (SENTENCE_PIECE, {"scores": [0.0] * 6 + [float("nan")]}, "scores is no list of numbers"),
        (SENTENCE_PIECE, {"scores": ["0"] * 7}, "scores is no list of numbers"),
        (SENTENCE_PIECE, {"scores": 0.5}, "scores is no list of numbers: 0.5"),
        (SENTENCE_PIECE, {"add_space_prefix": 2}, "add_space_prefix is neither true nor false"),
        (SENTENCE_PIECE, {"model": "gemma4"}, "merges is missing"),
    ],
)
def test_damage_is_refused_in_one_line_that_names_it(fields, changes, said):
    with pytest.raises(FileError, match=said) as caught:
        Tokenizer.from_gguf(metadata(fields | changes))
    assert str(caught.value).startswith("GGUF metadata: ")
    assert "\n" not in str(caught.value)


def test_an_unknown_pre_tokenizer_is_refused_with_every_name_there_is():
    with pytest.raises(FileError) as caught:
        Tokenizer.from_gguf(metadata(BYTE_LEVEL | {"pre": "of tomorrow"}))
    assert all(name in str(caught.value) for name in PRE_TOKENIZERS)


@pytest.mark.parametrize("none", [-1, 2**32 - 1])
def test_a_role_that_no_token_has_is_none(none):
    assert "pad_token" not in config_of(metadata(BYTE_LEVEL | {"padding_token_id": none}))


def test_an_added_token_that_merges_make_is_a_word_too():
    types = [1, 1, 1, 1, 4, 3, 5, 5]
    found = Tokenizer.from_gguf(metadata(BYTE_LEVEL | {"token_type": types}))
    assert found.encode("b ab") == [1, 4]
    assert found.id_of("<|endoftext|>") == 5


def test_numpys_own_scalars_and_lists_will_do():
    fields = BYTE_LEVEL | {
        "tokens": tuple(BYTE_LEVEL["tokens"]),
        "token_type": BYTE_LEVEL["token_type"].tolist(),
        "eos_token_id": np.uint32(5),
        "add_bos_token": np.bool_(True),
    }
    found = Tokenizer.from_gguf(metadata(fields))
    assert found.encode("ab ab") == [2, 4]
    assert (found.end, found.start) == (5, 5)


def test_a_filler_that_a_key_names_is_no_token():
    found = Tokenizer.from_gguf(metadata(BYTE_LEVEL | {"padding_token_id": 7}))
    assert found.vocabulary == 6


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=5),
    st.lists(st.text("ab Ġ▁<>", max_size=3), max_size=8), st.lists(st.integers(-2, 9), max_size=8),
    st.lists(st.floats(), min_size=7, max_size=8).map(np.array), st.binary(max_size=4),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damage_is_a_file_error_or_a_tokenizer_that_works(data):
    fields = dict(data.draw(st.sampled_from([BYTE_LEVEL, SENTENCE_PIECE])))
    keys = st.sampled_from([*fields, "merges", "scores", "add_eos_token", "unknown_token_id"])
    for key in data.draw(st.lists(keys.filter(lambda key: key != "pre"), max_size=3)):
        fields[key] = data.draw(ANYTHING)
    try:
        found = Tokenizer.from_gguf(metadata(fields))
    except FileError:
        return
    found.decode(found.encode("ab <s>"))
    found.decode(range(12), special=True)
    assert found.start is None or found.start < found.vocabulary
