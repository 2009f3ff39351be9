"""The tensors of one model that lie in several files, under one set of names."""

from collections.abc import Iterator, KeysView, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class TensorFile(Protocol):
    """What the files of every kind have in common."""

    @property
    def path(self) -> Path:
        """Where the file lies."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the file says of itself."""

    @property
    def formats(self) -> Mapping[str, str]:
        """The number format of each tensor."""

    def shape(self, name: str) -> tuple[int, ...]:
        """How many numbers a tensor has along each axis."""

    def keys(self) -> KeysView[str]:
        """The tensors' names."""

    def __getitem__(self, name: str) -> np.ndarray:
        """A tensor as it is stored: a read-only view of the mapped file."""


class ShardedWeights(Mapping[str, np.ndarray]):
    """The tensors of several files under one set of names, with the face of one `TensorFile`."""

    def __init__(
        self, path: Path, files: Mapping[str, TensorFile], metadata: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.formats = {name: file.formats[name] for name, file in files.items()}
        self._files = files

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file(name).shape(name)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file(name)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def _file(self, name: str) -> TensorFile:
        if name not in self._files:
            raise KeyError(f"no tensor {name!r} in {self.path}")
        return self._files[name]
