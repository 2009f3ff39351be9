"""SentencePiece tokenizers of GGUF files against SentencePiece's definition, and the way back."""

import functools
import itertools
import json
import random
import re
import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lcm.errors import LcmWarning, UsageError
from lcm.text.gguf import facts_of
from lcm.text.scores import merges_of
from lcm.text.tokenizer import Tokenizer

TEXTS = json.loads(Path(__file__).with_name("tokenizer_texts.json").read_text())
WORDS = [text for text in (*TEXTS["edges"], *TEXTS["code"]) if len(text) <= 120]
CONTROL = ["<unk>", "<s>", "</s>"]
ROWS = ("tokens", "scores", "token_type")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


CHARACTERS = sorted(set("▁".join(WORDS[::2])) - set(" \n\t"))


@functools.cache
def pieces(seed, count=500):
    """Pieces from the best on: pairs that are joined again and again, as BPE finds them."""
    generator = random.Random(seed)
    known = f"[^{re.escape(''.join(CHARACTERS))}]"
    words = [list(w) for text in WORDS for w in re.split(known, f"▁{text}".replace(" ", "▁"))]
    words = [word for word in words if len(word) > 1]
    found = {}
    while len(found) < count:
        word = generator.choice(words)
        place = generator.randrange(len(word) - 1)
        left, right = word[place : place + 2]
        if left + right not in (*CONTROL, *BYTES):
            found[left + right] = None
            words = [joined(word, left, right) if left in word else word for word in words]
            words = [word for word in words if len(word) > 1]
    return list(found)


def joined(word, left, right):
    out = []
    for piece in word:
        if out and out[-1] == left and piece == right:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def metadata(seed=1, blank_first=True, **changes):
    """As llama.cpp's converter writes a SentencePiece model: control tokens, bytes, words, characters."""
    words = pieces(seed) + CHARACTERS
    tokens = [*CONTROL, *BYTES, *words]
    types = [2, 3, 3] + [6] * 256 + [1] * len(words)
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(words))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": blank_first,
    } | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}


class SentencePiece:
    """The definition: join the neighbours that make the best piece, the leftmost first; then bytes."""

    def __init__(self, metadata):
        tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
        self.types = metadata["tokenizer.ggml.token_type"].tolist()
        self.blank_first = metadata["tokenizer.ggml.add_space_prefix"]
        self.ids = {token: id for id, token in enumerate(tokens)}
        self.scores = {
            t: s for t, s, kind in zip(tokens, scores, self.types, strict=True) if kind == 1
        }

    def encode(self, text):
        parts = list((("▁" if text and self.blank_first else "") + text).replace(" ", "▁"))
        while True:
            pairs = [
                (self.scores.get(a + b, -np.inf), -i)
                for i, (a, b) in enumerate(itertools.pairwise(parts))
            ]
            score, place = max(pairs, default=(-np.inf, 0))
            if score == -np.inf:
                return [id for part in parts for id in self.of(part)]
            parts[-place : -place + 2] = ["".join(parts[-place : -place + 2])]

    def of(self, part):
        if part in self.scores:
            return [self.ids[part]]
        return [self.ids[f"<0x{byte:02X}>"] for byte in part.encode("utf-8")]


@pytest.fixture(scope="module", params=[True, False], ids=["blank first", "as it is"])
def both(request):
    facts = metadata(blank_first=request.param)
    return Tokenizer.from_gguf(facts), SentencePiece(facts)


def test_every_text_gets_the_ids_of_the_definition_and_comes_back(both):
    found, definition = both
    for text in WORDS:
        ids = definition.encode(text)
        assert found.encode(text) == ids, text
        assert found.decode(ids) == text.replace("▁", " ")


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(max_size=60)
    | st.text(st.sampled_from("  ▁\n\tdefretuns(x)_:<s>é漢😀"), max_size=60)
)
def test_any_text_gets_the_ids_of_the_definition(both, text):
    found, definition = both
    assert found.encode(text) == definition.encode(text)


@pytest.mark.parametrize("seed", range(2, 5))
def test_any_vocabulary_is_read_as_it_is_defined(seed):
    facts = metadata(seed)
    found, definition = Tokenizer.from_gguf(facts), SentencePiece(facts)
    for text in WORDS[seed::7]:
        assert found.encode(text) == definition.encode(text), text


def test_a_text_begins_and_ends_as_the_file_says():
    found = Tokenizer.from_gguf(metadata())
    assert (found.start, found.end) == (1, 2)
    assert Tokenizer.from_gguf(metadata(add_bos_token=False)).start is None
    library = tokenizers.Tokenizer.from_str(json.dumps(facts_of(metadata(add_eos_token=True))))
    ids = library.encode("x").ids
    assert (ids[0], ids[-1]) == (1, 2)
    old = metadata()
    for key in (
        "bos_token_id",
        "eos_token_id",
        "unknown_token_id",
        "add_bos_token",
        "add_space_prefix",
    ):
        del old[f"tokenizer.ggml.{key}"]
    assert facts_of(old) == facts_of(metadata())


def test_a_file_without_types_knows_its_bytes_and_its_control_tokens_by_their_names():
    old = metadata()
    del old["tokenizer.ggml.token_type"]
    found = Tokenizer.from_gguf(old)
    for text in WORDS:
        assert found.encode(text) == SentencePiece(metadata()).encode(text)
    assert set(found.special) == set(CONTROL)


def test_control_tokens_in_a_text_stay_text_unless_asked_for():
    facts = metadata()
    tokens = facts["tokenizer.ggml.tokens"]
    more = [token for token in ("</", "s>", "<", "s", ">", "/") if token not in tokens]
    facts["tokenizer.ggml.tokens"] = [*tokens, *more]
    facts["tokenizer.ggml.scores"] = np.append(facts["tokenizer.ggml.scores"], [0.0] * len(more))
    facts["tokenizer.ggml.token_type"] = np.append(
        facts["tokenizer.ggml.token_type"], [1] * len(more)
    )
    found = Tokenizer.from_gguf(facts)  # `</` and `s>` would make `</s>`
    assert 2 not in found.encode("x</s>")
    assert found.encode("x</s>", special=True)[-1] == 2


def gemma():
    """User-defined pieces as llama.cpp's converter writes Gemma's: blanks for `▁`, -1000 for 0."""
    facts = metadata(blank_first=False)
    runs = ["\n", "\n\n", "\n\n\n", "\t\t", *(" " * count for count in range(2, 9))]
    rows = [
        row for row in zip(*(facts[f"tokenizer.ggml.{key}"] for key in ROWS), strict=True)
        if "▁▁" not in row[0]
    ]  # fmt: skip
    rows[259:259] = [(run, -1000.0, 4) for run in runs]
    tokens, scores, types = zip(*rows, strict=True)
    facts["tokenizer.ggml.tokens"] = list(tokens)
    facts["tokenizer.ggml.scores"] = np.array(scores, np.float32)
    facts["tokenizer.ggml.token_type"] = np.array(types, np.int32)
    return facts


def test_user_defined_runs_of_blanks_and_line_ends_are_found_first():
    facts = gemma()
    tokens = facts["tokenizer.ggml.tokens"]
    found = Tokenizer.from_gguf(facts)
    word = next(
        token for token in tokens if len(token) == 2 and token[0] == "▁" and token[1].isalpha()
    )
    for text, names in [
        (f"x   {word[1]}", ["x", "   ", word[1]]),
        ("\n\nx", ["\n\n", "x"]),
        ("x\n\n\n\n\t\t", ["x", "\n\n\n", "\n", "\t\t"]),
        ("x   y", ["x", "   ", "y"]),
        ("x        y", ["x", " " * 8, "y"]),
        (" " * 21, [" " * 8, " " * 8, " " * 5]),
    ]:
        ids = found.encode(text)
        assert [tokens[id] for id in ids] == names
        assert found.decode(ids) == text
    assert (
        found.decode(found.encode("def f():\n    return  1\n\n\n"))
        == "def f():\n    return  1\n\n\n"
    )


def test_runs_of_blanks_of_equal_scores_are_cut_as_llama_2_cuts_them():
    """Llama 2's ids of 2 to 16 blanks; they share the lowest score of all."""
    ids = (259, 1678, 268, 418, 539, 4706, 308, 3986, 965, 9651, 632, 795, 1669, 18884, 462)
    pieces = {"▁" * (2 + i): id for i, id in enumerate(ids)} | {"▁": 29871}
    merges = merges_of(dict.fromkeys(sorted(pieces, key=pieces.get), -1e9))
    model = tokenizers.models.BPE(pieces, merges)
    for count in range(1, 100):
        whole, rest = divmod(count, 16)
        lengths = [len(token.value) for token in model.tokenize("▁" * count)]
        assert lengths == [16] * whole + [rest] * bool(rest)


def test_a_user_defined_run_of_blanks_keeps_its_name_where_another_token_has_it():
    facts = metadata(blank_first=False)
    known = facts["tokenizer.ggml.tokens"]
    assert "▁▁" in known
    facts["tokenizer.ggml.tokens"] = [*known, "  "]
    for key, value in (("scores", -1000.0), ("token_type", 4)):
        facts[f"tokenizer.ggml.{key}"] = np.append(facts[f"tokenizer.ggml.{key}"], [value])
    found = Tokenizer.from_gguf(facts)
    assert found.encode("  ") == [len(known)]
    assert found.encode("▁▁") == [known.index("▁▁")]


def test_a_file_with_merges_of_its_own_is_read_by_them():
    facts = gemma()
    by_score = Tokenizer.from_gguf(facts)
    merges = facts_of(facts)["model"]["merges"]
    listed = facts | {"tokenizer.ggml.model": "gemma4",
                      "tokenizer.ggml.merges": [" ".join(merge) for merge in merges]}  # fmt: skip
    found = Tokenizer.from_gguf(listed)
    assert found.encode_batch(WORDS) == by_score.encode_batch(WORDS)
    backwards = listed | {"tokenizer.ggml.merges": listed["tokenizer.ggml.merges"][::-1]}
    assert Tokenizer.from_gguf(backwards).encode_batch(WORDS) != by_score.encode_batch(WORDS)


@pytest.mark.parametrize("facts", [metadata(), metadata(blank_first=False), gemma()])
def test_what_we_write_gives_the_same_ids_when_it_is_read(facts):
    own = Tokenizer.from_gguf(facts)
    written = own.gguf_metadata()
    assert written["tokenizer.ggml.tokens"] == facts["tokenizer.ggml.tokens"]
    np.testing.assert_array_equal(
        written["tokenizer.ggml.token_type"], facts["tokenizer.ggml.token_type"]
    )
    found = Tokenizer.from_gguf(written)
    assert found.encode_batch(WORDS) == own.encode_batch(WORDS)
    assert (found.start, found.end) == (own.start, own.end)


def test_llama_2s_own_file_is_written_as_it_is_and_mistrals_with_a_warning():
    facts = facts_of(metadata())
    prepend, replace = facts["normalizer"]["normalizers"]
    assert (prepend, replace["content"]) == ({"type": "Prepend", "prepend": "▁"}, "▁")
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    mistral = Tokenizer(facts | {"normalizer": None, "pre_tokenizer": metaspace})
    with pytest.warns(LcmWarning, match="puts a blank before every text"):
        written = mistral.gguf_metadata()
    found = Tokenizer.from_gguf(written)
    texts = [text for text in WORDS if not text.startswith((" ", "▁"))]
    assert found.encode_batch(texts) == mistral.encode_batch(texts)


def test_runs_of_blanks_with_merges_in_another_order_are_written_with_a_warning():
    facts = facts_of(gemma())
    merges = facts["model"]["merges"]
    runs = [merge for merge in merges if not "".join(merge).strip("▁")]
    others = [merge for merge in merges if merge not in runs]
    shortest_first = sorted(runs, key=lambda merge: len(merge[0] + merge[1]))
    assert len(runs) == 28 and runs != shortest_first
    changed = {**facts["model"], "merges": shortest_first + others}
    with pytest.warns(LcmWarning, match="a long run of blanks"):
        written = Tokenizer(facts | {"model": changed}).gguf_metadata()
    again = facts_of(written)["model"]["merges"]
    assert [merge for merge in again if merge in runs] == runs


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "split": True}}, "Metaspace"),
        ({"pre_tokenizer": {"type": "Digits", "individual_digits": True}}, "Replace, Digits"),
        ({"normalizer": {"type": "NFKC"}}, "NFKC"),
        ({"normalizer": None}, "none"),
        ({"model": {"ignore_merges": True}}, "words whole"),
        ({"model": {"fuse_unk": False}}, "unknown character alone"),
        ({"model": "backwards"}, "do not follow from scores"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(changes, said):
    facts = facts_of(metadata(blank_first=False))
    model = facts["model"]
    if changes.get("model") == "backwards":
        rare = {left + right for left, right in model["merges"][-40:]}
        changes = {"model": {"merges": [m for m in model["merges"] if m[0] + m[1] not in rare]}}
    facts = facts | changes | {"model": model | changes.get("model", {})}
    with pytest.raises(UsageError, match=said):
        Tokenizer(facts).gguf_metadata()


def test_a_vocabulary_of_llamas_size_is_read_in_a_second():
    generator = random.Random(3)
    words, letters = ["▁", *"abcdefghijklmnop"], "abcdefghijklmnop"
    known = set(words)
    while len(words) < 32000:
        word = generator.choice(words[-4000:]) + generator.choice(letters)
        if word not in known and len(word) < 17:
            known.add(word)
            words.append(word)
    tokens = [*CONTROL, *BYTES, *words]
    facts = metadata() | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": -np.arange(len(tokens), dtype=np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [1] * len(words), np.int32),
    }
    started = time.process_time()
    merges = facts_of(facts)["model"]["merges"]
    assert time.process_time() - started < 1
    assert len(merges) > 30000
