"""Running a model over a growing text: the prompt at once, then recorded programs for what comes after it."""

import math
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from lcm.caches import KVCache, Layers, OneByOne
from lcm.nn import Model
from lcm.program import Program, record
from lcm.recording import no_grad
from lcm.tensor import Tensor

# Rows of the prompt that run together: the scores of attention stay small, products stay large.
PREFILL = 256


class Decoder:
    """A model with the text so far, and its keys and values."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.cache: KVCache = model.new_cache()
        self._tokens: list[int] = []
        # By how many tokens a program takes in: where it finds them, and it.
        self._programs: dict[int, tuple[Tensor, Program[Tensor]]] = {}
        self.recording_seconds = math.inf  # that the program of a step took to make

    @property
    def tokens(self) -> list[int]:
        """The text so far."""
        return self._tokens[: self.cache.length]

    @property
    def program(self) -> Program[Tensor] | None:
        """What `step` runs, once there was a step."""
        return self._programs[1][1] if self.has_program(1) else None

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Take in the prompt, at least one token; the logits (vocabulary,) of what comes after it."""
        self._reserve(len(ids))
        program = None
        for first in range(0, len(ids), PREFILL):
            part = np.array([ids[first : first + PREFILL]], np.int32)
            if part.size < PREFILL or len(ids) == PREFILL:  # once
                with no_grad():
                    hidden = self.model.hidden(Tensor(part), self.cache)
            elif program is None:
                rows = Tensor(part)
                program = record(partial(self.model.hidden, rows, self.cache))
                hidden = program.result
            else:
                rows.data[...] = part
                hidden = program()
            self._advance(ids[first : first + PREFILL])
        with no_grad():
            last = hidden.slice(1, part.size - 1, part.size)
            logits: np.ndarray = self.model.logits(last).data.reshape(-1)
            return logits

    def step(self, token: int) -> np.ndarray:
        """Take in one more token; the logits of what comes after it, overwritten by the next step."""
        return self.steps([token]).reshape(-1)

    def steps(self, tokens: Sequence[int]) -> np.ndarray:
        """Take in a few more; the logits (tokens, vocabulary) after each, overwritten by the next so many.

        A row is what `step` gives, up to the last bits where a kernel adds in another order for more rows.
        """
        self._reserve(len(tokens))
        if found := self._programs.get(len(tokens)):
            ids, program = found
            ids.data[0] = tokens
            logits = program()
        else:
            logits = self._record(tokens).result
        self._advance(tokens)
        return logits.data.reshape(len(tokens), -1)

    def _record(self, tokens: Sequence[int]) -> Program[Tensor]:
        started = time.perf_counter()
        ids = Tensor(np.array([tokens], np.int32))
        program = record(partial(self._forward, ids))
        self._programs[len(tokens)] = ids, program
        if len(tokens) == 1:
            self.recording_seconds = time.perf_counter() - started
        return program

    def has_program(self, tokens: int) -> bool:
        """Whether `steps` has run for so many tokens, and can again without being recorded."""
        return tokens in self._programs

    def fill(self, tokens: Sequence[int], layers: Layers, reach: int) -> None:
        """Begin with tokens whose keys and values are known, of a text that is to have `reach`."""
        self._programs.clear()
        self.cache.fill(layers, reach)
        self._tokens = list(tokens)

    def forget_programs(self) -> None:
        """Let go of the memory of programs, and of the kernels that they were made of."""
        self._programs.clear()

    def _forward(self, ids: Tensor) -> Tensor:
        tokens = ids.shape[1]
        cache = self.cache if tokens == 1 else OneByOne(self.cache, tokens)
        return self.model.logits(self.model.hidden(ids, cache))

    def _reserve(self, tokens: int) -> None:
        if self.cache.reserve(tokens):
            self._programs.clear()  # the buffers have moved

    def _advance(self, tokens: Sequence[int]) -> None:
        self._tokens[self.cache.length :] = tokens
        self.cache.advance(len(tokens))


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
