"""Jinja templates as Hugging Face's models have them, run with limits: they come with strangers' files.

The engine is MiniJinja, which gives a template no way to Python. What is here beside it is what transformers
gives its templates: `raise_exception`, `strftime_now`, its own `tojson`, and blocks marked as `generation`.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NoReturn

from lcm.errors import FileError, LcmError, UsageError

STEPS = 1_000_000  # of the engine, some 0.2 s; a message takes about a hundred
LONGEST = 65_536  # characters of a template; few have more than ten thousand
STACK = (
    2**28
)  # bytes for the engine, which goes down as deep as an expression of that length can nest
RAW = 1_500_000_000  # steps times the template's length: what it may write out of itself, three steps a time
LARGEST = 64_000_000  # characters put into a template's places: more than any context holds
GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
PLACE = re.compile(r" \(in template:\d+\)$")
ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\u(fdd[0-9a-f])")


def render(source: str, variables: Mapping[str, Any]) -> str:
    """The text that a template makes of plain data: texts, numbers, lists and dictionaries.

    `UsageError` where the template itself refuses the data; `FileError` where it is wrong, or goes beyond
    the limits on its steps and its text. What it puts together without writing it out has no limit.
    """
    import minijinja

    if len(source) > LONGEST:
        raise _too_much(f"has {len(source):,} characters, where {LONGEST:,} are allowed")
    environment = minijinja.Environment(
        trim_blocks=True, lstrip_blocks=True, auto_escape_callback=lambda name: False, debug=False,
        fuel=min(STEPS, RAW // (len(source) + 1)), finalizer=_Counter().count,
        filters={"tojson": _to_json},
        globals={"raise_exception": _refuse, "strftime_now": _now},
    )  # fmt: skip
    try:
        plain = GENERATION.sub(_as_condition, source)
        return _with_room(lambda: environment.render_str(plain, "template", **variables))
    except LcmError:
        raise
    except minijinja.TemplateError as error:
        if error.kind == "OutOfFuel":
            raise _too_much("takes too many steps") from None
        what = PLACE.sub("", (error.detail or error.message).splitlines()[0])
        raise _wrong(f"line {error.line}: {what}") from None
    except Exception as error:  # of a filter or a function that was given what it does not take
        raise _wrong(" ".join(str(error).split())) from None


def _with_room(work: Callable[[], str]) -> str:
    """What `work` returns, in a thread with a large stack, of which only what is used takes memory."""
    before = threading.stack_size(STACK)
    try:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(work)
    finally:
        threading.stack_size(before)
    return done.result()


def _too_much(what: str) -> FileError:
    return _wrong(f"it {what}")


def _wrong(what: str) -> FileError:
    return FileError(f"the chat template cannot be used: {what}; name another with --template")


class _Counter:
    """Ends a template that writes too much."""

    def __init__(self) -> None:
        self._left = LARGEST

    def count(self, value: Any) -> Any:
        """The value as it is written, or NotImplemented for the engine's own way."""
        written = str(value)
        self._left -= len(written)
        if self._left < 0:
            raise _too_much(f"writes more than {LARGEST:,} characters")
        plain = written if isinstance(value, str) else _unescaped(written)
        return NotImplemented if plain == written else plain


def _as_condition(block: re.Match[str]) -> str:
    """Which tokens are the model's own is for training; here it is a block that is always taken."""
    left, end, right = block.groups()
    return f"{{%{left} {'endif' if end else 'if true'} {right}%}}"


def _refuse(message: str) -> NoReturn:
    raise UsageError(
        f"the model's chat template refuses these messages: {' '.join(str(message).split())}"
    )


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:  # fmt: skip
    """As transformers gives it: nothing is escaped for HTML."""
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return _unescaped(text)


def _unescaped(text: str) -> str:
    """Marks as what they are, in data that is written so that it could be read again."""
    return ESCAPE.sub(lambda found: found[1] + chr(int(found[2], 16)), text)
