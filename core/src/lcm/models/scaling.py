"""Rotary frequencies for texts longer than those that a model learned from, as `config.json` names them.

Pair i of a head turns by its frequency at every position. Frequencies are computed in f32, by the operations
and in the order of transformers: at position 100,000 the last digit of one is 0.01 of an angle.
"""

import math
from dataclasses import dataclass

import numpy as np

from lcm.errors import FileError


@dataclass(frozen=True)
class Scaling:
    """None: pair i of `width` / 2 turns by theta ** (-2 i / width)."""

    def frequencies(self, theta: float, width: int, *, long: bool) -> np.ndarray:
        """(width / 2,) f32; `long` is whether the text is longer than `short`."""
        return 1 / _periods(theta, width)

    @property
    def magnitude(self) -> float:
        """What cos and sin are multiplied by."""
        return 1.0

    @property
    def short(self) -> int | None:
        """The longest text with frequencies of its own; None: all have the same."""
        return None


@dataclass(frozen=True)
class Plain(Scaling):
    """None too, and said: for an architecture that means another where a `config.json` says nothing."""

    rope_type: str = "default"


@dataclass(frozen=True)
class Linear(Scaling):
    """Positions lie `factor` times as close (Chen et al., 2023)."""

    factor: float
    rope_type: str = "linear"

    def frequencies(self, theta: float, width: int, *, long: bool) -> np.ndarray:
        return 1 / _periods(theta, width) / np.float32(self.factor)


@dataclass(frozen=True)
class Dynamic(Scaling):
    """Theta grows with a text that is longer than `max_position_embeddings` (bloc97, 2023).

    Here that is where a text ends: each token more would change the angles of all before it, so that no cache
    could hold their keys. Up to there nothing is scaled.
    """

    factor: float
    rope_type: str = "dynamic"


@dataclass(frozen=True)
class Llama3(Scaling):
    """Slow pairs turn `factor` times slower, fast ones as before, those between by degrees (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    rope_type: str = "llama3"

    def frequencies(self, theta: float, width: int, *, long: bool) -> np.ndarray:
        plain = 1 / _periods(theta, width)
        turns = self.original_max_position_embeddings / (np.float32(2 * math.pi) / plain)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        between = (1 - smooth) * plain / self.factor + smooth * plain
        slow_or_not = np.where(turns < self.low_freq_factor, plain / self.factor, between)
        return np.where(turns > self.high_freq_factor, plain, slow_or_not).astype(np.float32)


@dataclass(frozen=True)
class Yarn(Scaling):
    """As Llama3, between pairs that turn `beta_slow` and `beta_fast` times; sharper (Peng et al., 2023)."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float | None = 32.0
    beta_slow: float | None = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    rope_type: str = "yarn"

    def frequencies(self, theta: float, width: int, *, long: bool) -> np.ndarray:
        periods = _periods(theta, width)
        first = self._pair(self.beta_fast or 32.0, theta, width)
        last = self._pair(self.beta_slow or 1.0, theta, width)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        ramp = (np.arange(width // 2, dtype=np.float32) - first) / (last - first or 0.001)
        kept = 1 - np.clip(ramp, 0, 1)
        slowed = 1 / (np.float32(self.factor) * periods)
        return np.asarray(slowed * (1 - kept) + 1 / periods * kept, np.float32)

    def _pair(self, turns: float, theta: float, width: int) -> float:
        """The pair that turns so often in the original context, and mostly lies between two."""
        period = self.original_max_position_embeddings / (turns * 2 * math.pi)
        return width * math.log(period) / (2 * math.log(theta))

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._sharper(self.mscale) / self._sharper(self.mscale_all_dim)
        return self._sharper(1.0)

    def _sharper(self, scale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * scale * math.log(self.factor) + 1.0


@dataclass(frozen=True)
class LongRope(Scaling):
    """Each pair has a factor of its own, and another in texts that are longer (Ding et al., 2024)."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float
    attention_factor: float | None = None
    rope_type: str = "longrope"

    def frequencies(self, theta: float, width: int, *, long: bool) -> np.ndarray:
        factors = self.long_factor if long else self.short_factor
        if len(factors) != width // 2:
            name = "long_factor" if long else "short_factor"
            raise FileError(f"config.json: {name} has {len(factors)} numbers for {width // 2} pairs")
        return np.asarray(1 / (np.asarray(factors, np.float32) * _periods(theta, width)))

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_position_embeddings))

    @property
    def short(self) -> int | None:
        return self.original_max_position_embeddings


SCALINGS: dict[str, type[Scaling]] = {
    "linear": Linear, "dynamic": Dynamic, "yarn": Yarn, "llama3": Llama3, "longrope": LongRope,
}  # fmt: skip


def _periods(theta: float, width: int) -> np.ndarray:
    """theta ** (2 i / width), with exponents in f32, and rounded once: numpy's f32 power is less exact."""
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    return np.asarray(theta ** exponents.astype(np.float64), np.float32)
