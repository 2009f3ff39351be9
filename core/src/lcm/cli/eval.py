"""lcm eval: how well a model predicts files that it has not seen."""

import click

from lcm.cli import options


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@options.model
@options.backend
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens that are seen at once; the model's own if not given.",
)
@click.option(
    "--batch", default=4, show_default=True, type=click.IntRange(1), help="Sequences at a time."
)
@click.option("--limit", default=0, help="Batches at most; 0 takes all.")
@options.as_json
def command(
    paths: tuple[str, ...], model: str, backend: str, context: int | None, batch: int, limit: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Measure perplexity and bits per byte on the source files in PATHS.

    \b
    lcm eval src/
    lcm eval tests/ --model runs/mine --json
    """
    from lcm.errors import UsageError
    from lcm.generate.loading import load_model
    from lcm.train.corpus import collect
    from lcm.train.evaluation import as_split, evaluate

    with options.on_backend(backend):
        loaded = load_model(model)
        longest = loaded.model.context
        if context and context > longest:
            raise UsageError(f"--context {context} is more than the model's {longest}")
        split = as_split(collect(list(paths)), loaded.tokenizer)
        batches = split.evaluation_batches(batch, context or longest, limit=limit or None)
        found = evaluate(loaded.model, batches, loaded.tokenizer.byte_lengths())
    record = {
        "loss": found.loss,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "tokens": found.tokens,
        "bytes": found.bytes,
    }
    if as_json:
        options.print_json(record)
        return
    for name, value in record.items():
        click.echo(
            f"{name.replace('_', ' '):14} {value:,.4f}"
            if isinstance(value, float)
            else f"{name:14} {value:,}"
        )
