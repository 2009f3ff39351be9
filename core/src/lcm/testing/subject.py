"""The backend under test: an installed one by name, a library by its path, or the reference."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lcm.backend import native, opening, plugins
from lcm.backend.contract import Backend, Kernel
from lcm.backend.dispatch import REFERENCE
from lcm.backend.verdict import judge
from lcm.errors import BackendError
from lcm.host import current
from lcm.testing import bodies


@dataclass(frozen=True, eq=False)
class Subject:
    """A backend, and what it was asked for as."""

    given: str
    backend: Backend

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        return self.backend.kernels

    @property
    def library(self) -> str | None:
        """The path of its own library of kernels, if that is what it is."""
        path = self.backend.library
        return path if path and native.exports(native.open_library(path), "lcm_abi") else None

    def set_threads(self, threads: int) -> None:
        if self.backend.threads:
            self.backend.threads(threads)


@cache
def find(given: str) -> Subject:
    """The backend, opened; `BackendError` if it cannot be had.

    Whether it has passed its self-test does not matter: what fails there is what one wants to see here.
    """
    subject = Subject(given, _open(given))
    subject.set_threads(current().threads())
    return subject


def _open(given: str) -> Backend:
    if given == REFERENCE:
        return bodies.backend()
    if os.sep in given:
        path = Path(given).resolve()
        return native.load(path, path.stem)
    for plugin in plugins.installed():
        if plugin.name == given:
            if against := judge(plugin, current()):
                raise BackendError(f"{given}: {against.reason}")
            opened = opening.open_plugin(plugin, current())
            if opened.backend is None:
                raise BackendError(f"{given}: {opened.reason}")
            return opened.backend
    names = ", ".join([*(plugin.name for plugin in plugins.installed()), REFERENCE])
    raise BackendError(f"no backend {given!r} here; there are: {names}, or the path of a library")


def path_for_children() -> str:
    """Python's path, so that a child process finds what this one does."""
    return os.pathsep.join(entry for entry in sys.path if os.path.isabs(entry))
