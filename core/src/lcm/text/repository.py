"""What is around a gap in its repository: names and paths as a model is shown them, and other files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lcm.errors import FileError


@dataclass(frozen=True)
class Source:
    """A file: its path in the repository, with slashes, and its text."""

    path: str
    text: str


@dataclass(frozen=True)
class Repository:
    """A repository's name, the path in it of the file with the gap, and other files to read before it.

    The last one is the nearest to the gap: where not all fit, the first ones are left out.
    """

    name: str
    path: str
    others: tuple[Source, ...]

    @staticmethod
    def around(path: Path, others: Sequence[Path]) -> "Repository":
        """That of the file with the gap: the nearest folder above it with a .git, else the current folder.

        A file that lies elsewhere has its name for a path. `FileError` for one that is no text.
        """
        above = Path(os.path.abspath(path)).parents
        root = next((folder for folder in above if (folder / ".git").exists()), Path.cwd())
        sources = tuple(Source(_within(root, other), text_of(other)) for other in others)
        return Repository(root.name, _within(root, path), sources)


def text_of(path: Path) -> str:
    """The text of a file; `FileError` where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read as text: {error}") from None


def _within(root: Path, path: Path) -> str:
    path = Path(os.path.abspath(path))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
