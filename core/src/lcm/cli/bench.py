"""lcm bench: how fast this machine computes, trains and writes, beside what it could do at best."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lcm.cli import options

if TYPE_CHECKING:
    from lcm.bench.results import Results

FILES = {
    "json_lines": "every time, and the machine, as JSON Lines for lcm bench compare",
    "csv": "the table as CSV",
    "png": "a chart; needs pip install 'lcm[plot]'",
}

LARGEST = 8192  # of a ladder's size: four matrices of it in f64 are 2 GiB


@click.group()
def command() -> None:
    """Measure products, kernels, training, writing and starting on this machine.

    \b
    lcm bench ladder                       one product, from naive loops to the fastest
    lcm bench ops --op linear --chart      kernels beside the machine's limits
    lcm bench train --json-lines new.jsonl
    lcm bench compare old.jsonl new.jsonl

    Times are of repetitions after one that is not counted. The machine should be idle.
    """


def _output(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how results are told, as one dictionary for `_tell`."""
    for name, help in reversed(FILES.items()):
        flag, check = f"--{name.replace('_', '-')}", _can_draw if name == "png" else None
        option = click.option(
            flag, name, metavar="FILE", callback=check, help=f"Also write {help}."
        )
        function = option(function)
    function = click.option("--chart", is_flag=True, help="Also draw in the terminal.")(function)
    return click.option("--markdown", is_flag=True, help="Print a table in Markdown.")(function)


def _can_draw(context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """Say what is missing before anything is measured."""
    if path:
        from lcm.bench import pictures

        pictures.need()
    return path


def _budget(seconds: float, of: str) -> Callable[..., Any]:
    return click.option(
        "--budget", default=seconds, show_default=True, metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=True), help=f"About how long each {of} is repeated.",
    )  # fmt: skip


_price = click.option(
    "--price", type=click.FloatRange(min=0), metavar="PER_HOUR",
    help="What the machine costs an hour: tells the cost of a million tokens.",
)  # fmt: skip


@command.command()
@click.option("--sizes", default="64,128,256,512,1024,2048", show_default=True, metavar="N,N,…")
@click.option(
    "--format", type=click.Choice(["f32", "f64", "both"]), default="both", show_default=True
)
@click.option(
    "--threads", type=click.IntRange(1, 256), help="Of the threaded rungs; else as kernels use."
)
@click.option(
    "--backend",
    "-b",
    default="",
    metavar="NAME",
    help="Climb this one's rungs; else those of the one that asks for the most of the processor.",
)
@_budget(1.0, "rung at a size")
@_output
def ladder(
    sizes: str, format: str, threads: int | None, budget: float, backend: str, **output: Any
) -> None:
    """Climb from three loops to the fastest product of N x N matrices, an idea at a time.

    \b
    lcm bench ladder
    lcm bench ladder --sizes 256,512 --format f32 --threads 1 --chart

    Every product is checked, and a wrong one ends this with exit code 1. A rung that would take longer than
    the budget at a size is measured once there, and one that would take ten times as long is skipped; both
    are said.
    """
    from lcm import host
    from lcm.bench import ladder, rungs

    results = ladder.run(
        _numbers(sizes), ("f32", "f64") if format == "both" else (format,),
        threads=threads or host.current().threads(), budget=budget, kit=_kit(rungs.kits(), backend),
        progress=_progress,
    )  # fmt: skip
    _tell(results, **output)
    if wrong := ladder.wrong(results):
        raise click.ClickException(f"{len(wrong)} products are wrong, first: {wrong[0]}")


def _kit(kits: list[Any], name: str) -> Any:
    """The kit whose rungs are climbed: the one asked for, or that with the most features."""
    found = [kit for kit in kits if not name or kit.name == name]
    if name and not found:
        there = ", ".join(kit.name for kit in kits) or "none"
        raise click.UsageError(
            f"--backend {name!r} does not bring the ladder; those that do: {there}"
        )
    return found[0] if found else None


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or max(numbers) > LARGEST:
        raise click.UsageError(
            f"--sizes is whole numbers from 1 to {LARGEST}, such as 64,128, not {text!r}"
        )
    return numbers


def _progress(text: str) -> None:
    """One line on a terminal that each next one replaces."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)


def _tell(
    results: "Results", *, markdown: bool, chart: bool, json_lines: str | None, csv: str | None,
    png: str | None, table: "Callable[[Results], str] | None" = None,
) -> None:  # fmt: skip
    from lcm.bench import charts, pictures, report
    from lcm.bench.results import STOPPED
    from lcm.files.atomic import write_atomically

    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    click.echo(report.markdown(results) if markdown else (table or report.table)(results))
    if chart:
        click.echo("\n" + charts.draw(results))
    if json_lines:
        results.save(Path(json_lines))
    if csv:
        text = report.comma_separated(results)
        write_atomically(csv, lambda file: file.write(text.encode()))
    if png:
        pictures.draw(results, Path(png))
    if STOPPED in results.remarks:
        click.get_current_context().exit(130)


@command.command()
@click.option(
    "--op",
    "names",
    multiple=True,
    metavar="OP",
    help="Only this op, or this kernel; may be repeated.",
)
@click.option(
    "--backend",
    "-b",
    "backends",
    multiple=True,
    metavar="NAME",
    help="Only this backend; may be repeated.",
)
@click.option(
    "--shape", default="", metavar="SIZES", help="With one --op: its sizes, such as 512,896,4864."
)
@_budget(0.2, "kernel at a shape")
@_output
def ops(
    names: tuple[str, ...], backends: tuple[str, ...], shape: str, budget: float, **output: Any
) -> None:
    """Time every kernel on every backend, beside what the machine can do at best.

    \b
    lcm bench ops
    lcm bench ops --op linear --op linear_grad --chart
    lcm bench ops --op linear --shape 512,896,4864 --png roofline.png
    """
    from lcm.bench import ops

    if shape and len(names) != 1:
        raise click.UsageError("--shape belongs to one --op")
    _tell(ops.run(names, backends, shape, budget=budget, progress=_progress), **output)


@command.command()
@click.option(
    "--preset",
    type=click.Choice(["6x384", "4x128"]),
    default="6x384",
    show_default=True,
    help="A GPT-2 of so many layers and such width.",
)
@click.option(
    "--model", "-m", default="", metavar="MODEL", help="This model instead, as for lcm complete."
)
@click.option(
    "--batch", type=click.IntRange(1), default=12, show_default=True, help="Sequences in a step."
)
@click.option(
    "--context",
    type=click.IntRange(0),
    default=0,
    help="Tokens in a sequence; 0: the model's, and 256 at most.",
)
@options.backend
@_budget(10.0, "step")
@_price
@_output
def train(
    preset: str,
    model: str,
    batch: int,
    context: int,
    backend: str,
    budget: float,
    price: float | None,
    **output: Any,
) -> None:
    """Time steps of training: tokens a second, peak memory, the first step.

    \b
    lcm bench train
    lcm bench train --preset 4x128 --price 0.08 --json-lines train.jsonl
    """
    from lcm.bench import train
    from lcm.generate.loading import find_model

    with options.on_backend(backend):
        results = train.run(
            preset,
            find_model(model) if model else None,
            batch=batch,
            context=context,
            budget=budget,
            price=price,
            progress=_progress,
        )
    _tell(results, **output)


def _list_of(flag: str, short: str, default: str, of: str) -> Callable[..., Any]:
    return click.option(
        flag, short, default=default, show_default=True, metavar="N,N,…", callback=_counts,
        help=f"{of}; 0 for none.",
    )  # fmt: skip


def _counts(context: click.Context, option: click.Parameter, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise click.UsageError(
            f"--{option.name} is whole numbers, such as 512 or 128,512, not {text!r}"
        )
    return [int(part) for part in parts]


@command.command()
@options.model
@_list_of("--prompt", "-p", "512", "Tokens to take in at once")
@_list_of("--tokens", "-n", "128", "Tokens to write")
@_list_of("--depth", "-d", "0", "Tokens that are there before")
@click.option(
    "--repetitions", "-r", type=click.IntRange(1), default=5, show_default=True,
    help="Of each test, after one that is not counted.",
)  # fmt: skip
@options.backend
@_price
@_output
def generate(
    model: str, prompt: list[int], tokens: list[int], depth: list[int], repetitions: int, backend: str,
    price: float | None, **output: Any,
) -> None:  # fmt: skip
    """Time a model that takes in a prompt and writes, in the columns of llama-bench.

    \b
    lcm bench generate
    lcm bench generate --model runs/mine -p 512 -n 128
    lcm bench generate --model runs/mine -p 128,512 -n 64 --depth 0,1024 -r 3 --markdown

    --markdown tells all figures: what of a token's time is not computing, what its choice takes, memory.
    """
    from lcm.bench import generate

    with options.on_backend(backend):
        results = generate.run(
            model, prompts=prompt, tokens=tokens, depths=depth, repetitions=repetitions, price=price,
            progress=_progress,
        )  # fmt: skip
    _tell(results, table=generate.table, **output)


@command.command()
@options.model
@_budget(3.0, "process")
@_output
def startup(model: str, budget: float, **output: Any) -> None:
    """Time processes: importing lcm, lcm --version, and a model's first token."""
    from lcm.bench import startup

    _tell(startup.run(model, budget=budget, progress=_progress), **output)


@command.command()
@click.argument("old", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.05,
    show_default=True,
    help="A smaller change does not count.",
)
def compare(old: Path, new: Path, threshold: float) -> None:
    """Compare two files of --json-lines, case by case: how much faster NEW is than OLD.

    \b
    lcm bench compare before.jsonl after.jsonl
    lcm bench compare before.jsonl after.jsonl --threshold 0.1

    Above 1 is faster. The interval holds the ratio of medians with 95 % confidence, as far as the repetitions
    tell (bootstrap). Ends with exit code 1 if a case is slower: its whole interval is below 1 - threshold.
    """
    from lcm.bench import compare, report
    from lcm.bench.results import Results

    sides = Results.load(old), Results.load(new)
    changes = compare.compare(*sides, threshold=threshold)
    for line in compare.differences(*sides):
        click.echo(f"lcm: note: {line}", err=True)
    click.echo(report.changes(changes))
    slower = sum(change.verdict == "slower" for change in changes)
    if slower:
        raise click.ClickException(
            f"{slower} of {len(changes)} cases are slower by more than {threshold:.0%}"
        )
