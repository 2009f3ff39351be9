"""Which backend runs an op: an explicit argument, a context, a setting, the tuning table, or the prior.

A backend that the user chose runs whatever it can, and each op that it cannot is said once; without a choice
the fastest measured one runs. The prior, until there are measurements, is the kernel that asks for the most
features of the processor, and any kernel before the op's body.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lcm import settings
from lcm.backend import discovery, plugins
from lcm.backend.contract import Backend, Kernel
from lcm.backend.tuning import Table, identity
from lcm.errors import LcmWarning
from lcm.ops.op import Op
from lcm.ops.signature import Bound

REFERENCE = "reference"
PRIOR = "the prior: not measured yet"
MOST = 10_000  # decisions that are kept: a server may see every length of prompt there is

Key = tuple[str | int, ...]

_REHEARSAL = "(rehearsal)"
_context: ContextVar[str] = ContextVar("lcm_backend", default="")


@dataclass(frozen=True)
class Choice:
    """The backend for a kernel at some sizes, why it was taken, and the kernel (None: the op's body)."""

    backend: str
    reason: str
    kernel: Kernel | None


class Asked(NamedTuple):
    """A kernel that was asked for at these sizes, and how often."""

    symbol: str
    sizes: Mapping[str, int]
    calls: int


@dataclass
class _Decision:
    symbol: str
    sizes: Mapping[str, int]
    choice: Choice
    calls: int = 0


class _Memory:
    """What was decided in this process; emptied by `reset`."""

    def __init__(self) -> None:
        self.decisions: dict[Key, _Decision] = {}
        self.ran: Counter[tuple[str, str]] = Counter()  # of decisions that are not kept any more
        self.told: set[tuple[str, str]] = set()
        self.candidates: dict[str, dict[str, Backend | None]] = {}
        self.set_name: tuple[str, str] | None = None
        self.table: Table | None = None


_memory = _Memory()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Inside, every op runs on this backend where it can; `BackendError` at once if it cannot be had."""
    if name != REFERENCE:
        discovery.open_backend(name)
    token = _context.set(name)
    try:
        yield
    finally:
        _context.reset(token)


def choose(op: Op, bound: Bound, symbol: str, backend: str | None) -> Kernel | None:
    """The kernel for a call; None where the op's body runs."""
    key: Key = (symbol, backend or _context.get(), *bound.sizes.values())
    decision = _memory.decisions.get(key)
    if decision is None:
        decision = _Decision(symbol, bound.sizes, decide(symbol, bound.sizes, backend))
        if len(_memory.decisions) >= MOST:
            _memory.ran = _count()
            _memory.decisions.clear()
        _memory.decisions[key] = decision
    decision.calls += 1
    return decision.choice.kernel


def decide(symbol: str, sizes: Mapping[str, int], backend: str | None = None) -> Choice:
    """The choice, and its reason."""
    name, why = _wish(backend)
    return _obey(symbol, name, why) if name else _fastest(symbol, sizes)


def ran() -> dict[str, dict[str, int]]:
    """How often each kernel ran on each backend since the last `reset`."""
    table: dict[str, dict[str, int]] = {}
    for (symbol, backend), count in sorted(_count().items()):
        table.setdefault(symbol, {})[backend] = count
    return table


def seen() -> list[Asked]:
    """Every kernel that was asked for since the last `reset`, once for each shape."""
    return [Asked(d.symbol, d.sizes, d.calls) for d in _memory.decisions.values()]


def rehearse(function: Callable[[], object]) -> list[Asked]:
    """What the function asks for: it runs, but no kernel computes anything, and its results are rubbish."""
    mark = _context.set(_REHEARSAL)
    try:
        with np.errstate(all="ignore"):
            function()
    finally:
        _context.reset(mark)
        mine = {k: d for k, d in _memory.decisions.items() if k[1] == _REHEARSAL}
        for key in mine:
            del _memory.decisions[key]
    return [Asked(d.symbol, d.sizes, d.calls) for d in mine.values()]


def candidates(symbol: str) -> dict[str, Backend | None]:
    """Every ready backend that has the kernel, in the prior's order; the reference is last."""
    if symbol not in _memory.candidates:
        found = {b.name: b for b in by_features() if symbol in b.kernels}
        _memory.candidates[symbol] = found | {REFERENCE: None}
    return _memory.candidates[symbol]


def has_kernel(symbol: str) -> bool:
    """Whether what runs here is a backend's kernel, and not the op's body."""
    name, _ = _wish(None)
    return any(name in ("", backend) for backend in candidates(symbol) if backend != REFERENCE)


def by_features() -> list[Backend]:
    """Every ready backend, those first that ask for the most features of the processor."""
    features = {p.name: len(p.manifest.features) for p in plugins.installed() if p.manifest}
    return sorted(discovery.ready(), key=lambda b: (-features.get(b.name, 0), b.name))


def table() -> Table:
    """This host's tuning table, as it was when first needed."""
    if _memory.table is None:
        _memory.table = Table.of_this_host()
    return _memory.table


def reset() -> None:
    """Forget all that was decided, as after a change of settings or new measurements."""
    _memory.__init__()  # type: ignore[misc]


def has_choice() -> bool:
    """Whether there are several backends here, and nobody has chosen one."""
    return not _wish(None)[0] and len(discovery.ready()) > 1


def _count() -> Counter[tuple[str, str]]:
    count = _memory.ran.copy()
    for decision in _memory.decisions.values():
        count[decision.symbol, decision.choice.backend] += decision.calls
    return count


def _wish(backend: str | None) -> tuple[str, str]:
    if backend:
        return backend, "asked for by the call"
    if name := _context.get():
        return name, "asked for by use_backend"
    if _memory.set_name is None:
        setting = settings.find("backend")
        _memory.set_name = (setting.value, f"asked for by {setting.source}")
    return _memory.set_name


def _obey(symbol: str, name: str, why: str) -> Choice:
    if name == _REHEARSAL:
        return Choice(name, "nothing is computed", _bind_nothing)
    if name == REFERENCE:
        return Choice(REFERENCE, why, None)
    backend = discovery.open_backend(name)
    if symbol in backend.kernels:
        return Choice(name, why, backend.kernels[symbol])
    if (name, symbol) not in _memory.told:
        _memory.told.add((name, symbol))
        warnings.warn(
            LcmWarning(f"{name} has no kernel {symbol!r}: the reference runs it"), stacklevel=5
        )
    return Choice(REFERENCE, f"{name} was {why}, but has no {symbol}", None)


def _fastest(symbol: str, sizes: Mapping[str, int]) -> Choice:
    found = candidates(symbol)
    name, reason = next(iter(found)), PRIOR
    if len(found) == 1:
        reason = "the only one that has it"
    else:
        names = {identity(backend): name for name, backend in found.items()}
        if near := table().nearest(symbol, sizes, names):
            shape, measured = near
            own = measured.best_of(names)
            name = names[own]
            where = "" if shape == dict(sizes) else f" near this shape, at {in_words(shape, sizes)}"
            sure = measured.seconds[own] == min(s for s in measured.seconds.values() if s)
            reason = f"the fastest measured here{where}{'' if sure else ', as far as can be told'}"
    backend = found[name]
    return Choice(name, reason, backend.kernels[symbol] if backend else None)


def in_words(shape: Mapping[str, int], order: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={shape[name]}" for name in order)


def _bind_nothing(arguments: Mapping[str, Any]) -> Callable[[], object]:
    return _do_nothing


def _do_nothing() -> None:
    pass
