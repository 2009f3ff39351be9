"""Chat templates give the text that Jinja gives with transformers' settings, for many families."""

import contextlib
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lcm.errors import FileError, UsageError
from lcm.text.chat import Chat
from lcm.text.rendering import render
from lcm.text.tokenizer import Tokenizer

TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parent / "chat_templates").glob("*.jinja"))
}
CONTROL = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "[INST]",
    "[/INST]",
    "<|eot_id|>",
    "<|EOT|>",
)
TOOL = {
    "type": "function",
    "function": {
        "name": "größe",
        "description": "Wie groß ist <b>ein</b> Ding & 'noch' eins?",
        "parameters": {
            "type": "object",
            "properties": {
                "ding": {"type": "string"},
                "in": {"enum": ["cm", "m"], "default": None},
            },
            "required": ["ding"],
            "strict": True,
            "least": 2.0,
        },
    },
}


def said(*contents, system=None):
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return [{"role": "system", "content": system}] * (system is not None) + turns


def called(content):
    function = {"name": "größe", "arguments": {"ding": "Öl <1>", "n": [1, 2.5, None, True]}}
    call = {"type": "function", "id": "abcdefghi", "function": function}
    result = {"role": "tool", "content": '{"cm": 3}', "tool_call_id": "abcdefghi"}
    return [
        *said("Wie groß?"), {"role": "assistant", "content": content, "tool_calls": [call]}, result,
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nDrei."}, *said("Danke"),
    ]  # fmt: skip


CHATS = {
    "one": (said("Hi"), None),
    "system": (said("Hi", system="Be brief."), None),
    "empty-system": (said("Hi", system=""), None),
    "turns": (said("a", "b", "c", "d", "e", system="  s\n"), None),
    "answered": (said("a", "b"), None),
    "whitespace": (said(" a \n\n", "\n b", "\tc\r\n  "), None),
    "unicode": (said("größer ≥ 1 🦜 e\u0301 \u200b", "日本語"), None),
    "empty": (said("", "", ""), None),
    "code": (said("if a[i] < b && c > d:\n    {{ x }} {% y %} '\"\\n'", "x = '<|im_end|>'", "ok"), None),
    "tools": (said("Wie groß?", system="Sei kurz."), [TOOL]),
    "three-tools": (said("Wie groß?"), [TOOL] * 3),
    "calls": (called(""), [TOOL]),
    "calls-with-text": (called("Moment."), [TOOL]),
    "thought": (said("a", "<think>\nx\n</think>\n\nb", "c", "<think>y</think>d"), None),
    "assistant-first": (said("a", "b")[1:], None),
    "twice-user": (said("a") * 2, None),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"},
                                            {"type": "text", "text": "<b>"}]}], None),
    "no-content": ([{"role": "user", "content": "a"}, {"role": "assistant", "content": None}], None),
    "none": ([], None),
}  # fmt: skip


class Generation(Extension):
    """The blocks of transformers that mark what the model said; what is in them is written."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller):
        return caller()


def refuse(message):
    raise TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def theirs(source, messages, tools, asking=True):
    """As `apply_chat_template` of transformers sets Jinja up."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source).render(
        messages=messages, tools=tools, documents=None, add_generation_prompt=asking,
        bos_token="<s>", eos_token="</s>",
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer.train(["def f(x):\n    return x\n" * 9], vocabulary=300, special=CONTROL)
    return Tokenizer(made._facts, {"bos_token": "<s>", "eos_token": {"content": "</s>"}})


# Contents in parts are for templates that know them: others write them as Python does, or refuse them here.
CASES = [(f, n) for f in TEMPLATES for n in CHATS if n != "parts" or f == "parts"]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_chat_is_written_as_jinja_writes_it(family, name, tokenizer):
    messages, tools = CHATS[name]
    chat = Chat(messages, tools, template=TEMPLATES[family])
    try:
        wanted = theirs(TEMPLATES[family], messages, tools)
    except (TemplateError, TypeError):
        with pytest.raises((UsageError, FileError)):
            chat.text(tokenizer)
        return
    assert chat.text(tokenizer) == wanted


@pytest.mark.parametrize("family", TEMPLATES)
def test_each_family_writes_a_chat_of_several_turns(family, tokenizer):
    text = Chat(said("first", "second", "third"), template=TEMPLATES[family]).text(tokenizer)
    assert text.index("first") < text.index("second") < text.index("third")


# The mark itself, and what Python alone takes for blanks.
STRANGE = "\ufdd0\x1c\x1d\x1e\x1f"


@settings(max_examples=30, deadline=None)
@given(contents=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=STRANGE)),
                         min_size=1, max_size=5))  # fmt: skip
@pytest.mark.parametrize("family", TEMPLATES)
def test_whatever_is_said_is_written_as_jinja_writes_it(family, contents, tokenizer):
    found = Chat(said(*contents), template=TEMPLATES[family]).text(tokenizer)
    assert found == theirs(TEMPLATES[family], said(*contents), None)


WAYS = (
    "{{ messages | tojson }}",
    "{{ messages | tojson(indent=2) }}",
    "{{ messages | tojson(separators=(',', ':'), sort_keys=true) }}",
    "{{ messages | tojson(ensure_ascii=true) }}",
    "{{ messages[0] }} {{ [1, 2.0, none, true, 'a', \"it's\"] }} {{ {'a': (1, 2)} }}",
    "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 4 }} {{ 2 ** 3 }} {{ -1 | abs }} {{ 1 < 2 <= 2 }}",
    "{{ messages[0].get('content', '') }}{{ messages[0]['nothing'] }}{{ messages[0].items() | list }}",
    "{{ messages | map(attribute='role') | unique | join(', ') }} {{ messages | length }}",
    "{% set a = namespace(n=0) %}{% for m in messages %}{% set a.n = loop.index %}{% endfor %}{{ a.n }}",
    "{{ messages[-1].content.split('a') }}{{ messages[0].content.upper().strip().replace('B', '') }}",
    "{% for m in messages if m.role == 'user' %}{{ loop.previtem.content if not loop.first }}{% endfor %}",
    "{{ '%s, %d' | format('a', 3) }}{{ 'a' ~ 1 ~ none }}{{ nothing }}{{ nothing is defined }}",
    "  {% if true %}\n  a\n  {% endif %}\n  {#- c -#}  b {%+ if true %}c{% endif +%}\n\n",
    "{% filter trim %} {{ bos_token }} {% endfilter %}{% set x %}é<{% endset %}{{ x }}{{ x | length }}",
    "{% macro f(a, b='c') %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(b=2, a=3) }}{{ f(*[4, 5]) }}",
    "{{ tools is none }}{{ documents is none }}{{ messages is iterable }}{{ messages[0] is mapping }}",
)  # fmt: skip


@pytest.mark.parametrize("source", WAYS)
def test_each_way_to_write_gives_what_it_gives_in_jinja(source, tokenizer):
    messages = said(" bab <b> é", "'a' & \"b\"", "c")
    assert Chat(messages, template=source).text(tokenizer) == theirs(source, messages, None)


# Limits.

ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ messages[0].content * 9999 }}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}" + "x" * 60_000 + "{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ range(10 ** 15) | list | length }}",
    "{{ 'a' * 10 ** 15 }}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set s %}{{ ns.s }}{{ ns.s }}{% endset %}"
    "{% set ns.s = s %}{% endfor %}",
)  # fmt: skip


@pytest.mark.parametrize("source", ENDLESS, ids=range(len(ENDLESS)))
def test_a_template_without_end_is_ended_in_one_line(source):
    with pytest.raises(FileError, match=r"^the chat template cannot be used: .*--template$"):
        render(source, {"messages": said("a" * 9)})


@pytest.mark.parametrize(
    "unit", ["-", "1+", "1**", "x.", "not ", "(", "[", "1 if 1 else ", "{% if x %}"]
)
def test_a_template_as_deep_as_can_be_ends_in_one_line_too(unit):
    room = 65_536 - len("{{ 1 }}")
    with contextlib.suppress(FileError):
        render(f"{{{{ {unit * (room // len(unit))}1 }}}}", {"x": 1})
    with pytest.raises(FileError, match="has 65,537 characters, where 65,536 are allowed"):
        render("a" * 65_537, {})


@pytest.mark.parametrize("name", ["messages", "strftime_now", "raise_exception", "messages.append"])
def test_a_template_has_no_way_to_python(name):
    source = "{% for way in ['__class__', '__globals__', '__self__', '__code__', '__init__'] %}" + (
        f"{{{{ {name}[way] is defined }}}}{{{{ ({name} | attr(way)) is defined }}}}{{% endfor %}}"
    )
    assert render(source, {"messages": said("a")}) == "False" * 10


def test_a_template_reads_no_file(tmp_path):
    (tmp_path / "a").write_text("secret")
    for path in (tmp_path / "a", "template"):
        with pytest.raises(FileError, match="cannot be used"):
            render(f"{{% include {str(path)!r} %}}", {})


def test_what_a_template_refuses_is_said_in_its_words():
    with pytest.raises(UsageError, match=r"refuses these messages: System role not supported$"):
        render(TEMPLATES["gemma2"], {"messages": said("a", system="b"), "bos_token": ""})


def test_a_mistake_in_a_template_is_said_with_its_line():
    with pytest.raises(FileError, match=r"line 2: unknown statement what; name another"):
        render("a\n{% what %}", {})


@pytest.mark.parametrize(
    "source", ["{{ strftime_now() }}", "{{ strftime_now(3) }}", "{{ raise_exception() }}", "{{ a.b.c }}",
               "{{ [1] | tojson(indent='a', what=1) }}", "{{ messages[0].content() }}", "{{ 1 / 0 }}"]
)  # fmt: skip
def test_a_mistake_at_work_is_one_line(source):
    with pytest.raises(FileError, match=r"^the chat template cannot be used: .*--template$"):
        render(source, {"messages": said("a")})


def test_a_template_cannot_change_the_messages(tokenizer):
    messages = said("a")
    Chat(
        messages, template="{{ messages.append({'role': 'user'}) }}{{ messages[0].clear() }}"
    ).text(tokenizer)
    assert messages == said("a")


def test_the_engine_is_loaded_for_a_chat_and_for_nothing_else():
    code = (
        "import sys; from lcm.text.rendering import render; import lcm.generate.loading, lcm.cli.chat\n"
        "before = 'minijinja' in sys.modules; render('', {}); print(before, 'minijinja' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
