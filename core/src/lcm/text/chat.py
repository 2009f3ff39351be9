"""Conversations: messages as the tokens that a model has learned to read them in.

The text between the messages, with its control tokens, is the template's. What stands in a message is text:
no control token begins in it, so that `<|im_end|>` in a question does not end the question.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lcm.errors import DataError, LcmError, UsageError
from lcm.text.rendering import render
from lcm.text.templates import DEFAULT
from lcm.text.tokenizer import MARK, Tokenizer

TOOL_USE = "tool_use"  # the name of the template for when there are tools
ANSWER = "\ufdd1"  # stands for an answer; like MARK, no character of any text
NO_CHARACTER = re.compile(f"[{MARK}\ud800-\udfff]")  # surrogates are halves


@dataclass(frozen=True)
class Chat:
    """A conversation, as a prompt for the answer to it.

    Messages are `{"role": "user", "content": "…"}` and whatever else the template knows, tools are JSON
    schemas, `variables` what a template may be told besides, such as `enable_thinking`. A `template` is the
    source of one to use instead of the model's own.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def text(self, tokenizer: Tokenizer) -> str:
        """What the model reads, up to where its answer begins; not to be told from it is who wrote what."""
        return self._render(tokenizer, self.messages, asking=True).replace(MARK, "")

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """The tokens of that: control tokens are the template's alone, the one that starts a text too."""
        ids = tokenizer.encode_marked(self._render(tokenizer, self.messages, asking=True))
        if not ids:
            raise UsageError("the chat template makes no text of these messages")
        return ids

    def ends(self, tokenizer: Tokenizer) -> frozenset[int]:
        """The control token that the template puts behind an answer, if it does."""
        turn = ({"role": "user", "content": "x"}, {"role": "assistant", "content": ANSWER})
        try:
            text = self._render(tokenizer, turn, asking=False)
        except LcmError:  # this template will not have so short a conversation
            return frozenset()
        names = "|".join(map(re.escape, sorted(tokenizer.special, key=len, reverse=True)))
        found = re.match(rf"\s*({names})", text.rpartition(ANSWER)[2]) if ANSWER in text else None
        return frozenset([tokenizer.special[found[1]]]) if found and names else frozenset()

    def _render(
        self, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], *, asking: bool
    ) -> str:
        """The text of these messages with marks in it."""
        source = source_of(self, tokenizer)
        mark = _Marks(tokenizer, source)
        values = {
            **tokenizer.roles,
            "tools": mark.anywhere(self.tools),
            "documents": mark.anywhere(self.documents),
            "add_generation_prompt": asking,
            **mark.anywhere(self.variables),
            "messages": [mark.message(one) for one in messages],
        }
        return render(source, values)


def source_of(chat: Chat, tokenizer: Tokenizer) -> str:
    """The template that is used for a conversation; `UsageError` where there is none."""
    if chat.template is not None:
        return chat.template
    sources = tokenizer.templates
    if not sources:
        raise UsageError(
            "this model has no chat template: it continues texts (lcm complete) and has not learned to "
            "answer; if it has, name its template with --template FILE"
        )
    name = TOOL_USE if chat.tools and TOOL_USE in sources else DEFAULT
    if name not in sources:
        raise UsageError(
            f"this model has no chat template {name!r}, only {', '.join(sources)}; "
            "write one of them to a file (lcm show --template) and name it with --template FILE"
        )
    return sources[name]


class _Marks:
    """Puts a mark behind each character of a message that could begin a control token.

    Tags such as `<think>` are left alone where the template looks for them: those in its source that are no
    control tokens, and in what the assistant has said those that the tokenizer's file calls ordinary.
    """

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        begins = re.escape("".join({name[0] for name in tokenizer.special}))
        tags = set(re.findall(r"</?\w+>", source)) - tokenizer.special.keys()
        self._any = _beginnings(begins, tags)
        self._said = _beginnings(begins, tags | tokenizer.tags.keys())

    def anywhere(self, value: Any) -> Any:
        return self._in(value, self._any)

    def message(self, message: Mapping[str, Any]) -> Any:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UsageError(
                f"a message is a dictionary with a role and a content, not {message!r:.60}"
            )
        return self._in(message, self._said if message["role"] == "assistant" else self._any)

    def _in(self, value: Any, begins: re.Pattern[str]) -> Any:
        try:
            return _marked(value, begins)
        except RecursionError:
            raise UsageError("a message holds lists or dictionaries that are too deep") from None


def _beginnings(characters: str, tags: set[str]) -> re.Pattern[str]:
    if not characters:
        return re.compile("(?!)")
    left = "|".join(map(re.escape, tags))
    return re.compile(f"(?!{left})[{characters}]" if tags else f"[{characters}]")


def _marked(value: Any, begins: re.Pattern[str]) -> Any:
    """Plain data with a mark wherever a text has such a beginning."""
    if isinstance(value, str):
        if (found := NO_CHARACTER.search(value)) is not None:
            raise DataError(
                f"a message holds U+{ord(found[0]):04X}, which is no character; remove it"
            )
        return begins.sub(lambda found: found[0] + MARK, value)
    if isinstance(value, Mapping):
        return {_marked(key, begins): _marked(inner, begins) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(inner, begins) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise UsageError(f"a message holds texts, numbers, lists and dictionaries, not {value!r:.60}")
