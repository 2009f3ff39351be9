"""Fill-in-the-middle: the prompt for what belongs between two pieces of a text, within a model's context."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lcm.errors import LcmWarning, UsageError
from lcm.text.forms import form_of, is_text, words
from lcm.text.repository import Repository, text_of
from lcm.text.tokenizer import Tokenizer

OTHERS = 2  # one part in so many is for other files, where they and the one with the gap do not fit
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
    repository: Repository | None = None  # if so, its other files are read first

    @staticmethod
    def at(
        path: Path, line: int, column: int, *, order: str = "", others: Sequence[Path] = ()
    ) -> "Gap":
        """The place in a file before this column of this line, both counted from 1.

        `others` are files to read first, the nearest one last.
        """
        text = text_of(path)
        lines = io.StringIO(text).readlines()  # as editors count: other separators end no line
        if not 1 <= line <= len(lines) + 1:
            raise UsageError(f"{path}:{line}:{column}: the file has {len(lines)} lines")
        here = lines[line - 1] if line <= len(lines) else ""
        if not 1 <= column <= len(here.rstrip("\r\n")) + 1:
            raise UsageError(
                f"{path}:{line}:{column}: that line has {len(here.rstrip())} characters"
            )
        split = sum(map(len, lines[: line - 1])) + column - 1
        repository = Repository.around(path, others) if others else None
        return Gap(text[:split], text[split:], order, repository)


def gap_ids(tokenizer: Tokenizer, gap: Gap, most: int) -> list[int]:
    """The prompt, of `most` tokens at most: what is far from the gap is left out, and that is said.

    Other files may take what the one with the gap leaves, and half of the room in any case. They are left out
    whole, from the first on.
    """
    form, around = form_of(tokenizer), gap.repository
    order = form.order(gap.order)
    asked, path = form.orders[order], ""
    start = [] if tokenizer.start is None else [tokenizer.start]
    others: list[list[int]] = []
    if around:
        files = form.among_files()
        asked, path = files.orders[order], around.path
        start += _ids(tokenizer, files.repository, name=around.name)
        others = [_ids(tokenizer, files.other, path=o.path, text=o.text) for o in around.others]
    before, after = tokenizer.encode(gap.before), tokenizer.encode_after(gap.after)
    room = most - len(start) - len(_ids(tokenizer, asked, path=path))
    others = _nearest(others, max(room // OTHERS, room - len(before) - len(after)))
    before, after = _near(before, after, room - sum(map(len, others)))
    last = _ids(tokenizer, asked, before, after, path=path)
    return [*start, *chain.from_iterable(others), *last]


def _ids(
    tokenizer: Tokenizer, part: str, before: Sequence[int] = (), after: Sequence[int] = (), **texts: str
) -> list[int]:  # fmt: skip
    """The ids of a part of a form; no text in it can write a control token."""
    around = {"{before}": before, "{after}": after}
    ids: list[int] = []
    for word in words(part):
        if word in around:
            ids += around[word]
        elif is_text(word):
            ids += tokenizer.encode_after(word.format(**texts))
        else:
            ids.append(tokenizer.id_of(word))
    return ids


def _nearest(others: list[list[int]], room: int) -> list[list[int]]:
    """As many of the last ones as have room together."""
    first = 0
    while sum(map(len, others[first:])) > max(room, 0):
        first += 1
    if first:
        warnings.warn(
            LcmWarning(f"of {len(others)} other files the first {first} do not fit the model's context, "
                       f"and are left out"),
            stacklevel=3,
        )  # fmt: skip
    return others[first:]


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
