"""Reading `config.json`: what a model is made from, and a clear refusal of what it cannot be."""

import typing
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, TypeVar

from lcm.errors import FileError
from lcm.files.refusal import brief

# What a number stays below: what kernels count, what f32 holds. A layer or an expert more takes time to make.
LIMITS = {int: 2**31, float: 1e38}
COUNTS = {"num_hidden_layers": 512, "n_layer": 512, "num_experts": 512, "num_local_experts": 512}

C = TypeVar("C")


def read(config: type[C], values: dict[str, Any], whose: str) -> C:
    """The dataclass `config` from the keys that it names; the others are not about the model's shape."""
    hints = typing.get_type_hints(config)
    chosen = {}
    for key in fields(config):  # type: ignore[arg-type]
        if key.name in values:
            chosen[key.name] = _checked(whose, key, values[key.name], hints[key.name])
        elif key.default is MISSING:
            raise FileError(f"config.json: {whose}'s {key.name} is missing")
    return config(**chosen)


def from_zero(default: int | None) -> Any:
    """The default of a key whose numbers may be 0: all others must be positive."""
    return field(default=default, metadata={"zero": True})


def _checked(whose: str, key: "Field[Any]", value: Any, hint: Any) -> Any:
    if is_dataclass(value):
        return value  # read before
    allowed = (hint,) if typing.get_origin(hint) is tuple else typing.get_args(hint) or (hint,)
    items = next((typing.get_args(t)[0] for t in allowed if typing.get_origin(t) is tuple), None)
    if isinstance(value, list) and items:
        return tuple(_checked(whose, key, item, items) for item in value)
    if float in allowed and type(value) is int and abs(value) < LIMITS[float]:
        value = float(value)
    if type(value) not in allowed:
        wanted = " or ".join(_said(t) for t in allowed)
        raise FileError(f"config.json: {whose}'s {key.name} must be {wanted}, not {brief(value)}")
    if type(value) in LIMITS:
        _check_number(whose, key, value)
    return value


def _check_number(whose: str, key: "Field[Any]", value: int | float) -> None:
    most = COUNTS.get(key.name, LIMITS[type(value)])
    if not (value > 0 or (value == 0 and "zero" in key.metadata)):
        raise FileError(f"config.json: {whose}'s {key.name} must be positive, not {brief(value)}")
    if value >= most:
        raise FileError(f"config.json: {whose}'s {key.name} must be less than {most:,}, not {brief(value)}")


def _said(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list of {typing.get_args(kind)[0].__name__}"
    return "null" if kind is type(None) else str(kind.__name__)


def refuse_unless(values: dict[str, Any], model_type: str, **allowed: tuple[Any, ...]) -> None:
    """`FileError` where a key that changes the mathematics has a value that is not implemented."""
    for name, choices in allowed.items():
        if name in values and values[name] not in choices:
            known = ", ".join(str(c) for c in choices)
            raise FileError(
                f"config.json: {model_type} with {name}={brief(values[name])} is not supported; only: {known}"
            )


def refuse_remainder(model_type: str, **sizes: int) -> None:
    """`FileError` unless the first size is a multiple of the second."""
    (whole, n), (part, d) = sizes.items()
    if n % d:
        raise FileError(f"config.json: {model_type}'s {whole}={n} is not a multiple of {part}={d}")
