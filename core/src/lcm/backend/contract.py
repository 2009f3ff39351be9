"""What a backend is to the core: kernels by symbol, under a numbered agreement."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Both sides work at the smaller of their two numbers. ABI_OLDEST is the smallest that we still do.
ABI = 1
ABI_OLDEST = 1

Kernel = Callable[[Mapping[str, Any]], Callable[[], object]]
"""Binds an op's arguments and returns the ready call.

The mapping has, by the names of the op's signature, numpy arrays for the tensors (the outputs too,
which the call writes), whole numbers for the sizes, and the scalars. Binding may be slow: the call
is made many times, with whatever the arrays then hold, and it allocates nothing.
"""


@dataclass(frozen=True)
class Backend:
    """The ops that one plugin makes faster. What it does not have runs by the op's definition."""

    name: str
    kernels: Mapping[str, Kernel]  # by symbol: "linear", "linear__bf16", "rms_norm_grad"
    version: str = ""
    library: str | None = None  # the absolute path of the shared library, where there is one
    threads: Callable[[int], None] | None = None  # sets the number of threads
    notes: Mapping[str, str] = field(default_factory=dict)  # what `lcm doctor` prints
