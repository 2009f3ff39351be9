"""Reading `config.json`: what a model is made from, and a clear refusal of what it cannot be."""

import typing
from dataclasses import fields
from typing import Any, TypeVar

from lcm.errors import FileError

C = TypeVar("C")


def read(config: type[C], values: dict[str, Any], model_type: str) -> C:
    """The dataclass `config` from the keys that it names; the others are not about the model's shape."""
    hints = typing.get_type_hints(config)
    chosen = {}
    for field in fields(config):  # type: ignore[arg-type]
        if field.name in values:
            chosen[field.name] = _checked(model_type, field.name, values[field.name], hints[field.name])
    return config(**chosen)


def _checked(model_type: str, name: str, value: Any, hint: Any) -> Any:
    allowed = typing.get_args(hint) or (hint,)
    if float in allowed and type(value) is int:
        value = float(value)
    if type(value) not in allowed:
        wanted = " or ".join("null" if t is type(None) else t.__name__ for t in allowed)
        raise FileError(f"config.json: {model_type}'s {name} must be {wanted}, not {value!r}")
    if isinstance(value, (int, float)) and type(value) is not bool and value <= 0:
        raise FileError(f"config.json: {model_type}'s {name} must be positive, not {value!r}")
    return value


def refuse_unless(values: dict[str, Any], model_type: str, **allowed: tuple[Any, ...]) -> None:
    """`FileError` where a key that changes the mathematics has a value that is not implemented."""
    for name, choices in allowed.items():
        if name in values and values[name] not in choices:
            known = ", ".join(str(c) for c in choices)
            raise FileError(
                f"config.json: {model_type} with {name}={values[name]!r} is not supported; only: {known}"
            )


def refuse_remainder(model_type: str, **sizes: int) -> None:
    """`FileError` unless the first size is a multiple of the second."""
    (whole, n), (part, d) = sizes.items()
    if n % d:
        raise FileError(f"config.json: {model_type}'s {whole}={n} is not a multiple of {part}={d}")
