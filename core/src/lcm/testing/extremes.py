"""Products whose terms are as large as they can be: what a kernel adds up in few bits overflows there.

Of x, each 32 numbers are rounded to 127, or to -127; in a block of weights all have the same bits.
"""

from collections.abc import Iterator

import numpy as np

from lcm import formats
from lcm.backend.contract import Kernel
from lcm.formats.interleaved import FIELDS, INTERLEAVED
from lcm.ops.linear import ROUNDED
from lcm.testing.examination import Refused, call, guard, wrong
from lcm.testing.shapes import LEVELS
from lcm.testing.trial import right_results, trials

# All bits are set, or none is; the ends of signed bytes; and of signed halves of bytes.
BYTES = (0x00, 0xFF, 0x7F, 0x80, 0x77, 0x88)
NUMBERS = 4  # bytes of a unit of a field that has numbers; the others have scales


def problems(symbol: str, kernel: Kernel, level: str) -> Iterator[str]:
    """A line for each result that is not right."""
    every = [
        t for t in trials(symbol, level) if t.numbers == "normal" and 0 not in t.sizes.values()
    ]
    for trial in every[:: 1 + len(every) // LEVELS[level].repeats]:
        rng = np.random.default_rng(trial.seed)
        arguments = trial.arguments()
        arguments["x"] = _signs(arguments["x"].shape, rng)
        arguments["weight"] = _extreme(arguments["weight"], trial.kind[1], rng)
        want = right_results(symbol, arguments, trial.results)
        guarded = guard(trial, arguments)
        try:
            call(kernel, guarded.arguments)
        except Refused:
            continue
        for problem in wrong(trial, arguments, want, guarded.arguments):
            yield f"{trial} with x of 1 and -1 and weights of the same bits: {problem}"


def _signs(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    rows, inputs = shape
    signs = rng.choice(np.array((-1, 1), np.float32), (rows, inputs // ROUNDED))
    return np.repeat(signs, ROUNDED, axis=1)


def _extreme(weight: np.ndarray, format: str, rng: np.random.Generator) -> np.ndarray:
    if format in INTERLEAVED:
        of = INTERLEAVED[format].of
        return formats.interleave(_extreme(formats.separate(weight, format), of, rng), format)
    made = weight.copy()
    blocks = made.view(np.uint8).reshape(*weight.shape, -1)
    for first, end, unit in FIELDS[format]:
        if unit == NUMBERS:
            blocks[..., first:end] = rng.choice(BYTES, (*weight.shape, 1))
    return made
