"""A corpus as tokens on disk, ready to train on: prepared once, checked, and used again.

The folder holds shards of tokens (`lcm.train.shards`) and `index.json`, which says what they are.
The same corpus, tokenizer and settings give the same folder, byte for byte.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lcm import settings
from lcm.errors import FileError, LcmWarning, UsageError
from lcm.files.atomic import recover_folder, write_folder_atomically
from lcm.text.tokenizer import Tokenizer
from lcm.train.corpus import Corpus, Document
from lcm.train.shards import Shard, ShardWriter, open_shard
from lcm.train.split import Span, Split

VERSION = 1
INDEX = "index.json"
SHARD_TOKENS = 64 << 20
BATCH_BYTES = 4 << 20  # how much text is tokenised at once
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Dataset:
    """Training and validation tokens; `dropped` counts the files that were not fit, by reason."""

    folder: Path
    fingerprint: str
    tokenizer: str  # its fingerprint
    vocabulary: int
    dropped: dict[str, int]
    train: Split
    validation: Split

    @classmethod
    def open(cls, folder: str | Path) -> "Dataset":
        """A prepared folder, with every shard checked; `FileError` where it is damaged."""
        folder = recover_folder(folder)
        return _open(folder, _read_index(folder))


def prepare(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    folder: str | Path | None = None,
    validation: float = 0.05,
    progress: Progress | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Dataset:
    """Tokenise the corpus into `folder` (default: in the cache), unless that has been done before.

    `validation` is the share of files to hold out; `progress` is called with the bytes done and in
    all.
    """
    if tokenizer.end is None:
        raise UsageError("the tokenizer has no token that ends a text; use one that has, "
                         "or name it as eos_token in tokenizer_config.json")  # fmt: skip
    sides = dict(zip(("train", "validation"), corpus.split(validation), strict=True))
    fingerprint = _fingerprint(corpus, tokenizer, validation, shard_tokens)
    folder = Path(folder or settings.cache_dir() / "data" / fingerprint[:32])
    found = _find(folder, fingerprint)
    if found is not None:
        return found

    def fill(new: Path) -> None:
        done = 0

        def report(size: int) -> None:
            nonlocal done
            done += size
            if progress is not None:
                progress(done, corpus.size)

        _write(new, _facts(corpus, tokenizer, fingerprint), sides, tokenizer, shard_tokens, report)

    write_folder_atomically(folder, fill)
    return Dataset.open(folder)


def _fingerprint(corpus: Corpus, tokenizer: Tokenizer, validation: float, shard_tokens: int) -> str:
    documents = [[document.name, document.digest] for document in corpus.documents]
    everything = [VERSION, tokenizer.fingerprint(), validation, shard_tokens, documents]
    return hashlib.sha256(json.dumps(everything).encode("utf-8")).hexdigest()


def _find(folder: Path, fingerprint: str) -> Dataset | None:
    """What is there already, if it is the same data and whole."""
    if not (recover_folder(folder) / INDEX).exists():
        return None
    try:
        index = _read_index(folder)
        return _open(folder, index) if index["fingerprint"] == fingerprint else None
    except FileError as error:
        warnings.warn(LcmWarning(f"{error}: done now"), stacklevel=3)
        return None


# Writing -----------------------------------------------------------------------------------------


def _facts(corpus: Corpus, tokenizer: Tokenizer, fingerprint: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "fingerprint": fingerprint,
        "tokenizer": tokenizer.fingerprint(),
        "vocabulary": tokenizer.vocabulary,
        "dtype": "uint16" if tokenizer.vocabulary <= 1 << 16 else "uint32",
        "dropped": corpus.dropped,
        "examples": corpus.examples,
    }


def _write(
    folder: Path,
    facts: dict[str, Any],
    sides: dict[str, list[Document]],
    tokenizer: Tokenizer,
    shard_tokens: int,
    report: Callable[[int], None],
) -> None:
    facts["splits"] = {}
    for name, documents in sides.items():
        writer = ShardWriter(folder, name, _dtype(facts), shard_tokens)
        spans = []
        for document, tokens in _tokenised(documents, tokenizer):
            spans.append([document.name, document.size, writer.tokens])
            writer.add(tokens)
            report(document.size)
        shards = [asdict(shard) for shard in writer.finish()]
        facts["splits"][name] = {"shards": shards, "documents": spans}
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (folder / INDEX).write_text(text, encoding="utf-8")


def _tokenised(
    documents: Sequence[Document], tokenizer: Tokenizer
) -> Iterator[tuple[Document, np.ndarray]]:
    for group in _groups(documents):
        encoded = tokenizer.encode_batch([document.read() for document in group])
        for document, ids in zip(group, encoded, strict=True):
            yield document, np.array([*ids, tokenizer.end], np.uint32)


def _groups(documents: Sequence[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += document.size
        if size >= BATCH_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


# Reading -----------------------------------------------------------------------------------------


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["version"] != VERSION:
            raise ValueError(f"version {index['version']!r} where this lcm reads {VERSION}")
        index["fingerprint"].encode()
    except OSError as error:
        raise FileError(
            f"{path}: cannot be read: {error.strerror}; prepare the data again"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(f"{path}: is damaged ({error!r}); prepare the data again") from error
    return dict(index)


def _open(folder: Path, index: dict[str, Any]) -> Dataset:
    try:
        sides = {name: _open_split(folder, name, index) for name in ("train", "validation")}
        return Dataset(
            folder=folder,
            fingerprint=index["fingerprint"],
            tokenizer=index["tokenizer"],
            vocabulary=index["vocabulary"],
            dropped=index["dropped"],
            train=sides["train"],
            validation=sides["validation"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(
            f"{folder / INDEX}: is damaged ({error!r}); prepare the data again"
        ) from error


def _open_split(folder: Path, name: str, index: dict[str, Any]) -> Split:
    facts = index["splits"][name]
    shards = [open_shard(folder, Shard(**shard), _dtype(index)) for shard in facts["shards"]]
    return Split(name, shards, [Span(*span) for span in facts["documents"]])


def _dtype(facts: dict[str, Any]) -> np.dtype[Any]:
    return np.dtype({"uint16": "<u2", "uint32": "<u4"}[facts["dtype"]])
