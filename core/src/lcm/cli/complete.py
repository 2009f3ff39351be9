"""lcm complete: continue a piece of code up to the end of its block, or fill a gap in a file."""

import re
from pathlib import Path

import click

from lcm.cli import options


@click.command()
@click.argument("prompt")
@options.model
@options.backend
@click.option(
    "--max-tokens", "-n", type=int, help="New tokens at most; if not given, 128 or what fits."
)
@click.option(
    "--order", type=click.Choice(["psm", "spm"]),
    help="For a gap: read what is before it first (psm), or what is behind it (spm), which makes typing "
    "cheap; if not given, the model's usual order.",
)
@click.option(
    "--with", "others", multiple=True, metavar="FILE",
    help="For a gap: another file of the repository to read first, the nearest one last; may be given "
    "several times.",
)
@click.option("--whole", is_flag=True, help="Do not stop where the block ends.")
@options.as_json
@options.speculation
@options.sampling
def command(
    prompt: str, model: str, backend: str, max_tokens: int | None, order: str | None,
    others: tuple[str, ...], whole: bool, as_json: bool, **controls: object,
) -> None:  # fmt: skip
    """Continue PROMPT, a piece of code; - reads it from standard input. Or FILE:LINE:COLUMN: print what
    belongs there, between what is before it and behind it; for models that have learned to fill gaps.

    \b
    lcm complete "def read_json(path):"
    cat half.py | lcm complete - --model runs/mine
    lcm complete half.py:12:5 --model qwen2.5-coder --with shapes.py
    """
    from lcm.cli.generate import run
    from lcm.text.gap import Gap

    if place := re.fullmatch(r"(\S+):(\d+):(\d+)", prompt):
        path, line, column = Path(place[1]), int(place[2]), int(place[3])
        gap = Gap.at(path, line, column, order=order or "", others=[*map(Path, others)])
        run(gap, model, backend, max_tokens, (), as_json, 0, controls)
        return
    if order or others:
        raise click.UsageError("--order and --with are for a gap, FILE:LINE:COLUMN")
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
