"""Source files to train on: found in folders, filtered, each content once, split by content."""

import hashlib
import io
import os
import stat
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lcm.errors import DataError, LcmWarning

# The endings of each language's files, for `collect(..., suffixes=LANGUAGES["c"])`.
LANGUAGES = {
    "python": (".py", ".pyi"),
    "c": (".c", ".h"),
    "c++": (".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"),
    "rust": (".rs",),
    "go": (".go",),
    "java": (".java",),
    "javascript": (".js", ".jsx", ".mjs"),
    "typescript": (".ts", ".tsx"),
    "shell": (".sh", ".bash"),
    "text": (".md", ".rst", ".txt"),
}

# Other people's packages and made files; hidden folders and virtual environments go as well.
SKIPPED = {"__pycache__", "node_modules", "site-packages", "dist-packages"}
MAX_BYTES = 1_000_000
# Longer lines are data or minified code. The bounds of The Stack (Kocetkov et al., 2022).
MAX_LINE = 1000
MAX_MEAN_LINE = 100
EXAMPLES = 20  # how many dropped files are named for each reason


@dataclass(frozen=True)
class Document:
    """A file to train on. `name` is relative, `size` in bytes of UTF-8 with `\\n` line ends."""

    name: str
    path: Path
    size: int
    digest: str

    def read(self) -> str:
        try:
            text = _text(self.path, max_bytes=None)
        except _Unfit as error:
            raise DataError(f"{self.path}: is {error} by now; collect the files again") from error
        if _digest(text) != self.digest:
            raise DataError(f"{self.path}: has changed meanwhile; collect the files again")
        return text


@dataclass(frozen=True)
class Corpus:
    """Documents in order of their names; what was dropped is counted, with examples, by reason."""

    documents: tuple[Document, ...]
    dropped: dict[str, int]
    examples: dict[str, tuple[str, ...]]

    @property
    def size(self) -> int:
        """Bytes of all documents."""
        return sum(document.size for document in self.documents)

    def split(self, validation: float) -> tuple[list[Document], list[Document]]:
        """Training and validation documents; a content is on the same side whatever else is there.

        With `validation` above 0 both sides have at least one document.
        """
        if not 0 <= validation < 1:
            raise DataError(f"a validation share of {validation} cannot be; choose 0 to 0.5")
        if validation == 0:
            return list(self.documents), []
        if len(self.documents) < 2:
            raise DataError(f"{len(self.documents)} file cannot be split into training and "
                            f"validation; give more files, or a validation share of 0")  # fmt: skip
        order = sorted(self.documents, key=lambda document: document.digest)
        count = sum(int(document.digest[:8], 16) < validation * 2**32 for document in order)
        count = min(max(count, 1), len(order) - 1)
        held_out = {document.digest for document in order[:count]}
        train = [document for document in self.documents if document.digest not in held_out]
        return train, [document for document in self.documents if document.digest in held_out]


def collect(
    paths: Iterable[str | Path],
    *,
    suffixes: Sequence[str] = (".py",),
    max_bytes: int = MAX_BYTES,
) -> Corpus:
    """Every file with one of these endings under `paths`, once, if it is fit to train on.

    A path that is itself a file is taken whatever its ending.
    """
    roots = [Path(path) for path in paths]
    report = _Report()
    documents: dict[str, Document] = {}
    for name, path, root in sorted(_files(roots, tuple(suffixes), report), key=lambda f: f[0]):
        try:
            _check_link(path, root)
            text = _text(path, max_bytes)
            digest = _digest(text)
            if digest in documents:
                raise _Unfit("duplicate")
        except _Unfit as error:
            report.drop(str(error), name)
        else:
            documents[digest] = Document(name, path, len(text.encode("utf-8")), digest)
    report.warn_of_unreadable()
    if not documents:
        raise DataError(f"{', '.join(map(str, roots)) or 'no folder'}: nothing to train on: "
                        f"{report.summary(suffixes)}; name a folder with source code")  # fmt: skip
    return Corpus(tuple(documents.values()), report.counts, report.examples())


def standard_library() -> Corpus:
    """The library of the Python that runs, about 30 MB: source code that is always at hand."""
    return collect([sysconfig.get_path("stdlib")])


# Finding -----------------------------------------------------------------------------------------


def _files(
    roots: Sequence[Path], suffixes: tuple[str, ...], report: "_Report"
) -> Iterator[tuple[str, Path, Path]]:
    """(name, path, root) of each file; with several roots a name begins with its root's."""
    taken: set[str] = set()
    for root in roots:
        prefix = "" if len(roots) == 1 else _unused(root.resolve().name, taken) + "/"
        if root.is_dir():
            for path in _walk(root, report):
                if path.name.endswith(suffixes):
                    yield prefix + _printable(path.relative_to(root).as_posix()), path, root
                else:
                    report.drop("another ending", path.name)
        elif root.exists():
            yield prefix + _printable(root.name), root, root.parent
        else:
            raise DataError(f"{root}: there is no such file or folder; check the path")


def _walk(root: Path, report: "_Report") -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        report.drop("unreadable", str(error.filename))

    for parent, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = [name for name in folders if not _is_skipped(Path(parent, name))]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _is_skipped(folder: Path) -> bool:
    hidden = folder.name.startswith(".")
    return hidden or folder.name in SKIPPED or (folder / "pyvenv.cfg").exists()


def _unused(name: str, taken: set[str]) -> str:
    number, unused = 1, name
    while unused in taken:
        number += 1
        unused = f"{name}-{number}"
    taken.add(unused)
    return unused


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


# Filtering ---------------------------------------------------------------------------------------


class _Unfit(Exception):
    """Why a file is dropped, in a word or two."""


class _Report:
    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self.counts: dict[str, int] = {}

    def drop(self, reason: str, name: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self._names.setdefault(reason, []).append(name)

    def examples(self) -> dict[str, tuple[str, ...]]:
        return {reason: tuple(sorted(n)[:EXAMPLES]) for reason, n in self._names.items()}

    def summary(self, suffixes: Sequence[str]) -> str:
        why = {"another ending": f"another ending than {' '.join(suffixes)}"}
        parts = [f"{count} {why.get(reason, reason)}" for reason, count in self.counts.items()]
        return f"{sum(self.counts.values())} files seen{': ' if parts else ''}{', '.join(parts)}"

    def warn_of_unreadable(self) -> None:
        names = sorted(self._names.get("unreadable", []))
        if names:
            more = ", …" if len(names) > 3 else ""
            text = f"{len(names)} unreadable, left out: {', '.join(names[:3])}{more}"
            warnings.warn(LcmWarning(text), stacklevel=3)


def _check_link(path: Path, root: Path) -> None:
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root.resolve()):
        raise _Unfit("link that leads out")


def _text(path: Path, max_bytes: int | None) -> str:
    """The file's text with `\\n` line ends, or `_Unfit`."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise _Unfit("unreadable")  # a pipe or device: reading it could wait for ever
        if max_bytes is not None and facts.st_size > max_bytes:
            raise _Unfit("oversized")
        content = path.read_bytes()
    except OSError as error:
        raise _Unfit("unreadable") from error
    text = _decoded(content, path.suffix in LANGUAGES["python"])
    lines = text.split("\n")
    if not text.strip():
        raise _Unfit("empty")
    if len(text) > MAX_MEAN_LINE * len(lines) or max(map(len, lines)) > MAX_LINE:
        raise _Unfit("minified or data")
    return text


def _decoded(content: bytes, is_python: bool) -> str:
    if b"\0" in content:
        raise _Unfit("binary")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not is_python:
            raise _Unfit("not UTF-8") from error
        text = _decoded_as_declared(content)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded_as_declared(content: bytes) -> str:
    """Python source in the encoding that its first lines declare (PEP 263)."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = content.decode(encoding)
        text.encode("utf-8")
    except (SyntaxError, LookupError, ValueError) as error:
        raise _Unfit("not UTF-8") from error
    return text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
