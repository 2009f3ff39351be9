"""lcm show: what a model is, and what memory it takes, before it is loaded."""

from dataclasses import asdict

import click

from lcm.cli import options


@click.command()
@click.argument("model", default="")
@click.option(
    "--context",
    "-c",
    type=click.IntRange(1),
    help="Tokens of the text; the model's most if not given.",
)
@click.option("--template", is_flag=True, help="Print the chat templates, and nothing else.")
@options.as_json
def command(model: str, context: int | None, template: bool, as_json: bool) -> None:
    """Show what MODEL is: a folder, a GGUF file, or the name of an installed one.

    \b
    lcm show
    lcm show qwen2.5-coder-7b-q4_k_m.gguf --context 8192
    """
    from lcm.generate.loading import find_model
    from lcm.models.summary import summary
    from lcm.text.tokenizer import Tokenizer

    path = find_model(model)
    if template:
        _print_templates(Tokenizer.load(path).templates, as_json)
        return
    found, tokenizer = summary(path), Tokenizer.load(path)
    context = context or found.context
    if as_json:
        needs = {
            "context_asked": context,
            "bytes": found.bytes_at(context),
            "fits": found.fits_at(context),
        }
        options.print_json(
            {"path": str(path), **asdict(found), **needs, "control_tokens": tokenizer.special,
             "chat_templates": list(tokenizer.templates)}
        )  # fmt: skip
        return
    weights = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in found.formats.items())
    fits = {
        True: "fits this machine",
        False: "more than this machine has",
        None: "memory not known",
    }
    rows = {
        "path": path,
        "model": f"{found.model_type}, {found.parameters / 1e6:,.1f} M parameters in {found.layers} layers",
        "context": f"{found.context:,} tokens",
        "vocabulary": f"{found.vocabulary:,}, the tokenizer has {tokenizer.vocabulary:,}",
        "control": " ".join(tokenizer.special) or "none",
        "chat": ", ".join(tokenizer.templates) or "no template",
        "weights": f"{found.weights / 1e6:,.1f} MB: {weights}",
        "memory": f"{found.bytes_at(context) / 1e6:,.1f} MB with {context:,} tokens: "
        f"{fits[found.fits_at(context)]}",
    }
    for name, value in rows.items():
        click.echo(f"{name:11s} {value}")


def _print_templates(sources: dict[str, str], as_json: bool) -> None:
    if as_json:
        options.print_json(sources)
        return
    for name, source in sources.items():
        if len(sources) > 1:
            click.echo(f"==> {name} <==")
        click.echo(source)
