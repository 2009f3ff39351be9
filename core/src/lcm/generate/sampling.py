"""Choosing the next token from logits: penalties, temperature, and the cuts top-k, top-p and min-p."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lcm.errors import NumericsError, UsageError


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; the defaults are greedy.

    Penalties are applied to the logits first, then temperature, then the cuts in the order written here.
    """

    temperature: float = 0.0  # 0 takes the most likely token
    top_k: int = 0  # keep the k most likely; 0 keeps all
    top_p: float = 1.0  # keep the most likely that together reach p (Holtzman et al., 2020)
    min_p: float = 0.0  # keep those at least this share as likely as the most likely
    repetition_penalty: float = (
        1.0  # divides positive logits of tokens seen, multiplies negative ones
    )
    presence_penalty: float = 0.0  # subtracted from every token generated before
    frequency_penalty: float = 0.0  # subtracted once for each time it was generated
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, fits, range_ in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", 0 <= self.min_p < 1, "0 or more, below 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
        ):
            if not fits:
                raise UsageError(f"{name} must be {range_}, not {getattr(self, name)}")


class Sampler:
    """Chooses one token after another for one text.

    With `logs` it tells what it chose from, which takes an exponential of every logit.
    """

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int] = (), *, logs: bool = False
    ) -> None:
        self._sampling = sampling
        self._logs = logs
        self._seen = set(prompt)
        self._generated: Counter[int] = Counter()

    def choose(self, logits: np.ndarray) -> tuple[int, np.ndarray | None]:
        """The next token, and with `logs` the log-probabilities (vocabulary,) before the cuts.

        `NumericsError` where the largest of the logits is not a number, or infinite.
        """
        logits = self._penalised(logits)
        likeliest = int(np.argmax(logits))  # not-a-number, where there is one
        if not math.isfinite(logits[likeliest]):
            raise NumericsError(
                f"the model's logits have {logits[likeliest]} among them; its weights are damaged, or a "
                "number has become too large: try --backend reference, or LCM_ACTIVATIONS=f32"
            )
        temperature, logs = self._sampling.temperature, None
        if temperature or self._logs:
            logs = log_softmax(logits.astype(np.float64) / (temperature or 1.0))
        token = likeliest if logs is None or not temperature else self._draw(logs)
        self._seen.add(token)
        self._generated[token] += 1
        return token, logs if self._logs else None

    @cached_property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self._sampling.seed)

    def _penalised(self, logits: np.ndarray) -> np.ndarray:
        s = self._sampling
        if s.repetition_penalty == 1 and not s.presence_penalty and not s.frequency_penalty:
            return logits
        logits = logits.astype(np.float64)
        if s.repetition_penalty != 1 and self._seen:
            seen = np.fromiter(self._seen, int)
            found = logits[seen]
            logits[seen] = np.where(
                found > 0, found / s.repetition_penalty, found * s.repetition_penalty
            )
        for token, count in (
            self._generated.items() if s.presence_penalty or s.frequency_penalty else ()
        ):
            logits[token] -= s.presence_penalty + s.frequency_penalty * count
        return logits

    def _draw(self, logs: np.ndarray) -> int:
        order = np.argsort(-logs, kind="stable")
        shares = np.exp(logs[order])
        keep = len(order)
        if self._sampling.top_k:
            keep = min(keep, self._sampling.top_k)
        if self._sampling.top_p < 1:
            total = np.cumsum(shares[:keep])
            keep = int(np.searchsorted(total, self._sampling.top_p * total[-1])) + 1
        if self._sampling.min_p:
            keep = min(keep, int((shares >= self._sampling.min_p * shares[0]).sum()))
        keep = max(1, min(keep, len(order)))
        total = np.cumsum(shares[:keep])
        place = np.searchsorted(total, self._rng.random() * total[-1], side="right")
        return int(order[min(int(place), keep - 1)])


def log_softmax(x: np.ndarray) -> np.ndarray:
    """log(exp(x) / sum(exp(x))) of one row."""
    shifted: np.ndarray = x - np.max(x)
    logs: np.ndarray = shifted - np.log(np.sum(np.exp(shifted)))
    return logs
