"""Build the core, the models, and for every platform that is published its plugins with kernels.

    python tools/cross.py wheels/                                      for all of PLATFORMS
    python tools/cross.py wheels/ --platform manylinux_2_17_aarch64    for one of them

One machine builds for all of them, whatever it is: the compiler is zig, from the package ziglang, which
brings the headers and stubs of each system's C library. A wheel is for any Python 3.
"""

import argparse
import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from build import ROOT, build, projects

COMPILER = (sys.executable, "-I", str(Path(__file__).with_name("zigcc.py")))


class Platform(NamedTuple):
    """A platform as a plugin's manifest names it, and as zig does."""

    os: str
    arch: str
    target: str


# By the tag of the wheels.
PLATFORMS = {
    "manylinux_2_17_x86_64": Platform("linux", "x86_64", "x86_64-linux-gnu.2.17"),
    "manylinux_2_17_aarch64": Platform("linux", "aarch64", "aarch64-linux-gnu.2.17"),
    "macosx_11_0_arm64": Platform("macos", "aarch64", "aarch64-macos.11.0"),
}


def main() -> None:
    """Build what does not depend on a platform, then the plugins for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the wheels go")
    parser.add_argument("--platform", choices=PLATFORMS, action="append", help="one of these alone")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for project in projects():
        if project.parent.name != "plugins":
            build(project, folder)  # the core among them, which the plugins are built with
    for tag in given.platform or PLATFORMS:
        build_plugins(folder, tag)


def build_plugins(folder: Path, tag: str) -> None:
    """The wheels of the plugins whose manifests name the platform."""
    platform = PLATFORMS[tag]
    environment = {**os.environ, "CC": shlex.join([*COMPILER, platform.target])}
    named = f"--config-settings=--build-option=--plat-name={tag}"
    for manifest in sorted(ROOT.glob("plugins/*/src/*/lcm_backend.toml")):
        needs = tomllib.loads(manifest.read_text(encoding="utf-8"))
        # One that names no processor has no code for one.
        if platform.os not in needs.get("os", ()) or platform.arch not in needs.get("arch", ()):
            continue
        if not build(manifest.parents[2], folder, named, environment=environment):
            sys.exit(f"{manifest.parents[2].name}: the compiler for {tag} cannot be used")


if __name__ == "__main__":
    main()
