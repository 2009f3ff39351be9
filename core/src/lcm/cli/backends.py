"""`lcm backends`: every backend plugin, whether it can be used here, and if not what would do."""

import json
from collections.abc import Sequence
from typing import Any

import click

from lcm.backend import discovery
from lcm.backend.verdict import Verdict

COLOURS = {"ready": "green", "ineligible": "dim", "blocked": "dim"}  # all others: red


@click.group(name="backends", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@click.option("--retry", metavar="NAME", help="Forget what is known of NAME and try it again.")
@click.pass_context
def command(context: click.Context, as_json: bool, retry: str | None) -> None:
    """List the backends, each with its verdict: a state, the reason, and a fix.

    \b
    lcm backends
    lcm --host graviton3 backends --json
    """
    if context.invoked_subcommand:
        return
    verdicts = (discovery.retry(retry),) if retry else discovery.verdicts()
    if as_json:
        click.echo(json.dumps([as_data(verdict) for verdict in verdicts], indent=1))
    else:
        _print_table(verdicts)


def as_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data, with the part of the manifest that it was judged by."""
    manifest = verdict.manifest
    names = ("name", "distribution", "version", "state", "reason", "fix")
    needs = ("abi", "summary", "os", "arch", "features")
    return {
        **{name: getattr(verdict, name) for name in names},
        "manifest": {name: getattr(manifest, name) for name in needs} if manifest else None,
    }


def _print_table(verdicts: Sequence[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "version", "state", "reason", "fix", box=None, pad_edge=False)
    for one in verdicts:
        state = Text(one.state, style=COLOURS.get(one.state, "red"))
        table.add_row(one.name, one.version, state, Text(one.reason), Text(one.fix))
    Console().print(table)


@command.command()
@click.argument("symbol", metavar="OP")
@click.option("--shape", required=True, metavar="SIZES", help="Such as 512,896,4864.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def why(symbol: str, shape: str, as_json: bool) -> None:
    """Show which backend would run OP at a shape, what the others took, and the reason.

    \b
    lcm backends why linear --shape 512,896,4864
    lcm backends why attention_grad --shape rows=256,...
    """
    from lcm.backend import dispatch
    from lcm.backend.measure import parse_shape

    sizes = parse_shape(symbol, shape)
    choice = dispatch.decide(symbol, sizes)
    rows = [_candidate(name, symbol, sizes, choice) for name in dispatch.candidates(symbol)]
    rows.sort(key=lambda row: row["seconds"] or float("inf"))
    rows += [
        {"name": v.name, "seconds": None, "at": None, "note": _no_candidate(v, symbol)}
        for v in discovery.verdicts()
        if v.name not in dispatch.candidates(symbol)
    ]
    if as_json:
        record = {"kernel": symbol, "sizes": sizes, "backend": choice.backend}
        click.echo(json.dumps({**record, "reason": choice.reason, "candidates": rows}, indent=2))
        return
    click.echo(f"{choice.backend}: {choice.reason}")
    for row in rows:
        time = f"{row['seconds'] * 1e6:,.1f} µs" if row["seconds"] else ""
        click.echo(f"  {row['name']:12} {time:>14}  {row['note']}")
    if any(row["note"].endswith(NOT_MEASURED) for row in rows):
        click.echo(f"to measure: lcm tune --op {symbol} --shape {shape}")


NOT_MEASURED = "not measured"


def _candidate(name: str, symbol: str, sizes: dict[str, int], choice: Any) -> dict[str, Any]:
    """What is known of a candidate at these sizes, or near them, and what that means for the choice."""
    from lcm.backend import dispatch, tuning

    backend = dispatch.candidates(symbol)[name]
    own = tuning.identity(backend)
    near = dispatch.table().nearest(symbol, sizes, [own])
    shape, measured = near or (None, None)
    seconds = measured.seconds[own] if measured else None
    row = {"name": name, "seconds": seconds, "at": shape}
    if measured is None:
        note = NOT_MEASURED
    elif seconds is None:
        note = "refuses this shape"
    else:
        note = _against(seconds, min(s for s in measured.seconds.values() if s))
    if shape not in (None, sizes):
        note += f", at {dispatch.in_words(shape, sizes)}"
    return row | {"note": f"taken: {note}" if name == choice.backend else note}


def _against(seconds: float, best: float) -> str:
    return "the fastest" if seconds == best else f"{seconds / best:.2f} x the time of the fastest"


def _no_candidate(verdict: Verdict, symbol: str) -> str:
    if verdict.state == "ready":
        return f"has no kernel {symbol}"
    return f"{verdict.state}: {verdict.reason}"
