"""The table of what a backend supports: every op, by the format of its weights, and its gradient."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from lcm.ops import CATALOGUE

COLUMNS = ("f32", "bf16", "f16", "gradient")


def table(
    failures: Mapping[str, Collection[str]], refused: Mapping[str, Sequence[Any]]
) -> Iterator[str]:
    """Lines: for each kernel the number of claims that failed, and what it refuses.

    `refused` has, by kernel, how many trials of how many, and the first with the reason.
    """
    yield f"{'':16}" + "".join(f"{column:14}" for column in COLUMNS).rstrip()
    for name, op in sorted(CATALOGUE.items()):
        cells = {
            _column(symbol): _cell(symbol, failures, refused) for symbol in op.signature.kernels
        }
        yield f"{name:16}" + "".join(f"{cells.get(c, ''):14}" for c in COLUMNS).rstrip()
    for symbol, (count, trials, first) in sorted(refused.items()):
        yield f"{symbol} refuses {count} of {trials} trials: {first}"


def _column(symbol: str) -> str:
    if symbol.endswith("_grad"):
        return "gradient"
    return symbol.partition("__")[2] or "f32"


def _cell(
    symbol: str, failures: Mapping[str, Collection[str]], refused: Mapping[str, Sequence[Any]]
) -> str:
    if symbol not in failures:
        return "falls back"
    if count := len(failures[symbol]):
        return f"FAILS {count}"
    if symbol in refused:
        return "refuses all" if refused[symbol][0] == refused[symbol][1] else "refuses some"
    return "passes"
