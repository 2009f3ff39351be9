"""lcm bench ops: every kernel on every backend, at shapes that models ask for, beside the limits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from lcm.backend import dispatch, limits, measure
from lcm.backend.contract import Backend
from lcm.backend.limits import Limits
from lcm.backend.selftest import parse
from lcm.bench import machine
from lcm.bench.results import Results, Row, Value, until_interrupted
from lcm.bench.timing import repeat
from lcm.errors import LcmError, UsageError
from lcm.ops import CATALOGUE
from lcm.ops.cases import in_blocks

Sizes = Mapping[str, int]

# One token, a few, and a prompt of a model of half a billion parameters; a batch of a small one in training.
SHAPES: dict[str, tuple[Sizes, ...]] = {
    "linear": (
        {"rows": 1, "inputs": 896, "outputs": 4864},
        {"rows": 16, "inputs": 896, "outputs": 4864},
        {"rows": 512, "inputs": 896, "outputs": 4864},
        {"rows": 3072, "inputs": 384, "outputs": 1536},
    ),
    "linear_int8": (
        {"rows": 1, "inputs": 896, "outputs": 4864},
        {"rows": 512, "inputs": 896, "outputs": 4864},
    ),
    "attention": (
        {"batch": 1, "rows": 1, "heads": 14, "width": 64, "capacity": 2048, "kv_heads": 2},
        {"batch": 1, "rows": 512, "heads": 14, "width": 64, "capacity": 512, "kv_heads": 2},
    ),
    "self_attention": ({"batch": 12, "rows": 256, "three": 3, "heads": 6, "width": 64},),
    "rms_norm": ({"rows": 1, "width": 896}, {"rows": 3072, "width": 384}),
    "layer_norm": ({"rows": 1, "width": 896}, {"rows": 3072, "width": 384}),
    "cross_entropy": ({"rows": 3072, "classes": 65}, {"rows": 512, "classes": 32768}),
}


def run(
    ops: Sequence[str] = (), backends: Sequence[str] = (), shape: str = "", *, budget: float = 0.2,
    progress: machine.Progress = str,
) -> Results:  # fmt: skip
    """The kernels of these ops (or these kernels; of all, if none is named) on these backends (or all)."""
    asked = symbols(ops, backends)
    here = machine.record()
    _limits()  # and again at the end: others may use the machine at either time
    rows: list[tuple[Row, str, Sizes]] = []
    with until_interrupted(rows) as stopped:
        for symbol in asked:
            able = dispatch.candidates(symbol)
            for sizes in [measure.parse_shape(symbol, shape)] if shape else shapes(symbol):
                for name in [n for n in able if not backends or n in backends]:
                    progress(f"{symbol} {_in_words(sizes)}: {name}")
                    row = _row(symbol, sizes, name, able[name], budget)
                    rows.append((row, symbol, sizes))
    peak = _limits(again=True)
    told = tuple(_with_figures(*one, peak) for one in rows)
    found = {"limits": asdict(peak) if peak else None}
    return Results("ops", here | found, told, (*_remarks(peak), *stopped))


def symbols(ops: Sequence[str], backends: Sequence[str]) -> list[str]:
    """The kernels named; or every op, and every kernel of some backend but those of each block format."""
    ready = {b.name: b for b in dispatch.by_features()}
    for name in backends:
        if name not in ready:
            raise UsageError(f"no backend {name!r} is ready; those that are: {', '.join(ready)}")
    first = {op.signature.variants[0] for op in CATALOGUE.values()}
    every = sorted(first | {s for b in ready.values() for s in b.kernels})
    for name in ops:
        if name not in CATALOGUE:
            parse(name)
    if not ops:
        return [s for s in every if s in first or not measure.is_in_blocks(s)]
    return [s for s in every if s in ops or parse(s)[0].name in ops]


def shapes(symbol: str) -> Sequence[Sizes]:
    """Where this kernel is measured: nobody takes the gradient of a single row."""
    op, format, is_gradient = parse(symbol)
    found = (in_blocks(op, format, s) for s in SHAPES.get(op.name, (measure.large(symbol),)))
    ordered = ({name: sizes[name] for name in op.signature.symbols} for sizes in found)
    return [s for s in ordered if not is_gradient or s.get("rows", 2) > 1]


def _row(symbol: str, sizes: Sizes, name: str, backend: Backend | None, budget: float) -> Row:
    case = {"kernel": symbol, "shape": _in_words(sizes), "backend": name}
    try:
        call = measure.call_on(symbol, measure.arguments_of(symbol, sizes), backend)
        seconds = repeat(call, budget=budget)
    except LcmError as error:  # a kernel may refuse a shape
        return Row(case, note=str(error))
    return Row(case, seconds, note="measured once" if len(seconds) == 1 else "")


def _with_figures(row: Row, symbol: str, sizes: Sizes, peak: Limits | None) -> Row:
    """With rates, and the share of the limit that binds: the one that would take longer."""
    if not row.seconds:
        return row
    return Row(row.case, row.seconds, _figures(symbol, sizes, row.median, peak), row.note)


def _figures(symbol: str, sizes: Sizes, seconds: float, peak: Limits | None) -> dict[str, Value]:
    operations, moved = measure.cost(symbol, sizes)
    rates = operations / seconds / 1e9, moved / seconds / 1e9
    figures: dict[str, Value] = {
        "GFLOP/s": rates[0] or None,
        "GB/s": rates[1],
        "FLOP/byte": operations / moved if operations else None,
    }
    if peak is None:
        return figures
    shares = {"multiply-adds": rates[0] / peak.fma_f32, "reading": rates[1] / peak.read}
    bound = max(shares, key=shares.__getitem__)
    return figures | {"of limit": shares[bound], "limit": bound}


def _limits(again: bool = False) -> Limits | None:
    """What the backend with the most features that measures limits has found."""
    found = (limits.measured(b, again=again) for b in dispatch.by_features())
    return next((peak for peak in found if peak), None)


def _remarks(peak: Limits | None) -> Iterable[str]:
    yield "GB/s: each array read or written once, in the time that the call took"
    if peak is None:
        yield "no ready backend measures the machine's limits: pip install 'lcm[cpu]', and see lcm backends"
    else:
        yield (
            f"limits, measured: {peak.fma_f32:.0f} GFLOP/s in f32, {peak.read:.1f} GB/s from memory; "
            "more than 100 % of reading came from caches"
        )


def _in_words(sizes: Sizes) -> str:
    return ",".join(str(size) for size in sizes.values())
