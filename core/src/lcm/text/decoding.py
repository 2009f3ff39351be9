"""The bytes that tokens stand for, and their text, all at once or one token at a time.

Two kinds of tokenizer are decoded here from the bytes of their tokens: byte-level ones (GPT-2 and
nearly all code models) and those of SentencePiece (Llama 1 and 2), where `▁` is a blank and
`<0x0A>` a byte. Any other kind is decoded by its library.
"""

import codecs
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lcm.errors import FileError
from lcm.text.compact import words_of

if TYPE_CHECKING:
    import tokenizers


class Pieces:
    """Each token of a tokenizer by id: its name, its bytes, and whether it is a control token."""

    def __init__(
        self, library: "tokenizers.Tokenizer", facts: dict[str, Any], control: set[int]
    ) -> None:
        """`facts` are what the tokenizer.json holds, compact, `control` the ids of control tokens."""
        decoder = facts.get("decoder") or {}
        self._library = library
        self._steps = {step["type"]: step for step in decoder.get("decoders", [decoder]) if step}
        self._model = facts["model"]
        self.control = control

    @cached_property
    def names(self) -> list[str]:
        added = self._library.get_added_tokens_decoder()
        words = words_of(self._model) or self._library.get_vocab(False)
        by_name = {**words, **{token.content: id for id, token in added.items()}}
        largest = max(by_name.values(), default=-1)
        if largest > 4 * len(by_name) + 4096:  # a list of these would fill memory
            raise FileError(f"the tokenizer has {len(by_name)} tokens, but one with the id {largest}; "
                            f"download it again")  # fmt: skip
        names = [""] * (1 + largest)
        for name, id in by_name.items():
            names[id] = name
        return names

    def content(self, id: int) -> bytes:
        """What the token adds to a text; nothing if it is a control token, or none."""
        if id in self.control or not 0 <= id < len(self.names):
            return b""
        of_name = self._byte_level if "ByteLevel" in self._steps else self._sentence_piece
        return of_name(self.names[id])

    @cached_property
    def by_bytes(self) -> bool:
        """Whether a text is the bytes of its tokens, one after the other."""
        return bool(self._steps) and set(self._steps) <= {
            "ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"
        }  # fmt: skip

    @cached_property
    def drops_first_blank(self) -> bool:
        """SentencePiece puts a blank before a text, which is no part of it."""
        scheme = self._steps.get("Metaspace", {}).get("prepend_scheme", "always")
        return "Strip" in self._steps or ("Metaspace" in self._steps and scheme != "never")

    def shown(self, id: int, special: bool) -> bytes:
        """The bytes that this id adds to a text; ids that the tokenizer lacks add nothing."""
        if special and id in self.control:
            return self.names[id].encode("utf-8")
        return self.content(id)

    def text(self, ids: Sequence[int], special: bool) -> str:
        if not self.by_bytes:
            known = [i for i in ids if 0 <= i < len(self.names)]
            return str(self._library.decode(known, skip_special_tokens=not special))
        found = b"".join(self.shown(id, special) for id in ids)
        return self.without_first_blank(found).decode("utf-8", "replace")

    def without_first_blank(self, found: bytes) -> bytes:
        return found[1:] if self.drops_first_blank and found.startswith(b" ") else found

    def _byte_level(self, name: str) -> bytes:
        if all(c in BYTES for c in name):
            return bytes(BYTES[c] for c in name)
        return name.encode("utf-8")

    def _sentence_piece(self, name: str) -> bytes:
        if "ByteFallback" in self._steps and re.fullmatch("<0x[0-9A-Fa-f]{2}>", name):
            return bytes([int(name[3:5], 16)])
        return name.replace("▁", " ").encode("utf-8")


class StreamDecoder:
    """The text of ids that come one by one; what `push` and `flush` return adds up to `decode`'s.

    Only whole characters are given out. Bytes that are no UTF-8 become U+FFFD as soon as no further
    byte can make a character of them.
    """

    def __init__(self, pieces: Pieces, after: Iterable[int] = (), special: bool = False) -> None:
        self._pieces = pieces
        self._special = special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._ids: list[int] = []  # of a tokenizer that is decoded by its library
        self._given = ""
        for id in after:
            self.push(id)

    def push(self, id: int) -> str:
        """The text that has become certain with this id, often a word, sometimes nothing."""
        if not self._pieces.by_bytes:
            return self._push_to_library(int(id))
        found = self._pieces.shown(int(id), self._special)
        if self._at_start and found:
            self._at_start = False
            found = self._pieces.without_first_blank(found)
        return self._utf8.decode(found)

    def flush(self) -> str:
        """The rest: U+FFFD for a character that was never finished, else nothing."""
        if not self._pieces.by_bytes:
            return self._rest_from_library(hold="")
        return self._utf8.decode(b"", True)

    def _push_to_library(self, id: int) -> str:
        self._ids.append(id)
        return self._rest_from_library(hold="\ufffd")

    def _rest_from_library(self, hold: str) -> str:
        whole = self._pieces.text(self._ids, self._special)
        certain = whole.rstrip(hold) if hold else whole
        if not certain.startswith(self._given):  # such a decoder may change what it gave before
            return ""
        new, self._given = certain[len(self._given) :], certain
        return new


def _byte_table() -> dict[str, int]:
    """GPT-2's table: a printable byte is its own character, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_table()
