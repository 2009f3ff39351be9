"""The contents of a tokenizer.json as an object of the tokenizers library."""

import json
import re
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lcm.text.compact import spelled_out

if TYPE_CHECKING:
    import tokenizers

WORDS = ("vocab", "merges")  # of a BPE: nearly all of the file

# What a step of each kind is told, so that it puts no blank before a text.
NO_BLANK: dict[str, dict[str, Any]] = {
    "Prepend": {"prepend": ""},
    "Metaspace": {"prepend_scheme": "never", "add_prefix_space": False},
    "ByteLevel": {"add_prefix_space": False},
}


def library_of(facts: dict[str, Any], *, parse_control: bool) -> "tokenizers.Tokenizer":
    """What cuts and joins; only with `parse_control` are control tokens in a text more than text.

    The facts may be compact. Exceptions of any kind say that it is no tokenizer.
    """
    added = [{**t, "special": is_control(t)} for t in facts.get("added_tokens") or []]
    if not isinstance(facts.get("decoder"), dict | None):
        raise ValueError("its decoder is no table")
    whole = {**facts, "added_tokens": added, "truncation": None, "padding": None}
    model = facts.get("model")
    is_bpe = isinstance(model, dict) and model.get("type") == "BPE" and model.keys() >= {*WORDS}
    try:
        library = _with_words(whole) if is_bpe else _parsed(whole)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(
            f"the library gave up: {error}"
        ) from None  # in Rust, which is no Exception
    library.encode_special_tokens = not parse_control
    return library


def is_control(token: dict[str, Any]) -> bool:
    """Some models mark their fill-in-the-middle tokens as ordinary ones; their form tells them."""
    return bool(token.get("special") or re.fullmatch(r"▁?<\S+>", token["content"]))


def without_blank(facts: dict[str, Any]) -> dict[str, Any]:
    """The same, where no text gets a blank before it."""
    steps = {key: _quiet(facts[key]) for key in ("normalizer", "pre_tokenizer") if facts.get(key)}
    return {**facts, **steps}


def _quiet(step: dict[str, Any]) -> dict[str, Any]:
    if step["type"] == "Sequence":
        return {k: [*map(_quiet, v)] if isinstance(v, list) else v for k, v in step.items()}
    return step | NO_BLANK.get(step["type"], {})


def _with_words(facts: dict[str, Any]) -> "tokenizers.Tokenizer":
    """The same, three times as fast: the words are handed over as they are, and not as JSON."""
    from tokenizers import AddedToken, models

    model = spelled_out(facts)["model"]
    shell = {**facts, "added_tokens": [], "model": {**model, "vocab": {}, "merges": []}}
    library = _parsed(shell)
    options = {k: v for k, v in model.items() if k not in ("type", *WORDS) and v is not None}
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    library.model = models.BPE(model["vocab"], merges, **options)
    keys = ("single_word", "lstrip", "rstrip", "normalized", "special")
    for special, run in groupby(facts["added_tokens"], lambda token: token["special"]):
        tokens = [AddedToken(t["content"], **{k: t[k] for k in keys if k in t}) for t in run]
        (library.add_special_tokens if special else library.add_tokens)(tokens)
    return library


def _parsed(facts: dict[str, Any]) -> "tokenizers.Tokenizer":
    import tokenizers

    return tokenizers.Tokenizer.from_str(json.dumps(facts))
