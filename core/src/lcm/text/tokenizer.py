"""Text to token ids and back: a tokenizer trained here, or the `tokenizer.json` of a model."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcm.errors import DataError, FileError, LcmWarning, UsageError
from lcm.files.atomic import write_atomically
from lcm.files.reading import read_json, read_whole
from lcm.files.refusal import brief
from lcm.text import templates
from lcm.text.compact import compact, spelled_out
from lcm.text.decoding import Pieces, StreamDecoder
from lcm.text.library import is_control, library_of, without_blank

if TYPE_CHECKING:
    import tokenizers

END = "<|endoftext|>"
SPECIAL = (END, "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>")

# A line's end takes the indentation of the next line along, but for the last blank, which goes with
# the word: `:\n       ` and ` return` are one token each. 5.8 % fewer tokens for Python's standard
# library than GPT-4's pattern at a vocabulary of 4096, 7.8 % fewer at 16384.
INDENT = r"[\r\n]+(?:[ \t]+(?=[ \t]))?"
WORDS = "|".join((
    r"[^\r\n\p{L}\p{N}]?\p{L}+",  # a word, with what stands before it: ` x`, `_x`, `.x`
    r"\p{N}{1,3}",
    rf" ?[^\s\p{{L}}\p{{N}}]+(?:{INDENT})?",
    rf"\s*{INDENT}",
    r"\s+(?!\S)|\s+",
))  # fmt: skip

LARGEST = 2**27  # bytes of a tokenizer.json; that of Gemma has a fourth of it

# How models call the token that ends a text, where no tokenizer_config.json says it.
ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>", "<|im_end|>")
TURN_ENDS = ("eot_token", "eom_token")  # what ends a turn, or a message, if not a text
MARK = "\ufdd0"  # in no text: Unicode keeps it for what programs need inside (Standard, 23.7)


class Tokenizer:
    """Text to ids and back. What looks like a control token in a user's text stays text."""

    def __init__(
        self, facts: dict[str, Any], config: dict[str, Any] | None = None, ends: Iterable[int] = ()
    ) -> None:
        """`facts` are what a tokenizer.json holds, `config` what tokenizer_config.json does.

        `ends` are the ids that the model's own configuration calls ends, beside the tokenizer's.
        """
        self._config = config or {}
        self._ends = frozenset(ends)
        self._plain = library_of(facts, parse_control=False)
        self._facts = compact(facts)

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocabulary: int, special: Sequence[str] = SPECIAL
    ) -> "Tokenizer":
        """A byte-level BPE for these texts; the same texts in the same order give the same one."""
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        smallest = 256 + len(special)
        if vocabulary < smallest:
            raise UsageError(f"a vocabulary of {vocabulary} is too small: the 256 bytes and the "
                             f"{len(special)} control tokens need {smallest}")  # fmt: skip
        library = tokenizers.Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])  # fmt: skip
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(special),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        library.train_from_iterator(iter(texts), trainer)
        return cls(json.loads(library.to_str()))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a model folder, of one tokenizer.json, or of a GGUF file."""
        path = Path(path)
        if path.suffix == ".gguf":
            return cls._of_gguf_file(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        config = file.with_name("tokenizer_config.json")
        try:
            facts = json.loads(read_whole(config, LARGEST)) if config.is_file() else {}
            facts = facts if isinstance(facts, dict) else {}
            facts |= templates.as_config(templates.in_folder(file.parent))
            return cls(json.loads(read_whole(file, LARGEST)), facts, ends_in(file.parent))
        except FileError:
            raise
        except OSError as error:
            remedy = "name a model folder or a tokenizer.json"
            if file.with_name("tokenizer.model").is_file():
                remedy = "transformers makes one of the tokenizer.model that is there"
            raise FileError(
                f"{file}: no tokenizer can be read there: {error.strerror}; {remedy}"
            ) from error
        except Exception as error:  # the library raises plain Exceptions
            raise FileError(f"{file}: is no usable tokenizer: {_line(error)}; "
                            f"download it again") from error  # fmt: skip

    @classmethod
    def _of_gguf_file(cls, path: Path) -> "Tokenizer":
        from lcm.text.prepared import facts_of_file

        try:
            return cls._of_facts(*facts_of_file(path))
        except FileError as error:
            named = str(error).startswith(f"{path}: ")
            raise error if named else FileError(f"{path}: {error}") from None

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """The tokenizer that a GGUF file's metadata describes (`tokenizer.ggml.*`)."""
        from lcm.text.gguf import config_of, facts_of

        return cls._of_facts(facts_of(metadata), config_of(metadata))

    @classmethod
    def _of_facts(cls, facts: dict[str, Any], config: dict[str, Any]) -> "Tokenizer":
        try:
            return cls(facts, config)
        except Exception as error:  # the library raises plain Exceptions
            raise FileError(f"GGUF metadata: it holds no usable tokenizer: {_line(error)}; "
                            f"convert the model again") from error  # fmt: skip

    def gguf_metadata(self) -> dict[str, Any]:
        """The `tokenizer.*` metadata of a GGUF file; `UsageError` where a file cannot say it."""
        from lcm.text.to_gguf import metadata_of

        end = {} if self.end is None else {"eos_token": self._pieces.names[self.end]}
        others = [self._pieces.names[id] for id in sorted(self.ends - {self.end})]
        if len(others) > len(TURN_ENDS):
            more = ", ".join(others[len(TURN_ENDS) :])
            warnings.warn(f"a GGUF file can name three tokens that end a text, not {more} besides",
                          LcmWarning, stacklevel=2)  # fmt: skip
        named = dict(zip(TURN_ENDS, others, strict=False))
        return metadata_of(spelled_out(self._facts), {**self._config, **named, **end})

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json to a path that ends in .json, or both files into a model folder."""
        path = Path(path)
        if path.suffix == ".json":
            _write(path, spelled_out(self._facts))
            return
        _write(path / "tokenizer.json", spelled_out(self._facts))
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config}
        if self.end is not None:
            config.setdefault("eos_token", self._pieces.names[self.end])
        _write(path / "tokenizer_config.json", config)

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of `text`; only with `special` are control tokens in it more than text."""
        library = self._parsing if special else self._plain
        return library.encode(_checked(text), add_special_tokens=False).ids

    def encode_after(self, text: str) -> list[int]:
        """The ids of a text that goes on after another: SentencePiece puts no blank before it."""
        return self._going_on.encode(_checked(text), add_special_tokens=False).ids

    def encode_marked(self, text: str) -> list[int]:
        """The ids of a text with its control tokens, but where a MARK stands in one: that is text.

        Marks are taken out after control tokens are found and before words are cut: no other id changes.
        """
        return self._unmarking.encode(_checked(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """`encode` for many texts at once, on all cores."""
        library = self._parsing if special else self._plain
        found = library.encode_batch_fast([*map(_checked, texts)], add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of `ids`; control tokens are left out unless `special`."""
        return self._pieces.text([int(i) for i in ids], special)

    def stream(self, after: Iterable[int] = (), special: bool = False) -> StreamDecoder:
        """A decoder for one id at a time, as if the ids `after` had already been shown."""
        return StreamDecoder(self._pieces, after, special)

    def answer(self) -> StreamDecoder:
        """A decoder for what a model says in a chat, one id at a time, with its `tags`."""
        control = self._pieces.control - set(self.tags.values())
        return StreamDecoder(Pieces(self._plain, self._facts, control))

    def bytes_of(self, id: int) -> bytes:
        """What one token stands for, which may be a part of a character; control tokens: b""."""
        return self._pieces.content(id)

    def byte_lengths(self) -> np.ndarray:
        """How many bytes of text each id stands for, int64 (vocabulary,); 0 for control tokens."""
        return np.array([len(self._pieces.content(id)) for id in range(self.vocabulary)], np.int64)

    def id_of(self, token: str) -> int:
        """The id of a token by its name, as a control token's; `UsageError` where there is none."""
        found = self._plain.token_to_id(token)
        if found is None:
            raise UsageError(f"this tokenizer has no token {token!r}; it has the control tokens "
                             f"{', '.join(self.special) or '(none)'}")  # fmt: skip
        return int(found)

    def __contains__(self, token: object) -> bool:
        return isinstance(token, str) and self._plain.token_to_id(token) is not None

    @cached_property
    def special(self) -> dict[str, int]:
        """The control tokens by name, in order of their ids."""
        return {self._pieces.names[id]: id for id in sorted(self._pieces.control)}

    @cached_property
    def tags(self) -> dict[str, int]:
        """Those of them that the tokenizer's file calls ordinary, and look like `<think>`, `</tool_call>`."""
        ordinary = {
            t["content"] for t in self._facts.get("added_tokens") or [] if not t.get("special")
        }
        return {
            n: id for n, id in self.special.items() if n in ordinary and re.fullmatch(r"</?\w+>", n)
        }

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return len(self._pieces.names)

    @cached_property
    def end(self) -> int | None:
        """The id that ends a text, from the model's configuration or by its usual names."""
        name = _name(self._config.get("eos_token"))
        return next((self.special[end] for end in (name, *ENDS) if end in self.special), None)

    @cached_property
    def ends(self) -> frozenset[int]:
        """All ids that end a text, a turn or a message, from the configuration; control tokens only."""
        named = {self.special.get(_name(self._config.get(key)) or "") for key in TURN_ENDS}
        found = {self.end, *named, *self._ends}
        return frozenset(id for id in self._pieces.control if id in found)

    @cached_property
    def templates(self) -> dict[str, str]:
        """The chat templates by name; `default` is the usual one. Empty for models that only continue."""
        return templates.sources_of(self._config)

    @cached_property
    def roles(self) -> dict[str, str]:
        """The tokens that the configuration has a use for, by name: `bos_token`, `eos_token` and others."""
        usual = {"bos_token": self.start, "eos_token": self.end}
        found = {role: self._pieces.names[id] for role, id in usual.items() if id is not None}
        said = {key: _name(value) for key, value in self._config.items() if key.endswith("_token")}
        return found | {key: name for key, name in said.items() if name}

    @cached_property
    def start(self) -> int | None:
        """The id that this model wants before every text, if any."""
        with_start = self._plain.encode("x", add_special_tokens=True).ids
        if with_start and with_start[0] in self._pieces.control:
            return int(with_start[0])
        return None

    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which ids a text gets, and which of them ends it."""
        canonical = json.dumps([spelled_out(self._facts), self.end], sort_keys=True)
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    @cached_property
    def _parsing(self) -> "tokenizers.Tokenizer":
        return library_of(self._facts, parse_control=True)

    @cached_property
    def _going_on(self) -> "tokenizers.Tokenizer":
        facts = without_blank(self._facts)
        return self._plain if facts == self._facts else library_of(facts, parse_control=False)

    @cached_property
    def _unmarking(self) -> "tokenizers.Tokenizer":
        unmark = {"type": "Replace", "pattern": {"String": MARK}, "content": ""}
        steps = [unmark, *([found] if (found := self._facts.get("normalizer")) else [])]
        added = [{**t, "normalized": bool(t.get("normalized")) and not is_control(t)}
                 for t in self._facts.get("added_tokens") or []]  # fmt: skip
        facts = {"added_tokens": added, "normalizer": {"type": "Sequence", "normalizers": steps}}
        return library_of(self._facts | facts, parse_control=True)

    @cached_property
    def _pieces(self) -> Pieces:
        added = self._plain.get_added_tokens_decoder()
        control = {id for id, token in added.items() if token.special}
        return Pieces(self._plain, self._facts, control)


def ends_in(folder: Path) -> frozenset[int]:
    """The ids that a model's own configuration calls ends; generation_config.json comes first."""
    for name in ("generation_config.json", "config.json"):
        try:
            facts = read_json(folder / name)
        except FileNotFoundError:
            continue
        said = facts.get("eos_token_id") if isinstance(facts, dict) else None
        ids = said if isinstance(said, list) else [] if said is None else [said]
        if not all(isinstance(id, int) for id in ids):
            raise FileError(f"{folder / name}: eos_token_id is neither an id nor a list of ids: "
                            f"{brief(said)}; download it again")  # fmt: skip
        if ids:
            return frozenset(ids)
    return frozenset()


def _name(said: Any) -> str | None:
    """What a tokenizer_config.json calls a token: its text, or a dictionary with that in it."""
    name = said.get("content") if isinstance(said, dict) else said
    return name if isinstance(name, str) else None


def _checked(text: str) -> str:
    if (found := re.search("[\ud800-\udfff]", text)) is not None:
        raise DataError(f"character {found.start()} of the text is half of a surrogate pair "
                        f"(U+{ord(found[0]):04X}), which is no character; remove it")  # fmt: skip
    return text


def _write(path: Path, facts: dict[str, Any]) -> None:
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
