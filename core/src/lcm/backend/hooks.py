"""The hooks of a backend's Python module, for a plugin that is more than a shared library.

A plugin marks a function with `@lcm.hookimpl` and gives it the name of a hook below; it may leave
out any hook, and any parameter. Each plugin is called alone, after its manifest has let it through.
"""

from collections.abc import Callable, Mapping

import pluggy

from lcm.backend.contract import Backend
from lcm.host import Host

hookspec = pluggy.HookspecMarker("lcm")
hookimpl = pluggy.HookimplMarker("lcm")


@hookspec(firstresult=True)
def veto(host: Host) -> str | None:
    """Why this plugin is no use on this machine, beyond what its manifest can say; None to go on.

    Called before `open_backend`. The sentence is shown as the reason: `needs a Metal device`.
    """


@hookspec(firstresult=True)
def open_backend(host: Host) -> Backend:  # type: ignore[empty-body]
    """Load what there is to load and return the backend; raise, with one line, what went wrong.

    Called once a process. Without this hook, the manifest's `library` is opened.
    """


@hookspec(firstresult=True)
def doctor_checks() -> Mapping[str, Callable[[], str]]:  # type: ignore[empty-body]
    """Checks by name, for `lcm doctor`: each returns what it found, or raises what is wrong."""
