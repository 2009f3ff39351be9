"""lcm convert: write a model's files as another kind of file, or in another number format."""

from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format", "-f", "format", default="f16", show_default=True,
    help="For a .gguf file a recipe such as q8_0 or q4_k_m; for a folder f32, f16 or bf16.",
)  # fmt: skip
def command(model: str, out: Path, format: str) -> None:
    """Write MODEL to OUT: as one GGUF file if its name ends in .gguf, else as a Hugging Face folder.

    \b
    lcm convert runs/mine mine.gguf --format q4_k_m
    lcm convert mine.gguf folder --format bf16
    """
    from lcm.generate.loading import find_model
    from lcm.models.conversion import to_folder, to_gguf

    write = to_gguf if out.suffix == ".gguf" else to_folder
    write(find_model(model), out, format.lower())
    size = sum(path.stat().st_size for path in ([out] if out.is_file() else out.iterdir()))
    click.echo(f"{out}: {size / 1e6:,.1f} MB")
