"""Options that several commands share."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

model = click.option(
    "--model", "-m", default="", metavar="MODEL",
    help="A folder with a model, a GGUF file, a training run, an installed one's name, or hub:owner/name.",
)  # fmt: skip
backend = click.option(
    "--backend", "-b", default="", metavar="NAME", help="Run every op that it has on this backend."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def sampling(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that make a `Sampling`, as one dictionary."""
    every: list[Callable[..., Any]] = [
        click.option("--temperature", "-t", default=0.0, show_default=True, help="0 is greedy."),
        click.option("--top-k", default=0, help="Keep the K most likely tokens; 0 keeps all."),
        click.option("--top-p", default=1.0, help="Keep the most likely that together reach P."),
        click.option(
            "--min-p", default=0.0, help="Keep those at least P times as likely as the best."
        ),
        click.option("--repetition-penalty", default=1.0, help="Above 1 discourages repeating."),
        click.option("--presence-penalty", default=0.0, help="Subtracted from what was generated."),
        click.option("--frequency-penalty", default=0.0, help="Subtracted for each time it was."),
        click.option("--seed", type=int, help="Make random choices the same again."),
    ]
    for option in reversed(every):
        command = option(command)
    return command


SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
            "frequency_penalty", "seed")  # fmt: skip


def take_sampling(options: dict[str, Any]) -> Any:
    """The `Sampling` that the options ask for; they are removed from the dictionary."""
    from lcm.generate.sampling import Sampling

    return Sampling(**{name: options.pop(name) for name in SAMPLING})


def speculation(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options by which a model guesses several tokens at a time; the text is the same."""
    return click.option(
        "--speculate", type=click.Choice(["ngram", "off"]),
        help="Whether to guess tokens from what is repeated; if not given, as LCM_SPECULATE says.",
    )(click.option(
        "--draft", metavar="MODEL", help="A smaller model of the same tokens that guesses instead."
    )(command))  # fmt: skip


def take_speculation(options: dict[str, Any], model: Any) -> None:
    """Let the model guess as the options say; they are removed from the dictionary."""
    speculate, draft = options.pop("speculate"), options.pop("draft")
    if draft and speculate:
        raise click.UsageError("--draft and --speculate exclude each other")
    model.speculate = speculate or ""
    if draft:
        from lcm.generate.loading import load_model

        model.draft = load_model(draft)


@contextlib.contextmanager
def on_backend(name: str) -> Iterator[None]:
    """Inside, ops run on the backend asked for, if one was."""
    if not name:
        yield
        return
    from lcm.backend.dispatch import use_backend

    with use_backend(name):
        yield


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def text_or_stdin(text: str) -> str:
    """The argument itself, or standard input for `-`."""
    return sys.stdin.read() if text == "-" else text
