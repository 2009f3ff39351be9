"""The verdict on a plugin: a state, the reason, and what would change it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lcm import settings
from lcm.backend import contract
from lcm.backend.manifest import Manifest
from lcm.backend.plugins import Plugin
from lcm.host import FEATURES, Host, near_features, parse_mask
from lcm.host.record import OS_NAMES

STATES = {
    "blocked": "the user has switched it off",
    "invalid": "it is not a plugin that can be understood",
    "ineligible": "this machine lacks something that it needs",
    "incompatible": "it was made for another version of lcm",
    "crashed": "an attempt to load it killed the process",
    "failed": "it could not be loaded, or gave wrong results",
    "ready": "it is loaded and has passed its self-test",
}


@dataclass(frozen=True)
class Verdict:
    """What is so with one plugin on one host."""

    name: str
    distribution: str
    version: str
    state: str
    reason: str
    fix: str = ""
    manifest: Manifest | None = None


def verdict(plugin: Plugin, state: str, reason: str, fix: str = "") -> Verdict:
    """The verdict of this state on this plugin."""
    identity = (plugin.name, plugin.distribution, plugin.version)
    return Verdict(*identity, state, reason, fix, plugin.manifest)


def judge(plugin: Plugin, host: Host) -> Verdict | None:
    """What speaks against the plugin on this host, from static data alone; None if nothing does."""
    for state, check in _CHECKS:
        for reason, fix in check(plugin, host):
            return verdict(plugin, state, reason, fix)
    return None


# A check yields pairs of a reason and a fix; the first one counts.
Problems = Iterator[tuple[str, str]]


def _blocked(plugin: Plugin, host: Host) -> Problems:
    disabled = settings.find("disable")
    if plugin.name in disabled.value.replace(",", " ").split():
        yield f"switched off by {disabled.source}", f"take {plugin.name} out of {disabled.source}"


def _invalid(plugin: Plugin, host: Host) -> Problems:
    if plugin.problem:
        yield plugin.problem, plugin.fix


def _ineligible(plugin: Plugin, host: Host) -> Problems:
    manifest, here = plugin.manifest, f"this is {host.describe()}"
    assert manifest is not None, "invalid plugins have been sorted out"
    if manifest.os and host.os.value not in manifest.os:
        yield f"needs {' or '.join(OS_NAMES[name] for name in manifest.os)}, {here}", ""
    if manifest.arch and host.arch.value not in manifest.arch:
        native = host.rosetta.value and "aarch64" in manifest.arch
        fix = "use a Python for arm64, not one under Rosetta" if native else ""
        yield f"needs {' or '.join(manifest.arch)}, {here}", fix
    unknown = [name for name in manifest.features if name not in FEATURES]
    for name in unknown:
        yield f"needs {name!r}, a feature that lcm does not know{near_features(name)}", ""
    missing = [name for name in manifest.features if not host.has(name)]
    masked = parse_mask(settings.get("isa_mask")) & set(missing)
    if missing and masked == set(missing):
        source = settings.find("isa_mask").source
        yield f"needs {' '.join(missing)}, taken away by {source}", f"change {source}"
    if missing:
        yield f"needs {' '.join(missing)}, which this {host.label.value} does not have", ""
    least = manifest.least_features()
    if least and manifest.library_for(host.has) is None:
        yield f"needs {' or '.join(least)}, which this {host.label.value} does not have", ""


def _incompatible(plugin: Plugin, host: Host) -> Problems:
    manifest = plugin.manifest
    assert manifest is not None, "invalid plugins have been sorted out"
    ours, oldest = contract.ABI, contract.ABI_OLDEST
    if manifest.abi > ours and (manifest.abi_min is None or manifest.abi_min > ours):
        yield f"speaks ABI {manifest.abi}, this lcm up to {ours}", "pip install --upgrade lcm"
    if manifest.abi < oldest:
        fix = f"pip install --upgrade {plugin.distribution}"
        yield f"speaks ABI {manifest.abi}, this lcm from {oldest} on", fix


_CHECKS: tuple[tuple[str, Callable[[Plugin, Host], Problems]], ...] = (
    ("blocked", _blocked),
    ("invalid", _invalid),
    ("ineligible", _ineligible),
    ("incompatible", _incompatible),
)
