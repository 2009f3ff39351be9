"""Gaps of models with SentencePiece's tokenizers: the ids that Meta, Mistral and transformers give."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
from transformers import CodeLlamaTokenizer
from transformers.tokenization_utils_base import generate_merges

from lcm.text.gap import Gap, gap_ids
from lcm.text.tokenizer import Tokenizer

CODE = json.loads(Path(__file__).parent.with_name("tokenizer_texts.json").read_text())["code"]
CODE_LLAMA = ("▁<PRE>", "▁<SUF>", "▁<MID>")
CODESTRAL = ("[PREFIX]", "[SUFFIX]")
GAPS = [
    Gap("def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"),
    Gap("x", "y"),
    Gap(" x = [", " + 1]"),
    Gap("\tif a:\n        b", "    \n\n  c\n"),
    *(Gap(text[: len(text) // 3], text[len(text) // 2 :]) for text in CODE if len(text) > 9),
]


@pytest.fixture(scope="module")
def theirs():
    """A small BPE as Llama's was trained, which has ☺ as a token, as theirs have."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in CODE for line in text.split("\n") if "\0" not in line),
        model_writer=model, vocab_size=700, model_type="bpe", byte_fallback=True, required_chars="☺",
        remove_extra_whitespaces=False, normalization_rule_name="identity", minloglevel=2,
        allow_whitespace_only_pieces=True,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def vocabulary(model):
    return {model.id_to_piece(id): id for id in range(model.get_piece_size())}


def merges(model):
    pieces = vocabulary(model)
    return generate_merges(pieces, {piece: model.get_score(id) for piece, id in pieces.items()})


def ours(model, control):
    """The same as a tokenizer.json of Code Llama's kind, with a family's control tokens behind the rest."""
    count = model.get_piece_size()
    names = ["<unk>", "<s>", "</s>"]
    ids = dict(zip([*names, *control], [0, 1, 2, *range(count, count + len(control))], strict=True))
    added = [
        {"id": id, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True} for name, id in ids.items()]  # fmt: skip
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return Tokenizer({
        "version": "1.0", "added_tokens": added, "pre_tokenizer": None,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "post_processor": {"type": "TemplateProcessing", "single": [start, text], "pair": [start, text],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "vocab": vocabulary(model), "merges": [list(m) for m in merges(model)],
                  "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True},
    })  # fmt: skip


def without_blank(model, text):
    """As `encode_infilling` of Meta's and Mistral's code."""
    return model.encode("☺" + text)[2:]


@pytest.mark.parametrize("gap", GAPS)
def test_code_llama_is_asked_as_by_meta(theirs, gap):
    found = ours(theirs, CODE_LLAMA)
    prefix, suffix, middle = map(found.id_of, CODE_LLAMA)
    before, after = theirs.encode(gap.before), without_blank(theirs, gap.after)
    assert gap_ids(found, gap, 10**6) == [1, prefix, *before, suffix, *after, middle]
    suffix_first = [1, prefix, suffix, *after, middle, *before]
    assert gap_ids(found, replace(gap, order="spm"), 10**6) == suffix_first


@pytest.mark.parametrize("gap", GAPS)
def test_codestral_is_asked_as_by_mistral(theirs, gap):
    found = ours(theirs, CODESTRAL)
    prefix, suffix = map(found.id_of, CODESTRAL)
    before, after = theirs.encode(gap.before), without_blank(theirs, gap.after)
    assert gap_ids(found, gap, 10**6) == [1, suffix, *after, prefix, *before]


@pytest.mark.parametrize("order", ["psm", "spm"])
@pytest.mark.parametrize("gap", GAPS)
def test_code_llama_is_asked_as_by_transformers(theirs, gap, order):
    found = ours(theirs, CODE_LLAMA)
    library = CodeLlamaTokenizer(vocabulary(theirs), merges(theirs), add_prefix_space=False)
    control = {library.convert_tokens_to_ids(name): found.id_of(name) for name in CODE_LLAMA}
    expected = library(gap.before, suffix=gap.after, suffix_first=order == "spm").input_ids
    ids = gap_ids(found, replace(gap, order=order), 10**6)
    assert ids == [control.get(id, id) for id in expected]
