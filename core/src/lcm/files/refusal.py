"""How a file is refused: in one line with its path, what is wrong, and what would do."""

import reprlib
from pathlib import Path
from typing import NoReturn

from lcm.errors import FileError

AGAIN = "download or copy it again"
LONGEST = 60

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 200, 200


def refuse(path: str | Path, fault: str, remedy: str = AGAIN) -> NoReturn:
    raise FileError(f"{path}: {fault}; {remedy}")


def brief(found: object) -> str:
    """For an error's line: as Python writes it, cut where it is long."""
    text = " ".join(_short.repr(found).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "…"
