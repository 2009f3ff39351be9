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
        flag = f"--{name.replace('_', '-')}"
        function = click.option(flag, name, metavar="FILE", help=f"Also write {help}.")(function)
    function = click.option("--chart", is_flag=True, help="Also draw in the terminal.")(function)
    return click.option("--markdown", is_flag=True, help="Print a table in Markdown.")(function)


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
@_budget(1.0, "rung at a size")
@options.backend
@_output
def ladder(
    sizes: str, format: str, threads: int | None, budget: float, backend: str, **output: Any
) -> None:
    """Climb from three loops to the fastest product there is, C = A @ B of N x N, an idea at a time.

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
    if not numbers or min(numbers) < 1:
        raise click.UsageError(f"--sizes is whole numbers from 1 up, such as 64,128, not {text!r}")
    return numbers


def _progress(text: str) -> None:
    """One line on a terminal that each next one replaces."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)


def _tell(
    results: "Results", *, markdown: bool, chart: bool, json_lines: str | None, csv: str | None,
    png: str | None,
) -> None:  # fmt: skip
    from lcm.bench import charts, pictures, report
    from lcm.files.atomic import write_atomically

    if sys.stderr.isatty():
        click.echo("\r\033[K", nl=False, err=True)
    click.echo(report.markdown(results) if markdown else report.table(results))
    if chart:
        click.echo("\n" + charts.draw(results))
    if json_lines:
        results.save(Path(json_lines))
    if csv:
        text = report.comma_separated(results)
        write_atomically(csv, lambda file: file.write(text.encode()))
    if png:
        pictures.draw(results, Path(png))
