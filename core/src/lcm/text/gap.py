"""Fill-in-the-middle: the prompt for what belongs between two pieces of a text, within a model's context."""

import io
import warnings
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lcm.errors import FileError, LcmWarning, UsageError
from lcm.text.forms import form_of, is_text, words
from lcm.text.tokenizer import Tokenizer

AFTER = 4  # one part in so many is for what is behind the gap, where not all of it fits


@dataclass(frozen=True)
class Gap:
    """A place in a text: what is before it, and what is behind it.

    `order` is the one in which a model reads them: 'psm' has first what is before the gap; 'spm' what is
    behind it, so that little is read anew after somebody typed before it. Empty is the model's usual one.
    """

    before: str
    after: str
    order: str = ""

    @staticmethod
    def at(path: Path, line: int, column: int, *, order: str = "") -> "Gap":
        """The place in a file before this column of this line, both counted from 1."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{path}: cannot be read as text: {error}") from None
        lines = io.StringIO(text).readlines()  # as editors count: other separators end no line
        if not 1 <= line <= len(lines) + 1:
            raise UsageError(f"{path}:{line}:{column}: the file has {len(lines)} lines")
        here = lines[line - 1] if line <= len(lines) else ""
        if not 1 <= column <= len(here.rstrip("\r\n")) + 1:
            raise UsageError(
                f"{path}:{line}:{column}: that line has {len(here.rstrip())} characters"
            )
        split = sum(map(len, lines[: line - 1])) + column - 1
        return Gap(text[:split], text[split:], order)


def gap_ids(tokenizer: Tokenizer, gap: Gap, most: int) -> list[int]:
    """The prompt, of `most` tokens at most: what is far from the gap is left out, and that is said."""
    order = words(form_of(tokenizer).order(gap.order))
    before, after = tokenizer.encode(gap.before), tokenizer.encode_after(gap.after)
    begin = [] if tokenizer.start is None else [tokenizer.start]
    names = [word for word in order if not is_text(word)]
    before, after = _near(before, after, most - len(names) - len(begin))
    pieces = {"{before}": before, "{after}": after}
    prompt = (pieces[word] if is_text(word) else [tokenizer.id_of(word)] for word in order)
    return [*begin, *chain.from_iterable(prompt)]


def _near(before: list[int], after: list[int], room: int) -> tuple[list[int], list[int]]:
    if len(before) + len(after) <= room:
        return before, after
    behind = min(len(after), max(room // AFTER, room - len(before)))
    ahead = room - behind
    if ahead < 0:
        raise UsageError(
            "the model's context has no room for a gap and so many new tokens; ask for fewer"
        )
    warnings.warn(
        LcmWarning(f"around the gap are {len(before)} and {len(after)} tokens, of which the last {ahead} "
                   f"before it and the first {behind} behind it fit the model's context"),
        stacklevel=2,
    )  # fmt: skip
    return before[len(before) - ahead :], after[:behind]
