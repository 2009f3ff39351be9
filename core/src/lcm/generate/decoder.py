"""Running a model over a growing text: the prompt at once, then a recorded program for each further token."""

from collections.abc import Sequence

import numpy as np

from lcm.nn import KVCache, Model
from lcm.program import Program, record
from lcm.recording import no_grad
from lcm.tensor import Tensor

# Rows of the prompt that run together: the scores of attention stay small, products stay large.
PREFILL = 256


class Decoder:
    """A model with the keys and values of the text so far."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._ids = Tensor(np.zeros((1, 1), np.int32))
        self.program: Program[Tensor] | None = None
        self.cache: KVCache = model.new_cache()

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Take in the prompt, at least one token; the logits (vocabulary,) of what comes after it."""
        if self.cache.reserve(len(ids)):
            self.program = None
        with no_grad():
            for first in range(0, len(ids), PREFILL):
                rows = np.asarray(ids[first : first + PREFILL], np.int32).reshape(1, -1)
                hidden = self._model.hidden(Tensor(rows), self.cache)
                self.cache.advance(rows.size)
            last = hidden.slice(1, rows.size - 1, rows.size)
            return self._model.logits(last).data.reshape(-1)

    def step(self, token: int) -> np.ndarray:
        """Take in one more token; the logits of what comes after it, overwritten by the next step."""
        if self.cache.reserve(1):
            self.program = None  # its buffers have moved
        self._ids.data[0, 0] = token
        if self.program is None:
            self.program = record(self._forward)
            logits = self.program.result
        else:
            logits = self.program()
        self.cache.advance(1)
        return logits.data.reshape(-1)

    def _forward(self) -> Tensor:
        return self._model.logits(self._model.hidden(self._ids, self.cache))
