"""Write docs/reference from the code; with --check, only say whether it is current.

python tools/make_reference.py
python tools/make_reference.py --check
"""

import argparse
import inspect
import sys
from pathlib import Path

import click

from lcm import cli, errors, settings
from lcm.backend import hooks, manifest
from lcm.ops import CATALOGUE, Op
from lcm.ops.header import declaration, header
from lcm.ops.signature import REQUIRED

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
HEADER = ROOT / "core" / "src" / "lcm" / "include" / "lcm" / "ops.h"
NOTE = "<!-- Made from the code by `python tools/make_reference.py`; do not edit. -->\n\n"
OPS = """\
# The ops

An op is its definition: the Python function whose signature says formats and shapes, and whose
body is the reference. A backend may run any of them faster, by exporting the C function below it.
`*rows` stands for any number of leading axes; a size that occurs twice is the same twice.
"""
SETTINGS = """\
# Settings

A setting is taken from the environment, or else from `config.toml` in the user's folder for
configuration (`~/.config/lcm` on Linux), where a line reads `name = "value"`.

| name | environment | meaning |
|---|---|---|
"""


def pages() -> dict[Path, str]:
    """Every made file with the text that it should have."""
    texts = {"ops": ops(), "settings": settings_table(), "commands": commands(),
             "errors": errors_tree(), "hooks": hooks_page()}  # fmt: skip
    made = {FOLDER / f"{name}.md": NOTE + text for name, text in texts.items()}
    return made | {HEADER: header()}


def ops() -> str:
    """The ops: contract, formula, and their C side."""
    return OPS + "".join(_op(op) for _, op in sorted(CATALOGUE.items()))


def _op(op: Op) -> str:
    doc = inspect.cleandoc(op.__doc__ or "")
    return f"\n## {op.name}\n\n```\n{_signature(op)}\n```\n\n{doc}\n\n```c{declaration(op)}```\n"


def _signature(op: Op) -> str:
    arrays = [
        f"{name}: {'|'.join(spec.formats)}{spec}{' (changed)' if spec.inout else ''}"
        f"{', may be left out' if spec.optional else ''}"
        f"{f', below {spec.bound}' if spec.bound else ''}"
        for name, spec in op.signature.arrays.items()
    ]
    scalars = [
        f"{name}: {scalar.type.__name__}{'' if scalar.default is REQUIRED else f' = {scalar.default}'}"
        for name, scalar in op.signature.scalars.items()
    ]
    output = op.signature.output
    lines = [
        *arrays,
        *scalars,
        f"-> {'|'.join(output.formats)}{output}" if output else "-> nothing",
    ]
    return "\n".join([*lines, *(f"needs {condition}" for condition in op.signature.where)])


def settings_table() -> str:
    """What can be set, with environment names and defaults."""
    rows = [
        f"| `{name}` | `LCM_{name.upper()}` | {meaning} |"
        for name, (_, meaning) in settings.SETTINGS.items()
    ]
    return SETTINGS + "\n".join(rows) + "\n"


def commands() -> str:
    """The help of every command, as it prints it."""
    parts = ["# The commands\n", f"```\n{_help(cli.command, 'lcm')}\n```\n"]
    for name in cli.COMMANDS:
        found = cli.command.get_command(click.Context(cli.command), name)
        assert found is not None
        parts.append(f"## lcm {name}\n\n```\n{_help(found, f'lcm {name}')}\n```\n")
        for sub, inner in getattr(found, "commands", {}).items():
            parts.append(f"### lcm {name} {sub}\n\n```\n{_help(inner, f'lcm {name} {sub}')}\n```\n")
    return "\n".join(parts)


def _help(command: click.Command, name: str) -> str:
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    with click.Context(command, info_name=name, **settings) as context:
        formatter = context.make_formatter()
        if command is cli.command:  # without the commands of plugins that happen to be installed
            command.format_usage(context, formatter)
            command.format_help_text(context, formatter)
            click.Command.format_options(command, context, formatter)
            with formatter.section("Commands"):
                formatter.write_dl(list(cli.COMMANDS.items()))
        else:
            command.format_help(context, formatter)
        return "\n".join(line.rstrip() for line in formatter.getvalue().rstrip().splitlines())


def errors_tree() -> str:
    """The tree of errors, as it is drawn in their module."""
    found = [
        e for e in vars(errors).values() if isinstance(e, type) and e.__module__ == "lcm.errors"
    ]
    rows = [f"| `{e.__name__}` | {getattr(e, 'exit_code', '')} | {e.__doc__} |" for e in found]
    return (
        f"# Errors\n\n```\n{inspect.cleandoc(errors.__doc__ or '')}\n```\n\n"
        "| error | exit code | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def hooks_page() -> str:
    """The hooks of a plugin's module, and its manifest."""
    parts = ["# Manifest and hooks of a backend\n", "## The manifest\n",
             f"```\n{inspect.cleandoc(manifest.__doc__ or '')}\n```\n", "## The module\n",
             inspect.cleandoc(hooks.__doc__ or "") + "\n"]  # fmt: skip
    for name, hook in vars(hooks).items():
        if hasattr(hook, "lcm_spec"):
            signature = f"{name}{inspect.signature(hook)}"
            parts.append(f"## {name}\n\n```python\n{signature}\n```\n\n{inspect.getdoc(hook)}\n")
    return "\n".join(parts)


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail if anything is stale"
    )
    check = parser.parse_args().check
    stale = {p: t for p, t in pages().items() if not p.exists() or p.read_text("utf-8") != t}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'is stale' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    if check and stale:
        sys.exit("run: python tools/make_reference.py")


if __name__ == "__main__":
    main()
