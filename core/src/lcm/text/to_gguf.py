"""The way back: the facts of a tokenizer.json as the `tokenizer.*` metadata of a GGUF file.

What a file cannot say is refused (`UsageError`) where an ordinary text would get other ids. It is an
`LcmWarning` where only the control tokens that a program writes itself are concerned, a blank that a
text begins with, or runs of blanks longer than any token.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from lcm.errors import LcmWarning, UsageError
from lcm.text import templates
from lcm.text.decoding import BYTES
from lcm.text.fields import PREFIX
from lcm.text.gguf import BYTE, BYTE_FORM, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, facts_of
from lcm.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from lcm.text.scores import Merge, ranks_of

# What llama.cpp's converter takes for a control token, whatever the model says.
CONTROL_FORM = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)
NEVER_IN_TEXT = (0xC0, 0xC1, *range(0xF5, 0x100))  # bytes that UTF-8 does not use
AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
FILL_IN = {
    "fim_pre": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"),
    "fim_suf": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"),
    "fim_mid": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"),
    "fim_pad": ("<|fim_pad|>", "<fim_pad>", "<fim-pad>"),
    "fim_rep": ("<|repo_name|>", "<repo_name>", "<reponame>"),
    "fim_sep": ("<|file_sep|>", "<file_sep>"),
}  # fmt: skip


def metadata_of(facts: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer.*` keys to texts, whole numbers, truth values, lists of texts and numpy arrays.

    `config` is what a tokenizer_config.json says: the tokens by their roles, a chat template.
    """
    model = facts["model"]
    kind = model.get("type", "BPE")
    if kind != "BPE":
        _refuse(f"a tokenizer of the kind {kind}, only BPE")
    if any(model.get(way) for way in ("dropout", *AFFIXES)):
        _refuse("a BPE with dropout, or with marks at the ends of words")
    tokens, types = _tokens(facts)
    merges = [_merge(merge) for merge in model["merges"]]
    fields = {
        "tokens": tokens,
        "token_type": np.array(types, np.int32),
        **(_byte_level if _is_byte_level(facts) else _sentence_piece)(facts, tokens, merges),
        **_roles(facts, config, tokens, types),
    }
    found = {PREFIX + key: value for key, value in fields.items()}
    if fields["model"] == "llama":
        _check_merges(found, merges, {t for t, id in model["vocab"].items() if types[id] != NORMAL})
    return found | templates.as_metadata(templates.sources_of(config))


def _refuse(what: str) -> NoReturn:
    raise UsageError(f"a GGUF file cannot hold {what}; write the model as a folder")


def _tokens(facts: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Every id's token and type, `[PAD7]` where there is none."""
    model, added = facts["model"], facts.get("added_tokens") or []
    size = 1 + max([*model["vocab"].values(), *(token["id"] for token in added)], default=-1)
    tokens, types = [f"[PAD{id}]" for id in range(size)], [UNUSED] * size
    for token, id in model["vocab"].items():
        is_byte = model.get("byte_fallback") and BYTE_FORM.fullmatch(token)
        tokens[id], types[id] = token, BYTE if is_byte else NORMAL
    for token in added:
        id, content = token["id"], token["content"]
        tokens[id], types[id] = content, USER_DEFINED
        if content == model.get("unk_token"):
            types[id] = UNKNOWN
        elif token.get("special") or CONTROL_FORM.fullmatch(content):
            types[id] = CONTROL
        elif model.get("byte_fallback"):
            tokens[id] = content.replace("▁", " ")  # as llama.cpp's converter has them
    _warn_of_strips(added)
    return tokens, types


def _warn_of_strips(added: Iterable[Mapping[str, Any]]) -> None:
    ways = ("lstrip", "rstrip", "single_word")
    names = [token["content"] for token in added if any(token.get(way) for way in ways)]
    if names:
        warnings.warn(f"a GGUF file cannot say that {names[0]} takes the blanks beside it along, or "
                      f"stands alone ({len(names)} such tokens): they are text there",
                      LcmWarning, stacklevel=2)  # fmt: skip


def _merge(found: Any) -> Merge:
    left, right = found.split(" ") if isinstance(found, str) else found
    return left, right


# Byte-level --------------------------------------------------------------------------------------


def _byte_level(facts: Mapping[str, Any], tokens: list[str], merges: list[Merge]) -> dict[str, Any]:
    model = facts["model"]
    alphabet = {char for char, byte in BYTES.items() if byte not in NEVER_IN_TEXT}
    if model.get("unk_token") and not alphabet <= set(tokens):
        _refuse("a byte-level tokenizer that lacks bytes and has a token for the unknown")
    found = {"model": "gpt2", "pre": _name(facts, merges),
             "merges": [f"{left} {right}" for left, right in merges]}  # fmt: skip
    return found | ({"add_space_prefix": True} if _blank_before_words(facts) else {})


def _is_byte_level(facts: Mapping[str, Any]) -> bool:
    return any(step["type"] == "ByteLevel" for step in _steps(facts.get("pre_tokenizer")))


def _blank_before_words(facts: Mapping[str, Any]) -> bool:
    """Whether GPT-2's step puts a blank before a text, as the name cannot say."""
    steps = _steps(facts["pre_tokenizer"])
    return len(steps) == 1 and bool(steps[0].get("add_prefix_space", True))


def _name(facts: Mapping[str, Any], merges: list[Merge]) -> str:
    """The first name in the table that cuts as this tokenizer does."""
    cut = _canonical(facts.get("normalizer"), facts["pre_tokenizer"])
    alike = {name: how for name, how in PRE_TOKENIZERS.items() if _cut_of(how) == cut}
    whole = bool(facts["model"].get("ignore_merges"))
    exact = [name for name, how in alike.items() if how.whole_words == whole]
    if exact:
        return exact[0]
    if not alike:
        _refuse(
            "this tokenizer's way to cut words: none of the names for pre-tokenizers stands for it"
        )
    if not _merges_make_all(facts, merges):
        _refuse("this tokenizer's way to take words whole, together with its way to cut them")
    return next(iter(alike))


def _cut_of(how: PreTokenizer) -> Any:
    return _canonical({"type": how.normalizer} if how.normalizer else None, how.facts())


def _canonical(normalizer: Any, cut: Any) -> Any:
    steps = [_plain(step) for step in _steps(cut)]
    if len(steps) == 1:
        steps[0].pop("add_prefix_space", None)  # a key of its own says it
    return [_steps(normalizer), steps]


def _plain(step: dict[str, Any]) -> dict[str, Any]:
    """A step without what changes no id, and with what goes without saying."""
    if step["type"] == "ByteLevel":
        usual = {"add_prefix_space": True, "use_regex": True}
        return {key: value for key, value in (usual | step).items() if key != "trim_offsets"}
    if step["type"] == "Split" and (step["behavior"], step["invert"]) == ("Removed", True):
        return {
            **step,
            "behavior": "Isolated",
            "invert": False,
        }  # these patterns match all there is
    return step


def _steps(found: Any) -> list[dict[str, Any]]:
    if not found:
        return []
    if found["type"] != "Sequence":
        return [found]
    inner = found.get("pretokenizers", found.get("normalizers"))
    return [step for one in inner for step in _steps(one)]


def _merges_make_all(facts: Mapping[str, Any], merges: list[Merge]) -> bool:
    """Whether merges make each word that is a token: then it is the same to take it whole."""
    from tokenizers.models import BPE

    vocab = facts["model"]["vocab"]
    model = BPE(dict(vocab), merges)
    added = {token["content"] for token in facts.get("added_tokens") or []}
    words = (token for token in vocab.keys() - added if BYTES.keys() >= set(token))
    return all(len(model.tokenize(word)) == 1 for word in words)


# SentencePiece -----------------------------------------------------------------------------------

BLANKS = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
BLANK_FIRST = {"type": "Prepend", "prepend": "▁"}


def _sentence_piece(
    facts: Mapping[str, Any], tokens: list[str], merges: list[Merge]
) -> dict[str, Any]:
    """A piece's score is its place among those that merges make, from 0 down."""
    model = facts["model"]
    if model.get("ignore_merges") or (model.get("unk_token") and not model.get("fuse_unk")):
        _refuse("a SentencePiece tokenizer that takes words whole, or each unknown character alone")
    ranks = ranks_of(merges)
    scores = [-float(ranks.get(token, len(ranks))) for token in tokens]
    return {"model": "llama", "pre": "default", "scores": np.array(scores, np.float32),
            "add_space_prefix": _blank_first(facts)}  # fmt: skip


def _check_merges(metadata: Mapping[str, Any], merges: list[Merge], others: set[str]) -> None:
    """Merges of the file as it is read; `others` are no words, and merged to only as runs of blanks."""
    again = facts_of(metadata)["model"]["merges"]
    made = {left + right for left, right in again}
    wanted = [m for m in merges if m[0] + m[1] in made or m[0] + m[1] not in others]
    orders = [[piece for piece in ranks_of(m) if piece not in others] for m in (again, wanted)]
    if orders[0] != orders[1] or set(again) != set(wanted):
        _refuse("merges that do not follow from scores, as a SentencePiece vocabulary's do")
    if list(ranks_of(again)) != list(ranks_of(wanted)):
        warnings.warn("in a GGUF file a long run of blanks is cut into the longest tokens there are: "
                      "this tokenizer cuts it otherwise", LcmWarning, stacklevel=2)  # fmt: skip


def _blank_first(facts: Mapping[str, Any]) -> bool:
    """Whether a text gets a blank before it; refused is whatever else is done to it."""
    steps = [*_steps(facts.get("normalizer")), *_steps(facts.get("pre_tokenizer"))]
    steps = [step for step in steps if not _cuts_nothing(step)]
    if steps in ([BLANKS], [BLANK_FIRST, BLANKS]):
        return len(steps) == 2
    if [step["type"] for step in steps] != ["Metaspace"] or steps[0].get("split", True):
        _refuse(f"a tokenizer with the steps {', '.join(s['type'] for s in steps) or '(none)'}")
    if steps[0].get("prepend_scheme", "always") == "never":
        return False
    warnings.warn("a tokenizer in a GGUF file puts a blank before every text: this one puts none "
                  "before a text that begins with one", LcmWarning, stacklevel=2)  # fmt: skip
    return True


def _cuts_nothing(step: dict[str, Any]) -> bool:
    """Gemma's cut at blanks, of which none is left."""
    return step["type"] == "Split" and step["pattern"] in ({"String": " "}, {"Regex": " "})


# Roles -------------------------------------------------------------------------------------------


def _roles(
    facts: Mapping[str, Any], config: Mapping[str, Any], tokens: list[str], types: list[int]
) -> dict[str, Any]:
    ids = {token: id for id, token in enumerate(tokens)}
    first, last = _around(facts.get("post_processor"))
    named = {
        "bos": first or _content(config.get("bos_token")),
        "eos": last or _content(config.get("eos_token")),
        "unknown": _content(config.get("unk_token")) or facts["model"].get("unk_token"),
        "padding": _content(config.get("pad_token")),
        "eot": _content(config.get("eot_token")),
        "eom": _content(config.get("eom_token")),
    }
    found: dict[str, Any] = {f"{r}_token_id": ids[t] for r, t in named.items() if t in ids}
    for role, names in FILL_IN.items():
        name = next((name for name in names if name in ids and types[ids[name]] != NORMAL), None)
        if name is not None:
            found[f"{role}_token_id"] = ids[name]
    return {**found, "add_bos_token": first is not None, "add_eos_token": last is not None}


def _around(found: Any) -> tuple[str | None, str | None]:
    """The tokens that a template puts before and behind a text."""
    templates = [step for step in _processors(found) if step["type"] == "TemplateProcessing"]
    if not templates:
        return None, None
    names = [next(iter(part.items())) for part in templates[0]["single"]]
    place = [kind for kind, _ in names].index("Sequence")
    before = [part["id"] for _, part in names[:place]]
    behind = [part["id"] for _, part in names[place + 1 :]]
    if len(before) > 1 or len(behind) > 1:
        warnings.warn("a GGUF file cannot say that more than one token begins or ends each text",
                      LcmWarning, stacklevel=2)  # fmt: skip
    return next(iter(before), None), next(iter(behind), None)


def _processors(found: Any) -> list[dict[str, Any]]:
    if not found:
        return []
    return found["processors"] if found["type"] == "Sequence" else [found]


def _content(said: Any) -> str | None:
    name = said.get("content") if isinstance(said, Mapping) else said
    return name if isinstance(name, str) else None
