"""The whole of it, as a user sees it: what this machine is, what it can use, a training, a completion.

tox -e demo                       with LCM_DEMO_MINUTES=5 for a longer training (default: 1)
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

PROMPT = "def read_json(path):"
SMALL = "--layers 4 --width 128 --hidden 352 --vocabulary 2048 --context 128 --warmup 10 --lr 3e-3"

console = Console(highlight=False)


def main() -> None:
    """Run the commands, each shown as it would be typed."""
    minutes = float(os.environ.get("LCM_DEMO_MINUTES") or 1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lcm-demo-") as folder:
        os.chdir(folder)
        step("What this machine is, and which backends it can use")
        lcm("backends")
        step(f"Train a small model on Python's standard library ({minutes:g} min)")
        lcm(f"train --out mine --minutes {minutes:g} --steps 100000 --schedule constant {SMALL}")
        step("Complete code with it")
        lcm("complete", PROMPT, "--model mine -n 48")
        step("Measure it on code")
        source = Path(json.__file__).parent
        lcm("eval", str(source), "--model mine --limit 8")
        model = "" if is_installed("tinycode") else "--model mine"
        if not model:
            step("Complete code with the model that is installed, tinycode")
            lcm("complete", PROMPT)
        step("Which backend ran what")
        show_backends(model)
    console.print(f"\n[green]All of it ran[/], in {time.monotonic() - started:.0f} seconds.")


def step(title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left", style="dim")


def lcm(*parts: str) -> None:
    """Show the command and run it; a part with blanks that does not begin with an option is one argument."""
    name, *rest = parts
    quoted = " ".join(f'"{p}"' if p == PROMPT else p for p in [name, *rest])
    console.print(Text(f"$ lcm {quoted}", style="bold cyan"))
    arguments = [a for p in parts for a in ([p] if p == PROMPT else p.split())]
    done = subprocess.run(["lcm", *arguments], check=False)
    if done.returncode:
        sys.exit(f"demo: lcm {quoted} ended with code {done.returncode}")


def is_installed(model: str) -> bool:
    from lcm.generate.loading import installed

    return model in installed()


def show_backends(model: str) -> None:
    """A table from what `lcm complete --json` says."""
    quoted = f'lcm complete "{PROMPT}" {model}'.rstrip() + " --json"
    console.print(Text(f"$ {quoted}", style="bold cyan"))
    command = ["lcm", "complete", PROMPT, *model.split(), "--json"]
    record = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    table = Table("op", "backend", box=None, pad_edge=False)
    table.add_column("decided", justify="right")
    for symbol, backends in record["backends"].items():
        for name, count in backends.items():
            table.add_row(
                symbol, Text(name, style="dim" if name == "reference" else "green"), str(count)
            )
    console.print(table)
    rate = (len(record["tokens"]) - 1) / record["seconds"] if record["seconds"] else 0
    console.print(f"{len(record['tokens'])} tokens, {rate:,.0f} a second after the first.")


if __name__ == "__main__":
    main()
