"""Fill-in-the-middle: how families of models are asked for what belongs between two pieces of a text.

Bavarian et al., 2022. Each learned it with control tokens of its own, by which it is known here.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from lcm.errors import FileError, LcmWarning, UsageError
from lcm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Gap:
    """A place in a text: what is before it, and what is behind it."""

    before: str
    after: str

    @staticmethod
    def at(path: Path, line: int, column: int) -> "Gap":
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
        return Gap(text[:split], text[split:])


@dataclass(frozen=True)
class Form:
    """The tokens that stand before the first piece, before the last one, and before what is asked for."""

    before: str
    after: str
    gap: str = ""
    after_first: bool = False


FORMS = (
    Form("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    Form("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite Code
    Form("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    Form("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    Form("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    Form("[PREFIX]", "[SUFFIX]", after_first=True),  # Codestral
)
AFTER = 4  # one part in so many is for what is behind the gap, where not all of it fits


def gap_ids(tokenizer: Tokenizer, gap: Gap, most: int) -> list[int]:
    """The prompt, of `most` tokens at most: what is far from the gap is left out, and that is said."""
    form = form_of(tokenizer)
    names = [name for name in (form.before, form.after, form.gap) if name]
    before, after = tokenizer.encode(gap.before), tokenizer.encode_after(gap.after)
    begin = [] if tokenizer.start is None else [tokenizer.start]
    before, after = _near(before, after, most - len(names) - len(begin))
    first = [tokenizer.id_of(form.before), *before]
    last = [tokenizer.id_of(form.after), *after]
    parts = [*last, *first] if form.after_first else [*first, *last]
    return [*begin, *parts, *([tokenizer.id_of(form.gap)] if form.gap else [])]


def form_of(tokenizer: Tokenizer) -> Form:
    """The form that the tokenizer has the tokens of; `UsageError` if it has those of none."""
    for form in FORMS:
        if all(name in tokenizer for name in (form.before, form.after, form.gap) if name):
            return form
    raise UsageError(
        "this model has no tokens for filling gaps; give it the text before the gap as a prompt"
    )


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
