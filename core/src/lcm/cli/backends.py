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
    from lcm.backend import dispatch, tuning
    from lcm.backend.measure import parse_shape

    sizes = parse_shape(symbol, shape)
    choice = dispatch.decide(symbol, sizes)
    times = dispatch.table().seconds.get(tuning.bucket(symbol, sizes), {})
    rows = {
        name: times.get(tuning.identity(backend) if backend else name)
        for name, backend in dispatch.candidates(symbol).items()
    }
    if as_json:
        record = {
            "kernel": symbol,
            "sizes": sizes,
            "backend": choice.backend,
            "reason": choice.reason,
        }
        click.echo(json.dumps(record | {"seconds": rows}, indent=2))
        return
    click.echo(f"{choice.backend}: {choice.reason}")
    for name, seconds in rows.items():
        hint = f"not measured; lcm tune --op {symbol} --shape {shape}"
        click.echo(f"  {name:12} {hint if seconds is None else f'{seconds * 1e6:,.1f} µs'}")
