"""Numbers that are none, infinite or tiny: where an op says what comes of them, and whether a kernel agrees.

What the body gives in f32, a kernel gives: a NaN where it has a NaN, an infinity of the same sign where it
has one, and numbers within the tolerances elsewhere. It is asked for where the formula leaves no choice: not
for keys that a row of attention does not see, which must be finite, and not for infinities in gradients.
"""

from collections.abc import Iterator

import numpy as np

from lcm import formats
from lcm.backend.contract import Kernel
from lcm.ops.cases import widest
from lcm.testing.examination import Refused, call, guard, in_f64, result_of
from lcm.testing.shapes import LEVELS
from lcm.testing.tolerances import rule
from lcm.testing.trial import Arguments, Trial, right_results, trials

VALUES = {
    "NaN": (np.nan,),
    "infinite": (np.inf, -np.inf),
    "denormal": (1e-40, -3e-42, 1e-45, 0.0, -0.0),
}
EVERY = tuple(VALUES)

# By op, or by kernel: the inputs that may hold such numbers, and which.
FORWARD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": (("x", "weight", "bias"), EVERY),
    "linear_int8": (("x", "bias"), ("NaN", "denormal")),
    "matmul": (("x", "y"), EVERY),
    "embedding": (("weight",), EVERY),
    "cache_write": (("x",), EVERY),
    "cache_write__q8_0": (("x",), ("denormal",)),
    "add": (("x", "y"), EVERY),
    "sum_squares": (("x",), EVERY),
    "rms_norm": (("x",), EVERY),
    "layer_norm": (("x",), EVERY),
    "softmax": (("x",), EVERY),
    "cross_entropy": (("logits",), EVERY),
    "rope": (("x",), EVERY),
    "attention": (("q",), ("NaN", "denormal")),
    "attention_with_sinks": (("q",), ("NaN", "denormal")),
    "gelu": (("x",), EVERY),
    "silu": (("x",), EVERY),
    "swiglu": (("gate", "up"), EVERY),
    "geglu": (("gate", "up"), EVERY),
    "adamw_step": (("grad", "param"), EVERY),
    "sgd_step": (("grad", "param"), EVERY),
}
# The same for gradients.
BACKWARD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    name: (("out_grad",), ("NaN", "denormal")) for name in FORWARD if not name.startswith("attention")
}


def defined(symbol: str) -> bool:
    """Whether the kernel's op says what becomes of such numbers."""
    return bool(_table(Trial(symbol, {})))


def _table(trial: Trial) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    op, _, is_gradient = trial.kind
    table = BACKWARD if is_gradient else FORWARD
    return table.get(trial.symbol) or table.get(op.name)


def problems(symbol: str, kernel: Kernel, level: str) -> Iterator[str]:
    """A line for each result that differs from the body's."""
    every = [t for t in trials(symbol, level) if t.numbers == "normal" and _middling(t)]
    for trial in every[:: 1 + len(every) // LEVELS[level].repeats]:
        names, kinds = _table(trial) or ((), ())
        for kind in kinds:
            arguments = trial.arguments()
            _sprinkle(trial, arguments, names, VALUES[kind])
            guarded = guard(trial, arguments)
            try:
                call(kernel, guarded.arguments)
            except Refused:
                continue
            for problem in _differences(trial, arguments, guarded.arguments):
                yield f"{trial} with {kind} numbers in {' and '.join(names)}: {problem}"


def _middling(trial: Trial) -> bool:
    return 0 not in trial.sizes.values() and widest(trial.kind[0], trial.sizes) <= 1 << 15


def _sprinkle(
    trial: Trial, arguments: Arguments, names: tuple[str, ...], values: tuple[float, ...]
) -> None:
    """Some such numbers, always the last one, in a copy of each array."""
    op, format, _ = trial.kind
    rng = np.random.default_rng(trial.seed)
    for name in names:
        spec = op.signature.arrays.get(name)
        stored = spec.stored_as(format) if spec else "f32"
        if (array := arguments[name]) is None or formats.FORMATS[stored].numbers > 1:
            continue
        arguments[name] = array = array.copy()
        places = {array.size - 1, *rng.integers(0, array.size, 1 + array.size // 30).tolist()}
        chosen = rng.choice(values, len(places)).astype(np.float32)
        array.reshape(-1)[sorted(places)] = formats.encode(chosen, stored)


def _differences(trial: Trial, arguments: Arguments, got: Arguments) -> Iterator[str]:
    body = right_results(trial.symbol, arguments, trial.results, double=False)
    right = right_results(trial.symbol, arguments, trial.results)
    given = in_f64(trial, arguments)
    for name in trial.results:
        given.want = right[name]
        found = result_of(trial, name, got)
        want = body[name].reshape(found.shape)
        for test in (np.isnan, np.isposinf, np.isneginf):
            differs = test(want) != test(found)
            if differs.any():
                at = tuple(int(i) for i in np.argwhere(differs)[0])
                yield f"{name}{list(at)} is {found[at]}, the body has {want[at]}"
                break
        else:
            with np.errstate(all="ignore"):
                allowed = np.broadcast_to(rule(trial.kind[0].name, name).allowed(given), want.shape)
                error = np.abs(found - right[name].reshape(found.shape))
                bad = np.isfinite(found) & np.isfinite(error) & (error > allowed)
            if bad.any():
                at = tuple(int(i) for i in np.argwhere(bad)[0])
                yield f"{name}{list(at)} is {found[at]}, should be {right[name].reshape(want.shape)[at]}"
