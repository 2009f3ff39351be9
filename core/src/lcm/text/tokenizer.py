"""Text to token ids and back: a tokenizer trained here, or the `tokenizer.json` of a model."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lcm.errors import DataError, FileError, UsageError
from lcm.files.atomic import write_atomically
from lcm.files.gguf import open_gguf
from lcm.text.decoding import Pieces, StreamDecoder

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

# How models call the token that ends a text, where no tokenizer_config.json says it.
ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>", "<|im_end|>")


class Tokenizer:
    """Text to ids and back. What looks like a control token in a user's text stays text."""

    def __init__(self, source: str, config: dict[str, Any] | None = None) -> None:
        """`source` is the text of a tokenizer.json, `config` what tokenizer_config.json holds."""
        facts = json.loads(source)
        self._source = source
        self._config = config or {}
        self._facts = facts
        self._plain = _library(facts, parse_control=False)

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
        return cls(library.to_str(pretty=True))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a model folder, of one tokenizer.json, or of a GGUF file."""
        path = Path(path)
        if path.suffix == ".gguf":
            return cls.from_gguf(open_gguf(path).metadata)
        file = path / "tokenizer.json" if path.is_dir() else path
        config = file.with_name("tokenizer_config.json")
        try:
            facts = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
            return cls(file.read_text(encoding="utf-8"), facts if isinstance(facts, dict) else {})
        except OSError as error:
            raise FileError(f"{file}: no tokenizer can be read there: {error.strerror}; "
                            f"name a model folder or a tokenizer.json") from error  # fmt: skip
        except Exception as error:  # the library raises plain Exceptions
            raise FileError(f"{file}: is no usable tokenizer: {_line(error)}; "
                            f"download it again") from error  # fmt: skip

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """The tokenizer that a GGUF file's metadata describes (`tokenizer.ggml.*`)."""
        from lcm.text.gguf import config_of, facts_of

        facts, config = facts_of(metadata), config_of(metadata)
        try:
            return cls(json.dumps(facts), config)
        except Exception as error:  # the library raises plain Exceptions
            raise FileError(f"GGUF metadata: it holds no usable tokenizer: {_line(error)}; "
                            f"convert the model again") from error  # fmt: skip

    def gguf_metadata(self) -> dict[str, Any]:
        """The `tokenizer.*` metadata of a GGUF file; `UsageError` where a file cannot say it."""
        from lcm.text.to_gguf import metadata_of

        end = {} if self.end is None else {"eos_token": self._pieces.names[self.end]}
        return metadata_of(self._facts, {**self._config, **end})

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json to a path that ends in .json, or both files into a model folder."""
        path = Path(path)
        if path.suffix == ".json":
            _write(path, self._source)
            return
        _write(path / "tokenizer.json", self._source)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._config}
        if self.end is not None:
            config.setdefault("eos_token", self._pieces.names[self.end])
        _write(path / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False))

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of `text`; only with `special` are control tokens in it more than text."""
        library = self._parsing if special else self._plain
        return library.encode(_checked(text), add_special_tokens=False).ids

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

    def bytes_of(self, id: int) -> bytes:
        """What one token stands for, which may be a part of a character; control tokens: b""."""
        return self._pieces.contents[id] if 0 <= id < self.vocabulary else b""

    def byte_lengths(self) -> np.ndarray:
        """How many bytes of text each id stands for, int64 (vocabulary,); 0 for control tokens."""
        return np.array([len(piece) for piece in self._pieces.contents], np.int64)

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

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return len(self._pieces.names)

    @cached_property
    def end(self) -> int | None:
        """The id that ends a text, from the model's configuration or by its usual names."""
        said = self._config.get("eos_token")
        name = said.get("content") if isinstance(said, dict) else said
        return next((self.special[end] for end in (name, *ENDS) if end in self.special), None)

    @cached_property
    def start(self) -> int | None:
        """The id that this model wants before every text, if any."""
        with_start = self._plain.encode("x", add_special_tokens=True).ids
        if with_start and with_start[0] in self._pieces.control:
            return int(with_start[0])
        return None

    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which ids a text gets, and which of them ends it."""
        canonical = json.dumps([self._facts, self.end], sort_keys=True)
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    @cached_property
    def _parsing(self) -> "tokenizers.Tokenizer":
        return _library(self._facts, parse_control=True)

    @cached_property
    def _pieces(self) -> Pieces:
        added = self._plain.get_added_tokens_decoder()
        control = {id for id, token in added.items() if token.special}
        return Pieces(self._plain, self._facts.get("decoder") or {}, control)


def _library(facts: dict[str, Any], *, parse_control: bool) -> "tokenizers.Tokenizer":
    import tokenizers

    added = [{**t, "special": _is_control(t)} for t in facts.get("added_tokens") or []]
    whole = {**facts, "added_tokens": added, "truncation": None, "padding": None}
    library = tokenizers.Tokenizer.from_str(json.dumps(whole))
    library.encode_special_tokens = not parse_control
    return library


def _is_control(token: dict[str, Any]) -> bool:
    """Some models mark their fill-in-the-middle tokens as ordinary ones; their form tells them."""
    return bool(token.get("special") or re.fullmatch(r"<\S+>", token["content"]))


def _checked(text: str) -> str:
    if (found := re.search("[\ud800-\udfff]", text)) is not None:
        raise DataError(f"character {found.start()} of the text is half of a surrogate pair "
                        f"(U+{ord(found[0]):04X}), which is no character; remove it")  # fmt: skip
    return text


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
