"""lcm complete: continue a piece of code, up to the end of the block that it begins."""

import click

from lcm.cli import options


@click.command()
@click.argument("prompt")
@options.model
@options.backend
@click.option(
    "--max-tokens", "-n", type=int, help="New tokens at most; if not given, 128 or what fits."
)
@click.option("--whole", is_flag=True, help="Do not stop where the block ends.")
@options.as_json
@options.sampling
def command(
    prompt: str, model: str, backend: str, max_tokens: int | None, whole: bool, as_json: bool,
    **controls: object,
) -> None:  # fmt: skip
    """Continue PROMPT, a piece of code; - reads it from standard input.

    \b
    lcm complete "def read_json(path):"
    cat half.py | lcm complete - --model runs/mine
    """
    from lcm.cli.generate import run

    stop = () if whole else BLOCK_ENDS
    run(options.text_or_stdin(prompt), model, backend, max_tokens, stop, as_json, 0, controls)


# What begins at the left margin begins something new.
BLOCK_ENDS = (
    "\ndef ",
    "\nclass ",
    "\n@",
    "\nif __name__",
    "\n\n\n",
    "\n# ",
    "\nimport ",
    "\nfrom ",
)
