"""`lcm chat` as a user runs it: asked once, and in turns in a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
from click.testing import CliRunner

from lcm import models
from lcm.cli import show
from lcm.cli.chat import command
from lcm.errors import FileError, UsageError
from lcm.generate.loading import load_model
from lcm.text.chat import Chat
from lcm.text.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
CODE = ["def add(a, b):\n    return a + b\n"] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = Tokenizer.train(CODE, vocabulary=300, special=special)
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    values = {"model_type": "llama", "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
              "vocab_size": tokenizer.vocabulary}  # fmt: skip
    model = models.fresh(values, 1)
    rng = np.random.default_rng(1)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.25
    models.save(model, folder)
    return folder


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("LCM_TUNE", "off")


def run(*arguments, of=command, **options):
    return CliRunner().invoke(of, [*map(str, arguments)], catch_exceptions=False, **options)


def asked(folder, *messages):
    chat = Chat([{"role": role, "content": content} for role, content in messages])
    return load_model(folder).complete(chat, max_tokens=9)


def test_the_answer_is_that_of_the_model(folder):
    wanted = asked(folder, ("system", "Be brief."), ("user", "Hi"))
    arguments = ("--model", folder, "-n", 9, "--system", "Be brief.")
    assert run(*arguments, "Hi").stdout == wanted.text + "\n"
    found = json.loads(run(*arguments, "--json", "-", input="Hi").stdout)
    assert (found["text"], found["tokens"]) == (wanted.text, list(wanted.tokens))
    assert (found["finish"], found["prompt_tokens"]) == (wanted.finish, wanted.prompt_tokens)


def test_a_template_of_the_users_is_used_instead(folder, tmp_path):
    (tmp_path / "a.jinja").write_text("{{ messages[-1].content }}")
    found = run("-m", folder, "-n", 9, "--json", "--template", tmp_path / "a.jinja", "def add")
    wanted = load_model(folder).complete("def add", max_tokens=9)
    assert json.loads(found.stdout)["tokens"] == list(wanted.tokens)


def test_show_names_the_templates_and_prints_them(folder, tmp_path):
    assert "\nchat        default\n" in run(folder, of=show.command).stdout
    assert json.loads(run(folder, "--json", of=show.command).stdout)["chat_templates"] == [
        "default"
    ]
    assert run(folder, "--template", of=show.command).stdout == TEMPLATE + "\n"
    printed = run(folder, "--template", "--json", of=show.command).stdout
    assert json.loads(printed) == {"default": TEMPLATE}


def test_mistakes_are_errors_of_ours(folder, tmp_path):
    assert "no QUESTION" in run("-m", folder).stderr
    with pytest.raises(UsageError, match="has no chat template"):
        run("Hi")
    with pytest.raises(FileError, match="cannot be read as a chat template"):
        run("-m", folder, "--template", tmp_path / "none", "Hi")
    (tmp_path / "wrong").write_text("{{")
    with pytest.raises(FileError, match="cannot be used: line 1"):
        run("-m", folder, "--template", tmp_path / "wrong", "Hi")


# In turns.


PLAIN = {"TERM": "dumb", "INPUTRC": "/dev/null", "PYTHONWARNINGS": "error"}


def shown(found):
    """What a terminal shows, without the orders that say how it takes what is pasted."""
    text = re.sub(rb"\x1b\[\?2004[hl]\r?", b"", found).decode("utf-8", "replace")
    return text.replace("\r\n", "\n")


def _take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what began these tests may ignore it


class Terminal:
    """A command in a terminal of its own, which is written to and read."""

    def __init__(self, *arguments):
        self._own, theirs = pty.openpty()
        start = "from lcm.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", start, *map(str, arguments)], start_new_session=True, close_fds=True,
            stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | PLAIN,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)

    def until(self, text):
        """What comes up to this text, and with it."""
        found = b""
        while text not in shown(found):
            assert select.select([self._own], [], [], 20)[0], f"{text!r} never came, only {found!r}"
            found += os.read(self._own, 1)
        return shown(found)

    def write(self, text):
        os.write(self._own, text.encode())

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._own)


@pytest.fixture
def terminal(folder):
    opened = []

    def terminal(*more):
        opened.append(Terminal("chat", "-m", folder, *more))
        opened[-1].until("\n> ")
        return opened[-1]

    yield terminal
    for one in opened:
        one.close()


def saved(terminal, path):
    terminal.write(f"/save {path}\n")
    terminal.until("\n> ")
    return [(m["role"], m["content"]) for m in json.loads(path.read_text(encoding="utf-8"))]


def test_each_answer_knows_what_was_said_before(terminal, folder, tmp_path):
    talk = terminal("-n", 9, "--system", "Be brief.")
    for question in ("Hi", "And now?"):
        talk.write(question + "\n")
        talk.until("\n> ")
    found = saved(talk, tmp_path / "a.json")
    assert found[0] == ("system", "Be brief.") and found[1] == ("user", "Hi")
    assert found[2] == ("assistant", asked(folder, *found[:2]).text)
    assert found[3] == ("user", "And now?")
    assert found[4] == ("assistant", asked(folder, *found[:4]).text)


def test_the_model_is_told_else_and_what_was_said_is_forgotten(terminal, folder, tmp_path):
    talk = terminal("-n", 3)
    for line in ("Hi", "/clear", "/system Be kind.", "Hello"):
        talk.write(line + "\n")
        talk.until("\n> ")
    wanted = [("system", "Be kind."), ("user", "Hello")]
    found = saved(talk, tmp_path / "a.json")
    assert found[:2] == wanted
    settings = {"max_tokens": 3}
    chat = Chat([{"role": role, "content": content} for role, content in wanted])
    assert found[2:] == [("assistant", load_model(folder).complete(chat, **settings).text)]


def test_a_mistake_is_one_line_and_the_talk_goes_on(terminal, tmp_path):
    talk = terminal("-n", 3)
    for line, text in (
        ("/what", "no /what; there are /system, /clear, /save, /help"),
        ("/save", "/save needs the name of a file"),
        ("a" * 999 + " b" * 999, "do not fit the model's context"),
        ("/help", "Ctrl-C stops an answer"),
    ):
        if "context" in text:
            for _ in range(4):  # a terminal takes so much in one line
                talk.write(line[:1500] + "\n")
                talk.until("\n> ")
        talk.write(line + "\n")
        assert text in talk.until("\n> ")


def test_ctrl_c_stops_an_answer_and_keeps_it_and_ctrl_d_leaves(terminal, tmp_path):
    talk = terminal()  # greedy: it never ends, and waits where more than a page was not read
    talk.write("Hi\n")
    talk.until("\n")
    talk.until("d")
    talk.write("\x03")
    talk.until(" …\n> ")  # its text may well have the rest in it
    (_, question), (_, answer) = saved(talk, tmp_path / "a.json")
    assert question == "Hi" and "d" in answer
    talk.write("\x04")
    deadline = time.monotonic() + 20
    while talk.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert talk.process.returncode == 0
