"""`lcm host`: what this machine is, and where each fact comes from."""

import click

from lcm.host import Host, current


@click.command(name="host")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
@click.option("--save", metavar="FILE", help="Write the record to FILE, for LCM_HOST elsewhere.")
def command(as_json: bool, save: str | None) -> None:
    """Show the host record: processor, instruction sets, caches, cores, memory.

    \b
    lcm host
    lcm host --save mine.json
    """
    host = current()
    if save:
        host.save(save)
        click.echo(f"saved: {save}", err=True)
    if as_json:
        click.echo(host.to_json(), nl=False)
    elif not save:
        _print_table(host)


def _print_table(host: Host) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("fact", "value", box=None, pad_edge=False)
    table.add_column("source", overflow="fold")
    for name, fact in host.facts().items():
        table.add_row(name.replace("_", " "), in_words(name, fact.value), Text(fact.source))
    table.add_row("threads", str(host.threads()), "LCM_THREADS, or the cores within the quota")
    table.add_row("fingerprint", host.fingerprint(), "of what measurements depend on")
    Console().print(table)


def in_words(name: str, value: object) -> str:
    """A fact's value for people: `32 KiB`, `unknown`, `avx avx2 fma`."""
    if value is None:
        return "none" if name == "quota" else "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, frozenset):
        return " ".join(sorted(value))
    if isinstance(value, int) and name in ("l1d", "l2", "l3", "page_size", "memory"):
        return size_in_words(value)
    return str(value)


def size_in_words(size: int) -> str:
    """A number of bytes with a unit of which there are few: `48 KiB`, `23.5 GiB`."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = min(max(size.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{size / 1024**power:.4g} {units[power]}"
