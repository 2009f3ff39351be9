"""The tokenizer of a GGUF file: its metadata as the facts of a tokenizer.json.

Three kinds are read (`tokenizer.ggml.model`): `gpt2`, byte-level BPE with its merges and the name of
its pre-tokenizer; `llama`, SentencePiece's BPE, whose merges follow from the scores; and `gemma4`,
the same with a list of merges. A text gets the ids that the model's own tokenizer.json gives it.

What no file says is as in SentencePiece: no token takes the blanks beside it along (in Phi-3 some
do), and each text gets a blank before it, also one that begins with a blank (in Mistral's later
files it does not).
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lcm.errors import FileError, LcmWarning
from lcm.files.refusal import brief
from lcm.text import templates
from lcm.text.fields import Fields, refuse
from lcm.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer, pre_tokenizer
from lcm.text.scores import Merge, merges_of

TYPES = range(1, 7)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = TYPES
SPECIAL = (UNKNOWN, CONTROL)
ADDED = (UNKNOWN, CONTROL, USER_DEFINED)
KINDS = ("gpt2", "llama", "gemma4")

# What a token is for, and the keys that say it; the last three are of old files.
ROLES = {
    "bos": "bos_token_id", "eos": "eos_token_id", "eot": "eot_token_id", "eom": "eom_token_id",
    "unknown": "unknown_token_id", "separator": "seperator_token_id", "mask": "mask_token_id",
    "padding": "padding_token_id", "fim_pre": "fim_pre_token_id", "fim_suf": "fim_suf_token_id",
    "fim_mid": "fim_mid_token_id", "fim_pad": "fim_pad_token_id", "fim_rep": "fim_rep_token_id",
    "fim_sep": "fim_sep_token_id", "prefix": "prefix_token_id", "suffix": "suffix_token_id",
    "middle": "middle_token_id",
}  # fmt: skip
LLAMA_ROLES = {"unknown": 0, "bos": 1, "eos": 2}  # where a `llama` file does not say
CONTROL_FORM = re.compile(r"▁?[<\[]\S+[>\]]")
BYTE_FORM = re.compile("<0x[0-9A-F]{2}>")
FILLER = re.compile(r"\[PAD\d+\]")  # rows of the embedding that no tokenizer knows


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id with their types, the ids of the tokens, and the ids that keys name."""

    tokens: list[str]
    types: list[int]
    ids: dict[str, int]
    roles: dict[str, int]
    rows: int  # tokens in the file, fillers at its end included


def facts_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer.json that a file's metadata stands for; `FileError` says what is wrong with it.

    An old file without the name of its pre-tokenizer, or with the name `default`, is read as if it
    were GPT-2's, with an `LcmWarning`: for a model that cuts otherwise the ids are not its own.
    """
    fields = Fields(metadata)
    kind = _kind(fields)
    vocabulary = _vocabulary(fields, kind)
    if kind == "gpt2":
        how = _pre_tokenizer(fields)
        parts = _byte_level(fields, vocabulary, how)
        begins = how.begins
    else:
        parts = _sentence_piece(fields, vocabulary, kind)
        begins = True
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(vocabulary, id) for id in _added_ids(vocabulary)],
        "post_processor": _post_processor(fields, vocabulary, begins),
        **parts,
    }


def config_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a tokenizer_config.json would say besides: which tokens begin and end a text, and chats."""
    fields = Fields(metadata)
    vocabulary = _vocabulary(fields, _kind(fields))
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown",
             "eot_token": "eot", "eom_token": "eom"}  # fmt: skip
    config = {
        name: vocabulary.tokens[vocabulary.roles[role]]
        for name, role in names.items()
        if role in vocabulary.roles
    }
    return config | templates.as_config(templates.in_gguf(metadata))


# The vocabulary ----------------------------------------------------------------------------------


def _kind(fields: Fields) -> str:
    kind = fields.text("model")
    if kind is None:
        refuse("it holds no tokenizer (tokenizer.ggml.model is missing)")
    if kind not in KINDS:
        raise FileError(f"GGUF metadata: a tokenizer of the kind {brief(kind)} (tokenizer.ggml.model) "
                        f"cannot be read here, only {', '.join(KINDS)}; "
                        f"load the model from its Hugging Face folder")  # fmt: skip
    return kind


def _vocabulary(fields: Fields, kind: str) -> Vocabulary:
    tokens = fields.texts("tokens")
    if not tokens:
        refuse(f"tokenizer.ggml.tokens is {'missing' if tokens is None else 'empty'}")
    ids = {token: id for id, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        second = next(id for id, token in enumerate(tokens) if ids[token] != id)
        refuse(f"token {brief(tokens[second])} is there twice, as {second} and {ids[tokens[second]]}")
    rows, roles = len(tokens), _roles(fields, kind, tokens)
    types = _types(fields, kind, tokens, roles)
    if kind != "gpt2":
        _respell(tokens, types, ids)
    while types[-1] == UNUSED and FILLER.fullmatch(tokens[-1]) and ids[tokens[-1]]:
        del ids[tokens.pop()], types[-1]
    return Vocabulary(tokens, types, ids, {r: id for r, id in roles.items() if id < len(ids)}, rows)


def _types(fields: Fields, kind: str, tokens: list[str], roles: dict[str, int]) -> list[int]:
    found = fields.numbers("token_type", len(tokens), "iu")
    if found is None:
        bytes_too = kind != "gpt2"
        types = [BYTE if bytes_too and BYTE_FORM.fullmatch(t) else NORMAL for t in tokens]
    else:
        types = found.tolist()
    if strange := set(types) - set(TYPES):
        refuse(f"tokenizer.ggml.token_type has the type {min(strange)}, but there are only 1 to 6")
    for id in roles.values():
        if types[id] in (NORMAL, USER_DEFINED) and CONTROL_FORM.fullmatch(tokens[id]):
            types[id] = CONTROL  # as its key says, whatever its type does
    return types


def _roles(fields: Fields, kind: str, tokens: list[str]) -> dict[str, int]:
    found = {role: fields.id(key, len(tokens)) for role, key in ROLES.items()}
    roles = {role: id for role, id in found.items() if id is not None}
    if kind == "llama":
        usual = {role: id for role, id in LLAMA_ROLES.items() if id < len(tokens)}
        return {r: id for r, id in usual.items() if CONTROL_FORM.fullmatch(tokens[id])} | roles
    return roles


def _respell(tokens: list[str], types: list[int], ids: dict[str, int]) -> None:
    """Runs of blanks as SentencePiece has them: the converter writes user-defined `▁▁` as blanks."""
    for id, token in enumerate(tokens):
        piece = "▁" * len(token)
        if types[id] == USER_DEFINED and token.strip(" ") == "" and piece not in ids:
            del ids[token]
            tokens[id], ids[piece] = piece, id


def _added_ids(vocabulary: Vocabulary) -> list[int]:
    return [id for id, type in enumerate(vocabulary.types) if type in ADDED]


def _added(vocabulary: Vocabulary, id: int) -> dict[str, Any]:
    return {"id": id, "content": vocabulary.tokens[id], "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False,
            "special": vocabulary.types[id] in SPECIAL}  # fmt: skip


# The kinds ---------------------------------------------------------------------------------------


def _pre_tokenizer(fields: Fields) -> PreTokenizer:
    name = fields.text("pre") or "default"
    if name == "default":
        warnings.warn("this GGUF file does not say how its tokenizer cuts words (tokenizer.ggml.pre)"
                      ": cut as GPT-2 does, its ids may not be the model's; convert the model again",
                      LcmWarning, stacklevel=2)  # fmt: skip
        return PRE_TOKENIZERS["gpt-2"]
    return pre_tokenizer(name)


def _byte_level(fields: Fields, vocabulary: Vocabulary, how: PreTokenizer) -> dict[str, Any]:
    merges = _merges(fields, vocabulary)
    cut = how.facts()
    if cut["type"] == "ByteLevel" and fields.flag("add_space_prefix"):
        cut = {**cut, "add_prefix_space": True}
    return {
        "normalizer": {"type": how.normalizer} if how.normalizer else None,
        "pre_tokenizer": cut,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": _bpe(_without_tail(vocabulary, merges), merges, ignore_merges=how.whole_words),
    }  # fmt: skip


def _sentence_piece(fields: Fields, vocabulary: Vocabulary, kind: str) -> dict[str, Any]:
    said = fields.flag("add_space_prefix")
    blank_first = kind == "llama" if said is None else said
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    steps = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if blank_first:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    listed = kind == "gemma4"
    merges = _merges(fields, vocabulary) if listed else _scored(fields, vocabulary)
    return {
        "normalizer": {"type": "Sequence", "normalizers": [
            *([{"type": "Prepend", "prepend": "▁"}] if blank_first else []), blanks]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": _bpe(vocabulary.ids, merges, unk_token=_unknown(vocabulary), fuse_unk=True,
                      byte_fallback=BYTE in vocabulary.types),
    }  # fmt: skip


def _bpe(vocab: Mapping[str, int], merges: list[Merge], **others: Any) -> dict[str, Any]:
    usual = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "ignore_merges": False}  # fmt: skip
    return {"type": "BPE", **usual, **others, "vocab": vocab, "merges": merges}


def _without_tail(vocabulary: Vocabulary, merges: list[Merge]) -> dict[str, int]:
    """Tokens that are added after all others are no words: as in most models' own files."""
    end = len(vocabulary.tokens)
    made = {left + right for left, right in merges}
    while end and vocabulary.types[end - 1] in ADDED and vocabulary.tokens[end - 1] not in made:
        end -= 1
    return {token: id for id, token in enumerate(vocabulary.tokens[:end])}


def _unknown(vocabulary: Vocabulary) -> str | None:
    usual = vocabulary.types.index(UNKNOWN) if UNKNOWN in vocabulary.types else None
    id = vocabulary.roles.get("unknown", usual)
    return None if id is None else vocabulary.tokens[id]


# Merges ------------------------------------------------------------------------------------------


def _merges(fields: Fields, vocabulary: Vocabulary) -> list[Merge]:
    lines = fields.texts("merges")
    if lines is None:
        refuse("tokenizer.ggml.merges is missing")
    ids = vocabulary.ids
    found = []
    for line in lines:
        left, blank, right = line.partition(" ")
        if not (left and blank and right) or " " in right:
            refuse(f"merge {brief(line)} does not name two tokens")
        if left not in ids or right not in ids or left + right not in ids:
            unknown = next(token for token in (left, right, left + right) if token not in ids)
            refuse(f"merge {brief(line)} needs the token {brief(unknown)}, which is not there")
        found.append((left, right))
    return found


def _scored(fields: Fields, vocabulary: Vocabulary) -> list[Merge]:
    """Nothing is merged into a control token: its text stays text.

    Of user-defined pieces, which are found before any merge, runs of blanks take part: where blanks
    become `▁`, they are found only here, and first: SentencePiece scores them 0, converters do not.
    """
    scores = fields.numbers("scores", vocabulary.rows, "fiu")
    if scores is None:
        refuse("tokenizer.ggml.scores is missing")
    types = vocabulary.types
    return merges_of({
        token: float(scores[id]) if types[id] == NORMAL else 0.0
        for id, token in enumerate(vocabulary.tokens)
        if types[id] == NORMAL or (types[id] == USER_DEFINED and not token.strip("▁"))
    })  # fmt: skip


# Begin and end -----------------------------------------------------------------------------------


def _post_processor(fields: Fields, vocabulary: Vocabulary, begins: bool) -> dict[str, Any] | None:
    first = _around(fields, vocabulary, "bos", begins)
    last = _around(fields, vocabulary, "eos", False)
    if not first and not last:
        return None
    tokens = {token: {"id": token, "ids": [vocabulary.ids[token]], "tokens": [token]}
              for token in (*first, *last)}  # fmt: skip

    def template(*texts: str) -> list[dict[str, Any]]:
        return [
            *({"SpecialToken": {"id": token, "type_id": 0}} for token in first),
            *({"Sequence": {"id": text, "type_id": 0}} for text in texts),
            *({"SpecialToken": {"id": token, "type_id": 0}} for token in last),
        ]

    return {"type": "TemplateProcessing", "single": template("A"), "pair": template("A", "B"),
            "special_tokens": tokens}  # fmt: skip


def _around(fields: Fields, vocabulary: Vocabulary, role: str, usual: bool) -> list[str]:
    """The token that a text begins or ends with, if any."""
    said = fields.flag(f"add_{role}_token")
    if said and role not in vocabulary.roles:
        refuse(f"tokenizer.ggml.add_{role}_token is set, but {role}_token_id is missing")
    wanted = usual if said is None else said
    return (
        [vocabulary.tokens[vocabulary.roles[role]]] if wanted and role in vocabulary.roles else []
    )
