"""lcm quantize: write a model as a GGUF file of fewer bits."""

from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "-f",
    "recipe",
    default="q4_k_m",
    show_default=True,
    help="A recipe, such as q8_0 or q4_k_m.",
)
@click.option(
    "--importance",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What llama-imatrix measured: errors of important columns count more.",
)
def command(model: str, out: Path, recipe: str, importance: Path | None) -> None:
    """Write MODEL to the GGUF file OUT, in fewer bits.

    \b
    lcm quantize tinycode tinycode-q8.gguf --format q8_0
    lcm complete "def read_json(path):" --model tinycode-q8.gguf
    """
    from lcm.errors import UsageError
    from lcm.generate.loading import find_model
    from lcm.models.conversion import to_gguf
    from lcm.models.importance import read_importance

    if out.suffix != ".gguf":
        raise UsageError(f"{out}: a quantised model is a GGUF file: name one that ends in .gguf")
    source = find_model(model)
    to_gguf(source, out, recipe.lower(), read_importance(importance) if importance else None)
    before = sum(
        p.stat().st_size for p in ([source] if source.is_file() else source.glob("*.safetensors"))
    )
    click.echo(f"{out}: {out.stat().st_size / 1e6:,.1f} MB, was {before / 1e6:,.1f} MB")
