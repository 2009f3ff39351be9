"""Build every distribution of this repository into wheels, from clean copies, and install them if asked to.

    python tools/build.py wheels/                     core, plugins/*, models/*: what can be built here
    python tools/build.py wheels/ --install           … into the Python that runs this
    python tools/build.py wheels/ --install-offline   … with no index in reach
    python tools/build.py wheels/ --also tests/sanitize/generic --install    … with one more

A plugin that this machine cannot build says so in a line `cannot be built here: …`, and is left
out. Any other failure to build is an error.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip", "--no-input")
NOT_HERE = re.compile(r"cannot be built here: (.+)")
# What a wheel is not made of: tests and how a model was trained, at a project's top; traces of building.
OTHER = {"tests", "training", "build", "dist"}
MADE = shutil.ignore_patterns("*.egg-info", "__pycache__", "kernels*.so", ".*")


def main() -> None:
    """Build, then install what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the wheels go")
    parser.add_argument("--also", type=Path, action="append", default=[], help="one more project")
    parser.add_argument("--install", action="store_true", help="dependencies come from the index")
    parser.add_argument("--install-offline", action="store_true", help="no index is asked")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    every = [*projects(), *(path.resolve() for path in given.also)]
    wheels = [wheel for project in every if (wheel := build(project, folder))]
    if given.install:
        # First without dependencies, so that a wheel of the same version is replaced.
        run("install", "--force-reinstall", "--no-deps", *map(str, wheels))
        run("install", *map(str, wheels))
    if given.install_offline:
        install_offline(folder, wheels)


def projects() -> list[Path]:
    """The core first: the others may need it to be built."""
    plugins = (path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
    with_weights = ROOT.glob("models/*/src/*/model.safetensors")
    models = {path.parents[2] for path in with_weights}
    return [ROOT / "core", *sorted(plugins), *sorted(models)]


def build(
    project: Path, folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Path | None:
    """The project's wheel, or None where this machine cannot build it; `options` are pip's."""
    name = project_table(project)["name"]
    with tempfile.TemporaryDirectory() as temporary:
        copy, out = Path(temporary, name), Path(temporary, "out")
        shutil.copytree(
            project, copy, ignore=lambda folder, names: left_out(project, folder, names)
        )
        shutil.copy2(ROOT / "LICENSE", copy)  # every wheel carries it
        places = ("--find-links", folder, "--wheel-dir", out)
        done = subprocess.run(
            (*PIP, "wheel", "--no-deps", *places, *options, copy),
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            text = done.stdout + done.stderr
            if found := NOT_HERE.search(text):
                print(f"{name}: left out: {found[1]}", flush=True)
                return None
            sys.exit(f"{text}\n{name}: cannot be built; the reason is above")
        wheel = next(out.glob("*.whl"))
        print(f"{name}: {wheel.name}", flush=True)
        return Path(shutil.copy2(wheel, folder))


def left_out(project: Path, folder: str, names: list[str]) -> set[str]:
    """The names in a folder of the project that are not copied."""
    return MADE(folder, names) | (OTHER if Path(folder) == project else set())


def install_offline(folder: Path, wheels: list[Path]) -> None:
    """As on a machine without network: all is fetched first, then installed by name from one folder."""
    everything = folder / "everything"
    run("download", "--dest", str(everything), *map(str, wheels))
    names = [wheel.name.split("-")[0].replace("_", "-") for wheel in wheels]
    extras = [name.removeprefix("lcm-") for name in names if name != "lcm"]
    offered = project_table(ROOT / "core")["optional-dependencies"]
    chosen = ",".join(extra for extra in extras if extra in offered)
    wanted = [f"lcm[{chosen}]" if chosen else "lcm", *(name for name in names if name != "lcm")]
    print(f"installing {' '.join(wanted)} from {len(list(everything.iterdir()))} files", flush=True)
    run("install", "--no-index", "--find-links", str(everything), *wanted)


def project_table(project: Path) -> dict[str, Any]:
    """The table [project] of its pyproject.toml."""
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["project"]
    return table


def run(*arguments: str) -> None:
    """Let pip do it; end with its exit code where it fails."""
    done = subprocess.run([*PIP, "--quiet", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
