"""`lcm new-backend`: write the project of a backend, with one kernel and the tests that it passes."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from lcm.errors import UsageError

COMMON, C, PYTHON = "backend", "backend_c", "backend_python"


@click.command("new-backend")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="The folder; by default lcm-NAME.")
@click.option("--python", is_flag=True, help="Kernels in Python, in place of C.")
def command(name: str, out: Path | None, python: bool) -> None:
    """Write the project of a backend NAME: it installs, and passes the conformance kit, as it is.

    \b
    lcm new-backend mine
    lcm new-backend mine --python --out backends/mine
    """
    from lcm import __version__
    from lcm.backend import plugins
    from lcm.backend.contract import ABI
    from lcm.backend.manifest import RESERVED

    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", name):
        raise UsageError(f"NAME must be short, in small letters and figures, not {name!r}")
    if name in (*RESERVED, *(plugin.name for plugin in plugins.installed())):
        raise UsageError(f"there is a backend {name!r} here already: choose another name")
    folder = out or Path(f"lcm-{name}")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty: choose another place with --out")
    package = f"lcm_{name.replace('-', '_')}"
    kernels = f"src/{package}/plugin.py" if python else "kernels.c"
    words = {"name": name, "package": package, "kernels": f"`{kernels}`", "version": __version__,
             "abi": str(ABI)}  # fmt: skip
    for part in (COMMON, PYTHON if python else C):
        _write(files("lcm") / "templates" / part, folder, words)
    click.echo(f"{folder}: a backend with one kernel, in {kernels}")
    click.echo(f"next: cd {folder} && pip install --no-build-isolation -e '.[test]' && pytest")


def _write(template: Traversable, folder: Path, words: dict[str, str]) -> None:
    """Every file of the template, with the words in their places."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in template.iterdir():
        name = entry.name.replace("PACKAGE", words["package"]).removesuffix(".in")
        if entry.is_dir():
            _write(entry, folder / name, words)
        elif entry.name.endswith(".in"):
            text = re.sub(r"\{\{(\w+)\}\}", lambda m: words[m[1]], entry.read_text("utf-8"))
            (folder / name).write_text(text, encoding="utf-8")
