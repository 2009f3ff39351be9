"""Timing kernels as a program calls them, on random arguments, in turns with their rivals."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lcm import formats
from lcm.backend import dispatch
from lcm.backend.contract import Backend
from lcm.backend.dispatch import Asked
from lcm.backend.selftest import parse
from lcm.backend.tuning import identity
from lcm.errors import LcmError, UsageError
from lcm.ops.cases import case, fixed_sizes, in_blocks, possible
from lcm.ops.cost import flops, traffic
from lcm.ops.signature import Bound
from lcm.program import record
from lcm.tensor import Tensor

Call = Callable[[], object]

BUDGET = 0.3  # seconds for all candidates at one shape, once they are warm
TURN = 0.003  # seconds of calls that a candidate makes at a stretch
LEAST, MOST = 5, 15  # turns of a candidate
PATIENCE = 0.3  # seconds to wait for threads that have not gone to sleep
STEADY = 0.2  # of the median of its turns, the best one's least may be off; more on a busy machine
HOPELESS = 3.0  # so many times as slow as the best, a candidate has had its last turn

# Shapes at which a kernel should reach what the machine can do: products of a middling model, and arrays of
# tens of megabytes; in others every size is 64.
LARGE: dict[str, dict[str, int]] = {
    "linear": {"rows": 256, "inputs": 896, "outputs": 4864},
    "matmul": {"batch": 16, "rows": 512, "inner": 64, "columns": 512},
    "attention": {"rows": 512, "capacity": 512, "heads": 16, "kv_heads": 4, "width": 64, "batch": 1},
    "self_attention": {"rows": 512, "three": 3, "heads": 16, "width": 64, "batch": 1},
    "rope": {"batch": 1, "rows": 4096, "heads": 16, "width": 128, "half": 64, "positions": 4096},
    "cache_write": {"batch": 1, "rows": 4096, "capacity": 8192, "heads": 16, "width": 128},
    "embedding": {"rows": 8192, "width": 1024, "vocabulary": 16384},
    "cross_entropy": {"rows": 512, "classes": 32768},
    "rms_norm": {"rows": 4096, "width": 1024},
    "layer_norm": {"rows": 4096, "width": 1024},
    "softmax": {"rows": 4096, "width": 1024},
}  # fmt: skip
COUNT = 1 << 22  # of an op on numbers one by one

# What a plain machine does in a second: enough to tell large calls from small ones.
FLOPS, BYTES = 50e9, 10e9


class Comparison(NamedTuple):
    """Seconds of every candidate, by name, None where it refused; whether the fastest's turns agree."""

    seconds: dict[str, float | None]
    steady: bool


def seconds(symbol: str, sizes: Mapping[str, int], backend: Backend | None) -> float:
    """The time of a call on this backend; None is the op's body. `LcmError` where it refuses."""
    return statistics.median(
        in_turns({"": call_on(symbol, arguments_of(symbol, sizes), backend)})[""]
    )


def times(
    symbol: str, sizes: Mapping[str, int], backends: Mapping[str, Backend | None],
    budget: float = BUDGET,
) -> dict[str, float | None]:  # fmt: skip
    """The median time of a call on each backend, by name; None where it refuses the shape."""
    turns = _turns(symbol, sizes, backends, budget)
    return {name: statistics.median(turns[name]) if name in turns else None for name in backends}


def compare(
    symbol: str, sizes: Mapping[str, int], budget: float = BUDGET, *, anew: bool = False
) -> Comparison:
    """The median times of all candidates; the tuning table takes them in (it is not saved here).

    They are averaged with what was measured before, unless that is to be begun `anew`. The median, not the
    least: on a busy machine some libraries' calls are now and then a hundred times as slow.
    """
    backends = dispatch.candidates(symbol)
    turns = _turns(symbol, sizes, backends, budget)
    seconds = {n: statistics.median(turns[n]) if n in turns else None for n in backends}
    best = min(turns.values(), key=statistics.median)
    doubt = 1 - min(best) / statistics.median(best)
    steady = doubt < STEADY
    by_identity = {identity(backend): seconds[name] for name, backend in backends.items()}
    dispatch.table().add(symbol, sizes, by_identity, anew=anew, doubt=0 if steady else doubt)
    return Comparison(seconds, steady)


def _turns(
    symbol: str, sizes: Mapping[str, int], backends: Mapping[str, Backend | None], budget: float
) -> dict[str, list[float]]:
    """The turns of those backends that do not refuse the shape."""
    op, format, _ = parse(symbol)
    if not possible(op, sizes) or in_blocks(op, format, sizes) != dict(sizes):
        conditions = " and ".join(op.signature.where) or "sizes of 1 or more"
        whole = ", and weights of whole blocks" if is_in_blocks(symbol) else ""
        raise UsageError(f"{symbol}: no arguments of this shape: it needs {conditions}{whole}")
    arguments = arguments_of(symbol, sizes)
    calls = {}
    for name, backend in backends.items():
        if backend is None and len(backends) > 1 and is_in_blocks(symbol):
            continue  # the body decodes all weights in each call
        try:
            calls[name] = call_on(symbol, arguments, backend)
            calls[name]()
        except LcmError:
            calls.pop(name, None)
    return in_turns(calls, budget)


def new(asked: Iterable[Asked], budget: float) -> list[Asked]:
    """What only the prior decides; nothing, if the heaviest call that the seconds allow was measured before.

    `learn` begins with that one: what it had no time for is left to the prior, and not tried at every start.
    """
    affordable = [a for a in asked if _duration(a) <= budget]
    left = list(unmeasured(affordable))
    return left if left and max(affordable, key=_weight) in left else []


def learn(asked: Iterable[Asked], budget: float) -> int:
    """Measure what only the prior decides, the heaviest first, for so many seconds; how many shapes."""
    until, count = time.perf_counter() + budget, 0
    try:
        for one in sorted(unmeasured(asked), key=_weight, reverse=True):
            if time.perf_counter() + _duration(one) > until or not list(unmeasured([one])):
                continue  # too large for what is left, or near to one that has been measured
            compare(one.symbol, one.sizes, budget / 20)
            count += 1
    finally:
        if count:
            dispatch.table().save()
            dispatch.reset()
    return count


def _weight(asked: Asked) -> float:
    return asked.calls * _cost(asked)


def _duration(asked: Asked) -> float:
    """About how many seconds it takes to compare its candidates."""
    return 2 * LEAST * len(dispatch.candidates(asked.symbol)) * _cost(asked)


def large(symbol: str) -> dict[str, int]:
    """A shape of this kernel that keeps the machine busy for some milliseconds."""
    op, format, _ = parse(symbol)
    sizes = {s: COUNT if s == "count" else 64 for s in op.signature.symbols}
    found = {s: LARGE.get(op.name, sizes).get(s, sizes[s]) for s in sizes} | fixed_sizes(op)
    return in_blocks(op, format, found)


def unmeasured(asked: Iterable[Asked]) -> Iterable[Asked]:
    """Those calls that only the prior decides."""
    return (a for a in asked if dispatch.decide(a.symbol, a.sizes).reason == dispatch.PRIOR)


def in_turns(calls: Mapping[str, Call], budget: float = BUDGET) -> dict[str, list[float]]:
    """Seconds of each call, in each of its turns. So what disturbs the machine disturbs them all."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    until = time.perf_counter() + budget
    for turn in range(MOST):
        best = min((min(turns) for turns in found.values() if turns), default=0.0)
        for name, call in calls.items():
            if turn == 0 or min(found[name]) < HOPELESS * best:
                found[name].append(_turn(call, warm=turn == 0 or found[name][-1] < TURN))
        if turn + 1 >= LEAST and time.perf_counter() > until:
            break
    return found


def _turn(call: Call, *, warm: bool) -> float:
    """The median seconds of some calls in a row."""
    settle()
    if warm:
        call()  # wakes threads, and brings the arguments into the caches
    spans: list[float] = []
    until = time.perf_counter() + TURN
    while not spans or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        spans.append(time.perf_counter() - started)
    return statistics.median(spans)


def aftermath(symbol: str, sizes: Mapping[str, int], backend: Backend | None) -> float:
    """How many seconds of processor time this process takes after a call, with nothing left to do."""
    call = call_on(symbol, arguments_of(symbol, sizes), backend)
    call()
    settle()
    call()
    before = time.process_time()
    time.sleep(0.06)
    return time.process_time() - before


def settle() -> None:
    """Wait until no other thread of this process computes: many a library's spin for a while after a call.

    On two cores those of OpenBLAS, which by default do so for 100 ms, made the call of 40 µs that came next
    take 4 ms.
    """
    until = time.perf_counter() + PATIENCE
    while _others_run() and time.perf_counter() < until:
        time.sleep(0.0002)


def _others_run() -> bool:
    """Whether any thread but this one is running, or waits for a core."""
    own = str(threading.get_native_id())
    try:
        tasks = [task for task in os.listdir("/proc/self/task") if task != own]
    except OSError:  # not Linux: whether processor time passes while this thread sleeps
        before = time.process_time()
        time.sleep(0.005)
        return time.process_time() - before > 0.001
    return any(_state(task) == "R" for task in tasks)


def _state(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:  # it has ended
        return ""


# What is timed.


def arguments_of(symbol: str, sizes: Mapping[str, int]) -> Bound:
    """Random arguments of this kernel."""
    op, format, is_gradient = parse(symbol)
    rng = _Quick(np.random.PCG64(0))
    bound = case(op, rng, shape=sizes, format=format, requires_grad=is_gradient)
    for name, spec in op.signature.arrays.items():
        if name == "start" and spec.bound:  # as if caches were full
            bound.tensors[name].data[...] = eval(spec.bound, {}, dict(sizes)) - 1
    return bound


class _Quick(np.random.Generator):
    """Random numbers that repeat: drawing those of a large array takes longer than its kernels."""

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.resize(super().standard_normal(65_521, dtype), size)

    def choice(self, a: Any, size: Any = None, *others: Any, **named: Any) -> Any:
        return np.resize(super().choice(a, 65_521, *others, **named), size)


def is_in_blocks(symbol: str) -> bool:
    """Whether the weights of this kernel are in a block format."""
    op, format, _ = parse(symbol)
    stored = op.signature.stored
    return stored is not None and formats.FORMATS[stored.stored_as(format)].numbers > 1


def call_on(symbol: str, bound: Bound, backend: Backend | None) -> Call:
    """What a program does for this call, again and again; a gradient is that of a random result."""
    op, _, is_gradient = parse(symbol)
    if not is_gradient:
        if backend is None:
            return record(lambda: op.run_body(bound))
        return backend.kernels[symbol](op.arguments(bound))
    shape = bound.shape(op.signature.output) if op.signature.output else ()
    rng = _Quick(np.random.PCG64(1))
    y, g = (Tensor(rng.standard_normal(shape, np.float32)) for _ in range(2))
    if backend is None:
        return record(lambda: op.run_gradient_body(bound, g))
    return backend.kernels[symbol](op.gradient_arguments(bound, g, y))


def _cost(asked: Asked) -> float:
    """About how many seconds a call may take."""
    operations, moved = cost(asked.symbol, asked.sizes)
    return max(operations / FLOPS, moved / BYTES)


def cost(symbol: str, sizes: Mapping[str, int]) -> tuple[float, int]:
    """Operations of a call's products, and the bytes that it must move."""
    op, format, gradient = parse(symbol)
    return flops(op, sizes, gradient=gradient), traffic(op, sizes, format=format, gradient=gradient)


def parse_shape(symbol: str, text: str) -> dict[str, int]:
    """`512,896,4864` as sizes in the order of the op's signature, or `rows=512,inputs=896 …`."""
    op, _, _ = parse(symbol)
    names = op.signature.symbols
    parts = [p.strip() for p in text.split(",")]
    try:
        if all("=" in p for p in parts):
            sizes = {n.strip(): int(v) for n, v in (p.split("=") for p in parts)}
        else:
            sizes = dict(zip(names, map(int, parts), strict=True))
    except ValueError:
        sizes = {}
    if set(sizes) != set(names) or min(sizes.values()) < 1:
        raise UsageError(
            f"--shape for {symbol} is {','.join(names)} as whole numbers, not {text!r}"
        )
    return sizes
