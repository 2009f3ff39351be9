"""Learning rates over a run: a warm-up, then one of four shapes."""

import math
from collections.abc import Callable

from lcm.errors import UsageError

# From progress after the warm-up, 0 … 1, and the final share to the share of the full rate.
SHAPES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda done, final: 1.0,
    "linear": lambda done, final: 1 - done * (1 - final),
    "cosine": lambda done, final: final + (1 - final) * (1 + math.cos(math.pi * done)) / 2,
    # Warm-up, stable, decay: full rate, then down to the final share over the last fifth.
    "wsd": lambda done, final: 1 - max(0.0, (done - 0.8) / 0.2) * (1 - final),
}


def learning_rate(
    step: int, *, steps: int, peak: float, warmup: int, shape: str, final: float
) -> float:
    """The rate of `step`, 1 … `steps`: rising to `peak` over `warmup` steps, ending at peak * final."""
    if shape not in SHAPES:
        raise UsageError(f"no schedule {shape!r}; there are: {', '.join(SHAPES)}")
    if step <= warmup:
        return peak * step / warmup
    return peak * SHAPES[shape](min(1.0, (step - warmup) / max(1, steps - warmup)), final)
