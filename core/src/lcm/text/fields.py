"""The values under `tokenizer.ggml.` in a GGUF file's metadata, each checked when it is asked for."""

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from lcm.errors import FileError

PREFIX = "tokenizer.ggml."
NO_TOKEN = (-1, 2**32 - 1)  # how some files say that there is none
REMEDY = "convert the model again, or load it from its Hugging Face folder"


class Fields:
    """Keys without their prefix to values; None for what the file does not say."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def text(self, key: str) -> str | None:
        found = self._get(key)
        if found is not None and not isinstance(found, str):
            wrong(key, "is no text", found)
        return found

    def flag(self, key: str) -> bool | None:
        found = self._get(key)
        if found is not None and not isinstance(found, bool | np.bool_):
            wrong(key, "is neither true nor false", found)
        return None if found is None else bool(found)

    def id(self, key: str, tokens: int) -> int | None:
        """The id of one of `tokens` tokens."""
        found = self._get(key)
        if found is None:
            return None
        if isinstance(found, bool | np.bool_) or not isinstance(found, int | np.integer):
            wrong(key, "is no token id", found)
        if int(found) in NO_TOKEN:
            return None
        if not 0 <= found < tokens:
            refuse(f"{PREFIX}{key} is {found}, but there are {tokens} tokens")
        return int(found)

    def texts(self, key: str) -> list[str] | None:
        found = self._get(key)
        if found is None:
            return None
        if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
            wrong(key, "is no list of texts", found)
        return list(found)

    def numbers(self, key: str, tokens: int, kinds: str) -> np.ndarray | None:
        """One number for each token; `kinds` are numpy's letters for the types that will do."""
        found = self._get(key)
        if found is None:
            return None
        if not isinstance(found, list | tuple | np.ndarray):
            wrong(key, "is no list of numbers", found)
        try:
            numbers = np.asarray(found)
        except ValueError:  # lists of lists of different lengths
            wrong(key, "is no list of numbers", found)
        if numbers.dtype.kind not in kinds or numbers.ndim != 1 or not np.isfinite(numbers).all():
            wrong(key, "is no list of numbers", found)
        if len(numbers) != tokens:
            refuse(f"{PREFIX}{key} has {len(numbers)} numbers for {tokens} tokens")
        return numbers

    def _get(self, key: str) -> Any:
        return self._metadata.get(PREFIX + key)


def wrong(key: str, what: str, found: Any) -> NoReturn:
    text = " ".join(repr(found).split())
    refuse(f"{PREFIX}{key} {what}: {text if len(text) <= 60 else text[:57] + '…'}")


def refuse(what: str) -> NoReturn:
    raise FileError(f"GGUF metadata: {what}; {REMEDY}")
