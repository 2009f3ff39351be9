"""lcm generate: continue a prompt, with every control over sampling."""

from typing import TYPE_CHECKING, Any

import click

from lcm.cli import options

if TYPE_CHECKING:
    from lcm.text.gap import Gap


@click.command()
@click.argument("prompt")
@options.model
@options.backend
@click.option(
    "--max-tokens", "-n", type=int, help="New tokens at most; if not given, 128 or what fits."
)
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option("--logprobs", default=0, help="With --json: the K likeliest tokens of each step.")
@options.as_json
@options.speculation
@options.sampling
def command(
    prompt: str, model: str, backend: str, max_tokens: int | None, stop: tuple[str, ...], logprobs: int,
    as_json: bool, **controls: object,
) -> None:  # fmt: skip
    """Continue PROMPT; - reads it from standard input.

    \b
    lcm generate "import os" -n 64 -t 0.8 --top-p 0.95 --seed 1
    lcm generate "def area(" --stop "\\n\\n" --json --logprobs 3
    """
    run(
        options.text_or_stdin(prompt), model, backend, max_tokens, stop, as_json, logprobs, controls
    )


def run(
    prompt: "str | Gap", model: str, backend: str, max_tokens: int | None, stop: tuple[str, ...],
    as_json: bool, logprobs: int, controls: dict[str, Any],
) -> None:  # fmt: skip
    """Print, as it comes, the prompt and its continuation, or what fills the gap; or one JSON object."""
    sampling = options.take_sampling(controls)
    from lcm.backend import dispatch
    from lcm.cli import tune
    from lcm.generate.loading import load_model

    with options.on_backend(backend):
        loaded = load_model(model)
        options.take_speculation(controls, loaded)
        settings: dict[str, Any] = {"max_tokens": max_tokens, "sampling": sampling, "stop": stop}
        if as_json:
            options.print_json(
                record(loaded.complete(prompt, logprobs=logprobs, **settings), loaded)
            )
        else:
            pieces = loaded.stream(prompt, **settings)
            piece = next(pieces)  # what is wrong with the prompt shows before anything is printed
            click.echo((prompt if isinstance(prompt, str) else "") + piece.text, nl=False)
            for piece in pieces:
                click.echo(piece.text, nl=False)
            click.echo()
            _tell(piece.work)
        for text_model in filter(None, (loaded, loaded.draft)):
            text_model.prefixes.save()  # when all is said: the next run gains
        tune.automatic(dispatch.seen)


def _tell(work: Any) -> None:
    if work.reused_tokens:
        what = f"{work.reused_tokens} of the prompt's {work.prompt_tokens} tokens were read before"
        click.echo(f"lcm: note: {what}; LCM_PREFIX_FILES=0 keeps none", err=True)


def record(completion: Any, loaded: Any) -> dict[str, Any]:
    """A completion as plain data."""
    from lcm.backend import dispatch

    found = {
        "model": str(loaded.folder),
        "text": completion.text,
        "finish": completion.finish,
        "tokens": list(completion.tokens),
        "prompt_tokens": completion.prompt_tokens,
        "reused_tokens": completion.reused_tokens,
        "drafted_tokens": completion.drafted_tokens,
        "accepted_tokens": completion.accepted_tokens,
        "prompt_seconds": completion.prompt_seconds,
        "seconds": completion.seconds,
        "backends": dispatch.ran(),
    }
    if completion.pieces[0].top:
        found["logprobs"] = [
            {"token": p.token, "logprob": p.logprob, "top": [list(t) for t in p.top]}
            for p in completion.pieces
            if p.token is not None
        ]
    return found
