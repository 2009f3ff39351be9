"""lcm chat: ask a model that has learned to answer, once or in turns."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lcm.cli import options

if TYPE_CHECKING:
    from lcm.text.chat import Chat

HELP = """\
/system TEXT   what the model is told before all else; without TEXT it is told nothing
/clear         begin anew
/save FILE     write the messages as JSON
Ctrl-C stops an answer, Ctrl-D leaves."""


@click.command()
@click.argument("question", required=False)
@options.model
@options.backend
@click.option("--system", "-s", default="", help="What the model is told before all else.")
@click.option(
    "--template", type=click.Path(path_type=Path), metavar="FILE",
    help="A Jinja template to use instead of the model's own.",
)  # fmt: skip
@click.option(
    "--max-tokens", "-n", type=int, help="New tokens at most; if not given, what the context holds."
)
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@options.as_json
@options.speculation
@options.sampling
def command(
    question: str | None, model: str, backend: str, system: str, template: Path | None,
    max_tokens: int | None, stop: tuple[str, ...], as_json: bool, **controls: Any,
) -> None:  # fmt: skip
    """Answer QUESTION; - reads it from standard input. Without one, talk in turns.

    \b
    lcm chat -m qwen2.5-coder-1.5b-instruct "How do I reverse a list in place?"
    git diff | lcm chat -m mine - --system "Write a commit message for this." --json
    lcm chat -m mine -t 0.7 --top-p 0.9
    """
    sampling = options.take_sampling(controls)
    if question is None and (as_json or not sys.stdin.isatty()):
        raise click.UsageError("no QUESTION; - reads it from standard input")
    from lcm.generate.loading import load_model
    from lcm.text.templates import read

    asked = None if question is None else options.text_or_stdin(question)
    settings = {"max_tokens": max_tokens, "sampling": sampling, "stop": stop}
    with options.on_backend(backend):
        source = None if template is None else read(template)
        talk = Talk(load_model(model), source, settings, system)
        options.take_speculation(controls, talk.model)
        if asked is None:
            _in_turns(talk)
        elif as_json:
            _print_record(talk, asked)
        else:
            _print(talk.answer(asked))
        _learn(talk)


class Talk:
    """A conversation that is going on; its messages are only those that have been answered."""

    def __init__(
        self, model: Any, template: str | None, settings: dict[str, Any], system: str
    ) -> None:
        self.model = model
        self.messages: list[dict[str, str]] = []
        self.system = system
        self._template = template
        self._settings = settings

    def told(self) -> list[dict[str, str]]:
        """All messages so far, with what the model is told first."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.messages]

    def ask(self, question: str) -> "Chat":
        """The prompt for an answer to this."""
        from lcm.text.chat import Chat

        return Chat([*self.told(), {"role": "user", "content": question}], template=self._template)

    def answer(self, question: str) -> Iterator[str]:
        """The answer as it comes; what has come of it is kept when it is left off."""
        said: list[str] = []
        try:
            for piece in self.model.stream(self.ask(question), **self._settings):
                said.append(piece.text)
                yield piece.text
        finally:
            if any(said):
                self.messages.append({"role": "user", "content": question})
                self.messages.append({"role": "assistant", "content": "".join(said)})

    def complete(self, question: str) -> Any:
        return self.model.complete(self.ask(question), **self._settings)


def _print(texts: Iterator[str]) -> None:
    for text in texts:
        click.echo(text, nl=False)
    click.echo()


def _print_record(talk: Talk, question: str) -> None:
    from lcm.cli.generate import record

    options.print_json(record(talk.complete(question), talk.model))


def _learn(talk: Talk) -> None:
    """Keep what was read, and measure, when all is said: the next run gains."""
    from lcm.backend import dispatch
    from lcm.cli import tune

    talk.model.prefixes.save()
    tune.automatic(dispatch.seen)


def _in_turns(talk: Talk) -> None:
    from lcm.errors import LcmError
    from lcm.text.chat import source_of

    source_of(talk.ask(""), talk.model.tokenizer)  # a model without one says so before it is asked
    _edit_lines()
    click.echo(f"{talk.model.folder}; /help says what else there is", err=True)
    while (line := _line()) is not None:
        try:
            if line.startswith("/"):
                _obey(talk, line)
            elif line.strip():
                _print_until_stopped(talk.answer(line))
        except LcmError as error:
            click.echo(f"lcm: {error}", err=True)


def _edit_lines() -> None:
    """A line is edited as in a shell, and what is pasted into it is one question, with all its lines."""
    try:
        import readline
    except ImportError:  # a Python without it
        return
    readline.parse_and_bind("set enable-bracketed-paste on")


def _line() -> str | None:
    """The next line; None where there are no more."""
    while True:
        try:
            return input("> ")
        except EOFError:
            click.echo()
            return None
        except KeyboardInterrupt:  # as in a shell: the line is thrown away
            click.echo()


def _print_until_stopped(texts: Any) -> None:
    with closing(texts):
        try:
            _print(texts)
        except KeyboardInterrupt:
            click.echo(" …")


def _obey(talk: Talk, line: str) -> None:
    from lcm.errors import UsageError

    name, _, rest = line.partition(" ")
    orders: dict[str, Callable[[Talk, str], None]] = {
        "/system": _tell, "/clear": _clear, "/save": _save, "/help": _help,
    }  # fmt: skip
    if name not in orders:
        raise UsageError(f"no {name}; there are {', '.join(orders)}")
    orders[name](talk, rest.strip())


def _tell(talk: Talk, text: str) -> None:
    talk.system = text


def _clear(talk: Talk, rest: str) -> None:
    talk.messages.clear()


def _save(talk: Talk, name: str) -> None:
    import json

    from lcm.errors import UsageError
    from lcm.files.atomic import write_atomically

    if not name:
        raise UsageError("/save needs the name of a file")
    text = json.dumps(talk.told(), indent=2, ensure_ascii=False) + "\n"
    write_atomically(Path(name).expanduser(), lambda file: file.write(text.encode("utf-8")))


def _help(talk: Talk, rest: str) -> None:
    click.echo(HELP)
