"""Which backend runs an op: an explicit argument, a context, a setting, the tuning table, or the prior.

A backend that the user chose runs whatever it can, and each op that it cannot is said once; without a choice
the fastest measured one runs, and until there are measurements any kernel before the op's body.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from lcm import settings
from lcm.backend import discovery
from lcm.backend.contract import Backend, Kernel
from lcm.backend.tuning import Table, bucket, identity
from lcm.errors import LcmWarning
from lcm.ops.op import Op
from lcm.ops.signature import Bound

REFERENCE = "reference"

_context: ContextVar[str] = ContextVar("lcm_backend", default="")


@dataclass(frozen=True)
class Choice:
    """The backend for a kernel at some sizes, why it was taken, and the kernel (None: the op's body)."""

    backend: str
    reason: str
    kernel: Kernel | None


class _Memory:
    """What was decided in this process; emptied by `reset`."""

    def __init__(self) -> None:
        self.choices: dict[tuple[str, str, str], Choice] = {}
        self.told: set[tuple[str, str]] = set()
        self.ran: Counter[tuple[str, str]] = Counter()
        self.seen: dict[tuple[str, str], dict[str, int]] = {}
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
    choice = decide(symbol, bound.sizes, backend)
    _memory.ran[symbol, choice.backend] += 1
    _memory.seen.setdefault((symbol, bucket(symbol, bound.sizes)), dict(bound.sizes))
    return choice.kernel


def decide(symbol: str, sizes: Mapping[str, int], backend: str | None = None) -> Choice:
    """The choice, and its reason."""
    name, why = _wish(backend)
    key = (symbol, bucket(symbol, sizes), name)
    if key not in _memory.choices:
        _memory.choices[key] = _obey(symbol, name, why) if name else _fastest(symbol, key[1])
    return _memory.choices[key]


def ran() -> dict[str, dict[str, int]]:
    """How often each kernel ran on each backend since the last `reset`."""
    table: dict[str, dict[str, int]] = {}
    for (symbol, backend), count in sorted(_memory.ran.items()):
        table.setdefault(symbol, {})[backend] = count
    return table


def seen() -> list[tuple[str, dict[str, int]]]:
    """Every kernel that was asked for since the last `reset`, with sizes: one for each bucket."""
    return [(symbol, sizes) for (symbol, _), sizes in _memory.seen.items()]


def candidates(symbol: str) -> dict[str, Backend | None]:
    """Every ready backend that has the kernel, by name; the reference, which has all, is last."""
    found: dict[str, Backend | None] = {b.name: b for b in discovery.ready() if symbol in b.kernels}
    return found | {REFERENCE: None}


def table() -> Table:
    """This host's tuning table, as it was when first needed."""
    if _memory.table is None:
        _memory.table = Table.of_this_host()
    return _memory.table


def reset() -> None:
    """Forget all that was decided, as after a change of settings or new measurements."""
    _memory.__init__()  # type: ignore[misc]


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


def _fastest(symbol: str, key: str) -> Choice:
    found = candidates(symbol)
    names = {identity(b) if b else REFERENCE: n for n, b in found.items()}
    name = table().choice(key, names)
    if name:
        reason = "the fastest measured here" if len(found) > 1 else "the only one that has it"
    else:
        name = next(iter(found))
        reason = "the prior: not measured yet" if len(found) > 1 else "the only one that has it"
    backend = found[name]
    return Choice(name, reason, backend.kernels[symbol] if backend else None)
