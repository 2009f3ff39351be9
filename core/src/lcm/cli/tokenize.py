"""`lcm tokenize`: how a tokenizer sees a text; with --train, make a tokenizer."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lcm.errors import UsageError

if TYPE_CHECKING:
    from lcm.text.tokenizer import Tokenizer


@click.command("tokenize")
@click.argument("texts", metavar="[TEXT|-|PATH...]", nargs=-1)
@click.option(
    "--model", "-m", default="", metavar="MODEL|FILE",
    help="A model, as for lcm complete, or a tokenizer.json.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--special", is_flag=True, help="Read control tokens in TEXT as such.")
@click.option("--train", is_flag=True, help="Train on the files PATH (default: Python's library).")
@click.option("--vocabulary", type=int, default=4096, show_default=True, help="With --train.")
@click.option("--out", type=click.Path(path_type=Path), help="With --train: where to write it.")
def command(
    texts: tuple[str, ...],
    model: str,
    as_json: bool,
    special: bool,
    train: bool,
    vocabulary: int,
    out: Path | None,
) -> None:
    """Show the tokens of TEXT (- or nothing: standard input), or train a tokenizer.

    \b
    lcm tokenize "def f(x):"
    lcm tokenize --model runs/mine "def f(x):"
    lcm tokenize --train src tests --vocabulary 4096 --out tokenizer.json
    """
    if train:
        _train(texts, vocabulary, out, as_json)
    else:
        _show(_load(model), _text(texts), special, as_json)


def _train(paths: tuple[str, ...], vocabulary: int, out: Path | None, as_json: bool) -> None:
    from lcm.text.tokenizer import Tokenizer
    from lcm.train.corpus import collect, standard_library

    if out is None:
        raise UsageError("lcm tokenize --train needs a place to write to: --out tokenizer.json")
    corpus = collect(paths) if paths else standard_library()
    tokenizer = Tokenizer.train((d.read() for d in corpus.documents), vocabulary=vocabulary)
    tokenizer.save(out)
    facts = {"out": str(out), "vocabulary": tokenizer.vocabulary, "files": len(corpus.documents),
             "bytes": corpus.size, "fingerprint": tokenizer.fingerprint()}  # fmt: skip
    if as_json:
        click.echo(json.dumps(facts))
    else:
        click.echo(f"{out}: {tokenizer.vocabulary} tokens, from {len(corpus.documents)} files "
                   f"({corpus.size / 1e6:.1f} MB)")  # fmt: skip


def _show(tokenizer: "Tokenizer", text: str, special: bool, as_json: bool) -> None:
    ids = tokenizer.encode(text, special=special)
    names = {id: name for name, id in tokenizer.special.items()}
    pieces = [
        names.get(i) or tokenizer.bytes_of(i).decode("utf-8", "backslashreplace") for i in ids
    ]
    size = len(text.encode("utf-8"))
    if as_json:
        click.echo(json.dumps({"ids": ids, "pieces": pieces, "tokens": len(ids), "bytes": size,
                               "vocabulary": tokenizer.vocabulary}))  # fmt: skip
        return
    for id, piece in zip(ids, pieces, strict=True):
        click.echo(f"{id:>7}  {piece!r}")
    rate = f", {size / len(ids):.2f} bytes a token" if ids else ""
    click.echo(f"{len(ids)} tokens for {size} bytes{rate}; vocabulary {tokenizer.vocabulary}")


def _load(model: str) -> "Tokenizer":
    """The tokenizer of a file, of a folder that need not be a whole model, or of a model by name."""
    from lcm.generate.loading import find_model
    from lcm.text.tokenizer import Tokenizer

    path = Path(model).expanduser()
    whole = path.suffix == ".json" or (path / "tokenizer.json").is_file()
    return Tokenizer.load(path if model and whole else find_model(model))


def _text(texts: tuple[str, ...]) -> str:
    if len(texts) > 1:
        raise UsageError(f"{len(texts)} texts; put quotes around one text with blanks in it")
    if texts and texts[0] != "-":
        return texts[0]
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 at byte {error.start}; "
                         f"convert it first") from error  # fmt: skip
