"""How the plugins' kernels are compiled, which their setup.py knows, and other C compiled in the same way."""

import os
import runpy
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import cross

from lcm.building import compile_library

PLATFORM = "manylinux_2_17_aarch64"


def flags(plugin: Path, variant: str) -> list[str]:
    """The options for one of the plugin's libraries, beside those that all plugins have."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(plugin / "setup.py"))
    command = setup.call_args.kwargs["cmdclass"]["build_kernels"]
    return [*command.flags, *command.variants[variant]]


def compile_with(plugin: Path, variant: str, source: Path, library: Path) -> None:
    """Compile a file as the plugin's kernels are for its wheel."""
    with _compiler():
        compile_library(
            library, [str(source)], [f"-I{plugin}", "-Wno-unused-function", *flags(plugin, variant)]
        )


@contextmanager
def _compiler() -> Iterator[None]:
    with mock.patch.dict(os.environ, CFLAGS="", CC=shlex.join(compiler())):
        yield


def compiler() -> list[str]:
    """The one that makes the wheels."""
    return [*cross.COMPILER, cross.PLATFORMS[PLATFORM].target]
