"""The tables of benchmarks/README.md, from what is recorded."""

from collections.abc import Iterator, Mapping
from typing import Any

from arm.cores import CORES, LIBRARIES
from arm.counts import Case, cases
from arm.loops import LOOPS

Row = tuple[Any, ...]
PLACES = [f"{core}, {library}" for core, libraries in CORES.items() for library in libraries]


def all_of(document: Mapping[str, Any]) -> str:
    """Both, in Markdown."""
    return f"{_table(*_loops(document['loops']))}\n\n{_table(*_calls(document['calls']))}\n"


def _loops(loops: Mapping[str, Any]) -> Iterator[Row]:
    yield ("loop", *(place.replace("neoverse-", "").removesuffix(" i8mm") for place in PLACES))
    for loop in LOOPS:
        found = (loops[loop][place] for place in PLACES)
        yield (f"`{loop}`", *(f"{a_cycle(one):.1f} ({100 * one['share']:.0f} %)" for one in found))


def a_cycle(cost: Mapping[str, Any]) -> float:
    """Multiply-adds."""
    each: float = cost["multiply-adds"] / cost["cycles"]
    return each


def _calls(calls: Mapping[str, Any]) -> Iterator[Row]:
    yield ("kernel", *LIBRARIES, "for each", "sve256 / neon")
    by_name = {case.name: case for case in cases()}
    for name in (name for name in by_name if name in calls):
        found = [calls[name][library] for library in LIBRARIES]
        work, unit = _work(by_name[name])
        ratio = calls[name]["sve256 i8mm"] / calls[name]["neon i8mm"]
        yield (name, *(f"{count / work:.3g}" for count in found), unit, f"{ratio:.2f}")


def _work(case: Case) -> tuple[float, str]:
    """How much the call does, and in what: multiply-adds of products, or numbers of the largest array."""
    from lcm.backend import measure
    from lcm.backend.selftest import parse
    from lcm.ops.cases import widest

    operations, _ = measure.cost(case.symbol, case.sizes)
    if operations:
        return operations / 2, "multiply-add"
    return widest(parse(case.symbol)[0], dict(case.sizes)), "number"


def _table(head: Row, *rows: Row) -> str:
    return "\n".join(
        "| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) * len(head), *rows)
    )
