"""The logits of a text, a few rows at a time, by the way that generation takes a prompt in.

B batch   T tokens   D model width   V vocabulary
"""

from collections.abc import Iterator

import numpy as np

from lcm.caches import KVCache
from lcm.generate.decoder import PREFILL
from lcm.nn import Model
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.train.split import IGNORE, Batch

NUMBERS = 1 << 22  # logits that there are at a time: those of 27 tokens, where V is 151,936


def scored(
    model: Model, batch: Batch, *, exact: bool = False
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """Logits (rows, V), and what came there (rows,) i32, where a batch (B, T) has something to predict.

    Keys and values are kept in the format that is set; `exact` keeps them as f32.
    """
    inputs, targets = batch
    cache = _exact_cache(model, len(inputs)) if exact else model.new_cache(len(inputs))
    cache.reserve(inputs.shape[1])
    step = max(1, NUMBERS // model.vocabulary)
    for first in range(0, inputs.shape[1], PREFILL):
        part = slice(first, first + PREFILL)
        ids = np.ascontiguousarray(inputs[:, part])
        with no_grad():
            hidden = model.hidden(Tensor(ids), cache)  # (B, T, D)
            cache.advance(ids.shape[1])
        came = targets[:, part].reshape(-1)
        hidden = hidden.reshape(1, came.size, -1)
        for row in range(0, came.size, step):
            last = min(row + step, came.size)
            if (came[row:last] == IGNORE).all():
                continue
            with no_grad():
                logits = model.logits(hidden.slice(1, row, last))
            yield logits.reshape(last - row, -1), came[row:last]


def _exact_cache(model: Model, batch: int) -> KVCache:
    return KVCache(*model.cache_shape, context=model.context, batch=batch, short=model.short)
