"""Loading one plugin in this process, inside a guard that lets nothing through but Ctrl-C."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pluggy

from lcm.backend import hooks
from lcm.backend.contract import Backend
from lcm.backend.plugins import Plugin
from lcm.host import Host


@dataclass(frozen=True)
class Opened:
    """What came of it: a state of `verdict.STATES`, the reason, and when ready the backend."""

    state: str
    reason: str = ""
    backend: Backend | None = None
    hooks: pluggy.PluginManager | None = None


class _Refusal(Exception):
    """A plugin that says no, or says something that is not in the contract."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state


def open_plugin(plugin: Plugin, host: Host) -> Opened:
    """Import, register and open the plugin. Whatever it prints goes to standard error."""
    try:
        with _stdout_to_stderr():
            manager = _register(plugin)
            backend = _open(plugin, manager, host)
    except KeyboardInterrupt:
        raise
    except _Refusal as refusal:
        return Opened(refusal.state, str(refusal))
    except BaseException as error:
        return Opened("failed", describe(error))
    return Opened("ready", "", backend, manager)


def describe(error: BaseException) -> str:
    """The error on one line: `ImportError: no module named 'x'`."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _register(plugin: Plugin) -> pluggy.PluginManager:
    """A manager that knows this one plugin, and refuses hooks that do not exist."""
    manager = pluggy.PluginManager("lcm")
    manager.add_hookspecs(hooks)
    if plugin.manifest and plugin.manifest.module:
        manager.register(importlib.import_module(plugin.manifest.module), plugin.name)
        manager.check_pending()
    return manager


def _open(plugin: Plugin, manager: pluggy.PluginManager, host: Host) -> Backend:
    reason = manager.hook.veto(host=host)
    if reason is not None:
        raise _Refusal("ineligible", str(reason))
    backend = manager.hook.open_backend(host=host)
    manifest = plugin.manifest
    if backend is None and manifest and manifest.libraries and plugin.folder:
        from lcm.backend import native

        library = str(manifest.library_for(host.has))
        backend = native.load(plugin.folder / library, plugin.name)
    if not isinstance(backend, Backend):
        raise _Refusal("failed", f"open_backend returned {type(backend).__name__}, not a Backend")
    if backend.name != plugin.name:
        raise _Refusal("failed", f"its Backend is named {backend.name!r}")
    for symbol, kernel in backend.kernels.items():
        if not callable(kernel):
            raise _Refusal("failed", f"its kernel {symbol!r} is not callable")
    return backend


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what Python and C print to standard error: standard output is for results."""
    stdout = sys.__stdout__
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # a process without standard streams
            if stdout is not None:
                stdout.flush()
                saved = os.dup(1)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, 1)
                os.dup2(2, 1)
                stack.callback(stdout.flush)
        yield
