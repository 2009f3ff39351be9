"""A model as it runs: its weights as they are stored, and what meets those in blocks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lcm import ops
from lcm.generate.loading import load_model
from lcm.generate.text_model import TextModel
from lcm.nn import Linear, Model

VARIABLE = "LCM_ACTIVATIONS"


def load_running(name: str, activations: str | None = None) -> TextModel:
    """The model of this name or path as generation loads it; `activations`, if given, is its setting."""
    with _activations(activations):
        return load_model(name)


def activations_of(model: Model) -> str:
    """'int8' if any product rounds what meets its weights to 8 bits, else 'f32'."""
    linear = (layer for layer in model.modules() if isinstance(layer, Linear))
    return "int8" if any(layer.product is ops.linear_int8 for layer in linear) else "f32"


@contextmanager
def _activations(value: str | None) -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    if value:
        os.environ[VARIABLE] = value
    try:
        yield
    finally:
        if value:
            del os.environ[VARIABLE]
        if value and before is not None:
            os.environ[VARIABLE] = before
