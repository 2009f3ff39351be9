"""The backends of this machine: the verdict on every plugin, and the way to open one."""

import difflib
import functools
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping

from lcm import __version__, settings
from lcm.backend import ledger, opening, plugins, probe
from lcm.backend.contract import Backend
from lcm.backend.opening import Opened
from lcm.backend.plugins import Plugin
from lcm.backend.verdict import Verdict, judge, verdict
from lcm.errors import BackendError
from lcm.host import FEATURES, Host, current
from lcm.host import probe as probe_host
from lcm.packages import metadata

REFERENCE = Backend("reference", {}, notes={"kernels": "none: every op runs by its definition"})

# What may pass by itself is tried again after a day, or when something has been installed.
PASSING = ("failed", "ineligible")
A_DAY = 24 * 3600

_opened: dict[str, Opened] = {}  # by the key of the attempt, for the life of this process
_opening: set[str] = set()
_lock = threading.RLock()


def verdicts(host: Host | None = None) -> tuple[Verdict, ...]:
    """The verdict on every plugin and on the built-in reference, sorted by name.

    A plugin that nothing speaks against is tried in a child process, unless that was done before.
    For a host that is not this machine nothing is tried: `ready` then means eligible.
    """
    host = host or current()
    host.threads()  # as in _open
    here = is_here(host) and host.fingerprint() == current().fingerprint()
    tried = _tried if here else _untried
    found = [judge(plugin, host) or tried(plugin, host) for plugin in plugins.installed()]
    reference = Verdict(
        "reference", "lcm", __version__, "ready", "built in: every op runs by its definition"
    )
    return tuple(sorted([*found, reference], key=lambda verdict: verdict.name))


def open_backend(name: str) -> Backend:
    """The backend of this name, opened; `BackendError` says why not and what would do."""
    if name == "reference":
        return REFERENCE
    for plugin in plugins.installed():
        if plugin.name == name:
            opened = _open(plugin, current())
            if isinstance(opened, Verdict):
                raise BackendError(_refusal(opened))
            assert opened.backend is not None, "a ready plugin has a backend"
            return opened.backend
    raise BackendError(f"no backend {name!r} here: {_absent(name)}; ready: {_ready_names()}")


def ready() -> tuple[Backend, ...]:
    """Every backend that is ready here, opened, sorted by name; always with the reference."""
    backends = [REFERENCE]
    for plugin in plugins.installed():
        opened = _open(plugin, current())
        if isinstance(opened, Opened) and opened.backend is not None:
            backends.append(opened.backend)
    return tuple(sorted(backends, key=lambda backend: backend.name))


def doctor_checks(name: str) -> Mapping[str, Callable[[], str]]:
    """The checks that the plugin of this name adds to `lcm doctor`, by their names."""
    for plugin in plugins.installed():
        opened = _open(plugin, current()) if plugin.name == name else None
        if isinstance(opened, Opened) and opened.hooks is not None:
            return dict(opened.hooks.hook.doctor_checks() or {})
    return {}


def retry(name: str) -> Verdict:
    """Forget what is remembered of this backend and try it again."""
    ledger.forget(name)
    for one in verdicts():
        if one.name == name:
            return one
    raise BackendError(f"no backend {name!r} here: {_absent(name)}")


def not_installed() -> dict[str, str]:
    """The backends that lcm offers for this kind of machine and that are not here: what pip calls them."""
    here = {plugin.name for plugin in plugins.installed()}
    offered = _offered().items()
    return {name: what for name, what in offered if name not in here and _means_something(name)}


def _means_something(name: str) -> bool:
    """Whether the processor has what a backend is named for; most are named for no instruction set."""
    family = [feature for feature in FEATURES if feature.startswith(name)]
    return not family or any(current().has(feature) for feature in family)


def is_here(host: Host) -> bool:
    """Whether the host is this machine, perhaps with features taken away."""
    here = probe_host()
    same = all(
        getattr(host, name).value == getattr(here, name).value
        for name in ("os", "arch", "label", "vector_bits", "rosetta")
    )
    return same and host.features.value <= here.features.value


def _untried(plugin: Plugin, host: Host) -> Verdict:
    return verdict(plugin, "ready", "eligible; not tried, for this is not the machine")


def _tried(plugin: Plugin, host: Host) -> Verdict:
    """What the ledger knows of the plugin on this host, after an attempt if it knows nothing.

    One that is trusted is not tried, but that an earlier process ended while opening it is heeded.
    """
    key = _key(plugin, host)
    if key in _opened:
        return _said(plugin, _opened[key])
    if plugin.name in _opening:
        return verdict(plugin, "failed", "it is being opened right now")
    known = _known(key)
    if known is None:
        with ledger.alone() as sure:
            known = _known(key) or _first_attempt(plugin, key, sure=sure)
    return _said(plugin, known)


def _known(key: str) -> Opened | None:
    outcome = ledger.recall(key)
    if outcome is None or outcome.state == "started":
        return None
    if outcome.state in PASSING and not (outcome.stamp == _stamp() and _age(outcome) < A_DAY):
        return None
    return Opened(outcome.state, outcome.reason)


def _age(outcome: ledger.Outcome) -> float:
    return time.time() - outcome.when


def _first_attempt(plugin: Plugin, key: str, *, sure: bool) -> Opened:
    """Try the plugin in a child process; `sure`: no other process is trying it."""
    if ledger.INSIDE in os.environ:
        return Opened("failed", f"not tried while {os.environ[ledger.INSIDE]} is being tried")
    outcome = ledger.recall(key)
    if sure and outcome and outcome.state == "started":
        died = Opened("crashed", "an earlier attempt ended together with the process that made it")
        return _remember(plugin, key, died)
    if _trust(plugin):
        return Opened("ready")
    return _attempt(plugin, key, lambda: probe.attempt(plugin))


def _attempt(plugin: Plugin, key: str, load: Callable[[], Opened]) -> Opened:
    ledger.record(key, ledger.Outcome(plugin.name, "started"))
    try:
        return _remember(plugin, key, load())
    except BaseException:
        ledger.erase(key)  # Ctrl-C is not the plugin's fault
        raise


def _remember(plugin: Plugin, key: str, opened: Opened) -> Opened:
    outcome = ledger.Outcome(plugin.name, opened.state, opened.reason, _stamp())
    ledger.record(key, outcome)
    return opened


def _said(plugin: Plugin, opened: Opened) -> Verdict:
    retry = "" if opened.state == "ready" else f"lcm backends --retry {plugin.name}"
    reason = opened.reason or _trust(plugin) or "passed its self-test"
    return verdict(plugin, opened.state, reason, retry)


def _open(plugin: Plugin, host: Host) -> Opened | Verdict:
    """The plugin opened in this process, or the verdict that stands against it."""
    host.threads()  # a wrong LCM_THREADS is the user's error, and not to be held against a plugin
    if not is_here(host):
        return judge(plugin, host) or verdict(plugin, "ineligible", "LCM_HOST is another machine")
    against = judge(plugin, host)
    if against is not None:
        return against
    with _lock:
        key = _key(plugin, host)
        if key not in _opened:
            said = _tried(plugin, host)
            if said.state != "ready":
                return said
            _opening.add(plugin.name)
            try:
                with ledger.alone():
                    load = functools.partial(opening.open_plugin, plugin, host)
                    opened = _attempt(plugin, key, load)
            finally:
                _opening.discard(plugin.name)
            if opened.state != "ready":
                return _said(plugin, opened)
            _opened[key] = opened
        return _opened[key]


def _trust(plugin: Plugin) -> str:
    """Why the plugin is used untried; empty where it is not."""
    trusted = settings.find("trust")
    if plugin.name in trusted.value.replace(",", " ").split():
        return f"not tried: {trusted.source} says that it can be trusted"
    return ""


def _key(plugin: Plugin, host: Host) -> str:
    """What an outcome depends on: host, versions, files, the setting that bears its name, and trust."""
    setting = settings.get(plugin.name) if plugin.name in settings.SETTINGS else ""
    parts = [plugin.name, plugin.version, __version__, host.fingerprint(), plugin.files(), setting]
    if _trust(plugin):
        parts.append("trusted")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _stamp() -> str:
    """What a failure may be cured by: an installation."""
    return hashlib.sha256(repr(plugins.path_stamp()).encode()).hexdigest()[:12]


def _refusal(said: Verdict) -> str:
    """`no backend 'metal' here: needs macOS, this is Linux (x86_64); ready: reference`."""
    fix = f" ({said.fix})" if said.fix else ""
    return f"no backend {said.name!r} here: {said.reason}{fix}; ready: {_ready_names()}"


def _ready_names() -> str:
    return ", ".join(said.name for said in verdicts() if said.state == "ready")


def _absent(name: str) -> str:
    """Why a name means nothing here: not installed, or not quite spelled so."""
    offered = _offered()
    if name in offered:
        return f"it is not installed: pip install '{offered[name]}'"
    names = {*offered, *(plugin.name for plugin in plugins.installed()), "reference"}
    near = difflib.get_close_matches(name, sorted(names), n=1)
    return f"did you mean {near[0]!r}?" if near else "there is no plugin of this name"


@functools.cache
def _offered() -> dict[str, str]:
    """The backends among lcm's own extras, by name, with what pip calls them."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("lcm") or []
    except metadata.PackageNotFoundError:
        return {}
    requirements = [Requirement(line) for line in lines if "extra ==" in line]
    named = {one.name.removeprefix("lcm-"): one for one in requirements if one.name != "lcm"}
    return {
        name: f"{one.name}{one.specifier}"
        for name, one in named.items()
        if one.name.startswith("lcm-") and one.marker and one.marker.evaluate({"extra": name})
    }
