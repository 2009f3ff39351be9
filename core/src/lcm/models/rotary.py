"""Rotary positions (Su et al., 2021): what `config.json` says of them, and the tables of a model's angles."""

import math
from dataclasses import MISSING, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lcm.caches import Cache
from lcm.errors import ContextError, FileError
from lcm.models import config
from lcm.models.scaling import SCALINGS, Scaling
from lcm.tensor import Tensor

C = TypeVar("C")


class RotaryTable(NamedTuple):
    """cos and sin of every position's angles: (positions, half) each."""

    cos: Tensor
    sin: Tensor


class Rotary:
    """The tables that layers share, made when a text first needs them and as long as its cache."""

    SHORTEST = 128  # positions

    def __init__(
        self, context: int, width: int, theta: float, scaling: Scaling | None = None
    ) -> None:
        scaling = scaling or Scaling()
        self.short = scaling.short
        self._context, self._magnitude = context, np.float32(scaling.magnitude)
        self._frequencies = {
            long: scaling.frequencies(theta, width, long=long) for long in (False, True)
        }
        self._tables: dict[bool, RotaryTable] = {}

    def table(self, cache: Cache) -> RotaryTable:
        """For every position that the cache has room for; `ContextError` for a text that is too long."""
        if cache.reach > self._context:
            raise ContextError(
                f"{cache.reach} tokens do not fit: the model's context is {self._context}"
            )
        long = self.short is not None and cache.reach > self.short
        found = self._tables.get(long)
        if found is None or len(found.cos) < min(cache.capacity, self._context):
            found = self._tables[long] = self._made(cache.capacity, self._frequencies[long])
        return found

    def _made(self, positions: int, frequencies: np.ndarray) -> RotaryTable:
        doubled = 1 << math.ceil(math.log2(max(positions, self.SHORTEST)))
        places = np.arange(min(self._context, doubled), dtype=np.float32)
        angles = np.outer(places, frequencies)
        cos, sin = np.cos(angles), np.sin(angles)
        return RotaryTable(Tensor(cos * self._magnitude), Tensor(sin * self._magnitude))


def read_rotary(kind: type[C], values: dict[str, Any], model_type: str) -> C:
    """The configuration `kind`, with its `rope_theta` and `rope_scaling` wherever `config.json` has them.

    transformers 5 keeps both in the table `rope_parameters`; until 4.43, `rope_type` was called `type`.
    """
    table = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(table, dict):
        raise FileError(
            f"config.json: {model_type}'s rope settings must be a table, not {table!r}"
        )
    defaults = {f.name: f.default for f in fields(kind) if f.default is not MISSING}  # type: ignore[arg-type]
    moved = {n: table[n] for n in ("rope_theta", "partial_rotary_factor") if n in table}
    scaling = _scaling(table, defaults | values, model_type)
    return config.read(kind, values | moved | {"rope_scaling": scaling}, model_type)


def _scaling(table: dict[str, Any], values: dict[str, Any], model_type: str) -> Scaling | None:
    name = table.get("rope_type", table.get("type", "default"))
    config.refuse_unless({"rope_type": name}, model_type, rope_type=("default", *SCALINGS))
    if name == "default":
        return None
    original = values.get("original_max_position_embeddings")
    original = original or table.get("original_max_position_embeddings")
    original = original or values["max_position_embeddings"]
    settled = {"rope_type": name, "original_max_position_embeddings": original}
    if name in ("yarn", "longrope") and table.get("factor") is None:
        settled["factor"] = values["max_position_embeddings"] / original
    return config.read(SCALINGS[name], table | settled, f"{model_type}'s {name} scaling")
