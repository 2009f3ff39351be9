"""Tokenizers of GGUF files against the models' own tokenizer.json, and the way back.

Each family's file has the steps that its model ships (tokenizer_families.json), and a vocabulary of the
standard library's code and of text in many scripts. Expected are always the ids of that file.
"""

import functools
import json
import random
import sysconfig
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from lcm.errors import LcmWarning, UsageError
from lcm.text.gguf import facts_of
from lcm.text.pre_tokenizers import PRE_TOKENIZERS
from lcm.text.tokenizer import SPECIAL, Tokenizer

HERE = Path(__file__).parent
FAMILIES = json.loads((HERE / "tokenizer_families.json").read_text())
TEXTS = json.loads((HERE / "tokenizer_texts.json").read_text())
NAMES = [(name, model) for model, family in FAMILIES.items() for name in family["names"]]
GPT2, O200K = "openai-community/gpt2", "openai/gpt-oss-20b"
END = "<|endoftext|>"
WORD_LEVEL = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
# Ordinary ones, as `<think>` is in Qwen, runs of blanks in GPT-NeoX, and bytes in DeepSeek's coder.
ADDED = {"<|fim_prefix|>": True, "<think>": False, "      ": False, "\u00f5": False, "\t\t": False}
UNREACHABLE = ("Ġzyzzyva", "Ġqwerty", "superca", "HTTPS", "Äpfel", "2024", "Ġmain", "ABC")


@functools.cache
def library_lines(count=1500):
    """Lines of the standard library, always the same ones."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"))[::6]
    lines = [line for file in files for line in file.read_text("utf-8").splitlines(keepends=True)]
    return random.Random(5).sample(lines, count)


def scripts(count=400):
    """Characters of every script and category, in words and lines."""
    generator = random.Random(7)
    letters = [
        chr(c) for c in range(0x20, 0x30000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")
    ]
    some = [generator.choice(letters) for _ in range(900)] + list(" \t\n\r  '.0159aeZ_") * 12
    return ["".join(generator.choices(some, k=generator.randint(1, 24))) for _ in range(count)]


@functools.cache
def texts():
    return [*TEXTS["edges"], *TEXTS["code"], *library_lines(), *scripts()]


@functools.cache
def vocabulary():
    """Tokens and merges that know of no words: whatever cuts a text shows in its ids."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(TEXTS["code"] * 3 + TEXTS["edges"] + library_lines(), trainer)
    model = json.loads(library.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


@functools.cache
def tokenizer_json(model, unreachable=UNREACHABLE):
    """A tokenizer.json as `model` has it, but for the vocabulary.

    Tokens that no merge makes show whether words are looked up whole.
    """
    family = FAMILIES[model]
    tokens, merges = vocabulary()
    first = [family["begin"], END] if family["begin"] else [END]
    every = dict.fromkeys([*first, *tokens, *unreachable, *ADDED])
    ids = {token: id for id, token in enumerate(every)}
    words = {token: id for token, id in ids.items() if token in tokens or token not in ADDED}
    special = dict.fromkeys(first, True) | ADDED
    added = [
        {"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": special[token]} for token in ids if token in special
    ]  # fmt: skip
    template = {"type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": first[0], "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {first[0]: {"id": first[0], "ids": [0], "tokens": [first[0]]}}}  # fmt: skip
    bytes_too = FAMILIES[GPT2]["post_processor"]
    after = {"template": template,
             "sequence": {"type": "Sequence", "processors": [bytes_too, template]}}  # fmt: skip
    last = family["post_processor"]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        **{key: family[key] for key in ("normalizer", "pre_tokenizer", "decoder")},
        "post_processor": after[last] if isinstance(last, str) else last,
        "model": {"type": "BPE", "vocab": words, "merges": merges,
                  "ignore_merges": family["ignore_merges"]},
    }  # fmt: skip


def as_converted(facts, name, filler=8):
    """The metadata that llama.cpp's converter writes: its rules, without any of our code."""
    model = facts["model"]
    by_id = {id: (token, 1) for token, id in model["vocab"].items()}
    for token in facts["added_tokens"]:
        control = token["special"] or token["content"].startswith("<|")
        by_id[token["id"]] = (token["content"], 3 if control else 4)
    rows = [by_id.get(id, (f"[PAD{id}]", 5)) for id in range(max(by_id) + 1 + filler)]
    begins = "Template" in json.dumps(facts["post_processor"])
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": [token for token, _ in rows],
        "tokenizer.ggml.token_type": np.array([kind for _, kind in rows], np.int32),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": next(i for i, (t, _) in by_id.items() if t == END),
        "tokenizer.ggml.add_bos_token": begins,
    }


def assert_same(facts, found):
    """The same ids for every text, plain and with control tokens, and the same texts for ids."""
    library = tokenizers.Tokenizer.from_str(json.dumps(facts))
    own = Tokenizer(facts)
    marked = [f"{text}{added}{text}" for added in (END, *ADDED) for text in TEXTS["edges"][:40]]
    every = [*texts(), *marked]
    expected = [e.ids for e in library.encode_batch(every, add_special_tokens=False)]
    assert found.encode_batch(every, special=True) == expected
    assert found.encode_batch(every) == own.encode_batch(every)
    shown = library.decode_batch(expected, skip_special_tokens=False)
    assert [found.decode(ids, special=True) for ids in expected] == shown
    assert found.start == own.start
    assert found.special == own.special
    assert found.vocabulary == library.get_vocab_size()


def test_every_name_in_the_table_is_tried_here():
    assert sorted(name for name, _ in NAMES) == sorted(PRE_TOKENIZERS.keys() - {"lcm"})


@pytest.mark.parametrize("model", FAMILIES)
def test_a_converted_file_gives_the_ids_of_the_models_own(model):
    facts = tokenizer_json(model)
    found = Tokenizer.from_gguf(as_converted(facts, FAMILIES[model]["names"][0]))
    assert_same(facts, found)
    assert found.end == found.id_of(END)


@pytest.mark.parametrize(("name", "model"), NAMES)
def test_names_for_the_same_tokenizer_stand_for_the_same_steps(name, model):
    metadata = as_converted(tokenizer_json(model), name)
    del metadata["tokenizer.ggml.add_bos_token"]
    others = metadata | {"tokenizer.ggml.pre": FAMILIES[model]["names"][0]}
    ours, theirs = facts_of(metadata), facts_of(others)
    for key in ("normalizer", "pre_tokenizer", "model"):
        assert ours[key] == theirs[key]
    assert (ours["post_processor"] is not None) == PRE_TOKENIZERS[name].begins


@pytest.mark.parametrize("model", FAMILIES)
def test_what_we_write_gives_the_same_ids_when_it_is_read(model):
    facts = tokenizer_json(model)
    own = Tokenizer(facts, {"eos_token": END, "chat_template": "{{ x }}"})
    metadata = own.gguf_metadata()
    written, first = metadata["tokenizer.ggml.pre"], FAMILIES[model]["names"][0]
    assert PRE_TOKENIZERS[written].steps == PRE_TOKENIZERS[first].steps
    assert metadata["tokenizer.chat_template"] == "{{ x }}"
    found = Tokenizer.from_gguf(metadata)
    assert_same(facts, found)
    assert found.end == own.end
    again = found.gguf_metadata()
    assert again.keys() == metadata.keys()
    for key, value in again.items():
        np.testing.assert_array_equal(value, metadata[key], err_msg=key)


PAIRS = [
    "HuggingFaceTB/SmolLM2-135M",
    "meta-llama/Meta-Llama-3-8B",
    "Qwen/Qwen3.5-9B",
    "deepseek-ai/deepseek-coder-6.7b-instruct",
    "deepseek-ai/DeepSeek-V3",
    "mistralai/Mistral-Nemo-Instruct-2407",
]


@functools.cache
def pair(model):
    facts = tokenizer_json(model)
    name = FAMILIES[model]["names"][0]
    library = tokenizers.Tokenizer.from_str(json.dumps(facts))
    return library, Tokenizer.from_gguf(as_converted(facts, name))


@pytest.mark.parametrize("model", PAIRS)
@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_any_text_gets_the_ids_of_the_models_own_file(model, text):
    library, found = pair(model)
    expected = library.encode(text, add_special_tokens=False).ids
    assert found.encode(text, special=True) == expected
    assert found.decode(expected, special=True) == library.decode(
        expected, skip_special_tokens=False
    )


def test_a_tokenizer_trained_here_comes_back_from_its_metadata():
    own = Tokenizer.train([*TEXTS["code"], *library_lines()], vocabulary=800)
    metadata = own.gguf_metadata()
    assert metadata["tokenizer.ggml.pre"] == "lcm"
    assert metadata["tokenizer.ggml.fim_pre_token_id"] == own.id_of("<|fim_prefix|>")
    found = Tokenizer.from_gguf(metadata)
    assert found.encode_batch(texts()) == own.encode_batch(texts())
    assert tuple(found.special) == SPECIAL
    assert found.end == own.end


def test_control_tokens_in_a_text_stay_text_unless_asked_for():
    model = "mistralai/Mistral-Nemo-Instruct-2407"
    found = pair(model)[1]
    ids = found.encode(f"<s>x{END}<|fim_prefix|>")
    assert not set(ids) & set(found.special.values())
    parsed = found.encode(f"<s>x{END}", special=True)
    assert (parsed[0], parsed[-1]) == (found.start, found.end)


def test_a_token_that_a_key_names_is_control_whatever_its_type_says():
    metadata = as_converted(tokenizer_json(GPT2), "gpt-2")
    metadata["tokenizer.ggml.token_type"] = np.ones_like(metadata["tokenizer.ggml.token_type"])
    found = Tokenizer.from_gguf(metadata)
    assert found.end == found.id_of(END)
    assert found.end not in found.encode(END)


@pytest.mark.parametrize("said", [{}, {"tokenizer.ggml.pre": "default"}])
def test_a_file_without_its_pre_tokenizer_is_read_as_gpt_2s_with_a_warning(said):
    facts = tokenizer_json(GPT2)
    metadata = as_converted(facts, "gpt-2")
    del metadata["tokenizer.ggml.pre"]
    with pytest.warns(LcmWarning, match=r"does not say how its tokenizer cuts words"):
        found = Tokenizer.from_gguf(metadata | said)
    assert_same(facts, found)


def test_a_blank_before_each_text_is_kept_where_gpt_2s_step_puts_it():
    facts = tokenizer_json(GPT2)
    facts = facts | {"pre_tokenizer": {**facts["pre_tokenizer"], "add_prefix_space": True}}
    metadata = Tokenizer(facts).gguf_metadata()
    assert metadata["tokenizer.ggml.add_space_prefix"] is True
    assert_same(facts, Tokenizer.from_gguf(metadata))


def changed(family, **changes):
    facts = json.loads(json.dumps(tokenizer_json(family)))
    facts["model"] |= changes.pop("model", {})
    return Tokenizer(facts | changes)


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (lambda: changed(GPT2, normalizer={"type": "Lowercase"}), "way to cut words"),
        (lambda: changed(GPT2, pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Whitespace"}, FAMILIES[GPT2]["decoder"]]}), "way to cut words"),
        (lambda: changed(GPT2, model={"ignore_merges": True}), "take words whole"),
        (lambda: changed(O200K, model={"ignore_merges": False}), "take words whole"),
        (lambda: changed(GPT2, model={"end_of_word_suffix": "</w>"}), "marks at the ends"),
        (lambda: changed(GPT2, model={"dropout": 0.5}), "with dropout"),
        (lambda: changed(GPT2, pre_tokenizer={"type": "Whitespace"}), "steps Whitespace"),
        (lambda: Tokenizer(json.loads(WORD_LEVEL.to_str())), "kind WordLevel"),
    ],
)  # fmt: skip
def test_what_a_file_cannot_hold_is_refused(tokenizer, said):
    with pytest.raises(UsageError, match=said) as caught:
        tokenizer().gguf_metadata()
    assert "\n" not in str(caught.value)


def test_whole_words_need_no_name_of_their_own_where_merges_make_every_word():
    facts = json.loads(json.dumps(tokenizer_json(O200K, ())))
    facts["model"]["ignore_merges"] = False  # as Phi-4-mini has the same pre-tokenizer
    own = Tokenizer(facts)
    metadata = own.gguf_metadata()
    assert metadata["tokenizer.ggml.pre"] == "gpt-4o"
    assert Tokenizer.from_gguf(metadata).encode_batch(texts()) == own.encode_batch(texts())


def test_tokens_around_a_text_are_written_and_read():
    facts = tokenizer_json("mistralai/Mistral-Nemo-Instruct-2407")
    around = json.loads(json.dumps(facts["post_processor"]))
    last = {token["content"]: token["id"] for token in facts["added_tokens"]}[END]
    around["single"].append({"SpecialToken": {"id": END, "type_id": 0}})
    around["special_tokens"][END] = {"id": END, "ids": [last], "tokens": [END]}
    metadata = Tokenizer(facts | {"post_processor": around}).gguf_metadata()
    library = tokenizers.Tokenizer.from_str(json.dumps(facts_of(metadata)))
    ids = library.encode("x").ids
    assert (ids[0], ids[-1]) == (0, last)
    assert metadata["tokenizer.ggml.eos_token_id"] == last


def test_an_ordinary_token_gets_no_role_by_its_name():
    facts = json.loads(json.dumps(tokenizer_json(GPT2, ("<PRE>",))))
    assert "tokenizer.ggml.fim_pre_token_id" in Tokenizer(facts).gguf_metadata()
    facts["added_tokens"] = [t for t in facts["added_tokens"] if t["content"] != "<|fim_prefix|>"]
    own = Tokenizer(facts)
    metadata = own.gguf_metadata()
    assert "tokenizer.ggml.fim_pre_token_id" not in metadata
    assert "<PRE>" not in Tokenizer.from_gguf(metadata).special


def test_a_token_that_takes_blanks_along_is_written_with_a_warning():
    facts = json.loads(json.dumps(tokenizer_json(GPT2)))
    facts["added_tokens"][0]["rstrip"] = True
    with pytest.warns(LcmWarning, match="takes the blanks beside it along"):
        Tokenizer(facts).gguf_metadata()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tokenizer(tokenizer_json(GPT2)).gguf_metadata()
