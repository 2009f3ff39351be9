"""A file mapped for reading, of which nothing is read any more once it is not what it was."""

import math
import mmap
import os
import stat
from pathlib import Path

import numpy as np

from lcm.files.refusal import brief, refuse

MAX_NUMBERS = 2**60 - 1  # in a tensor, so that numpy can say how many bytes it would have


class MappedFile:
    """The bytes of a file, and arrays that are views of them."""

    def __init__(self, path: Path, smallest: int, kind: str) -> None:
        """`FileError` for what is no file, cannot be read, or is shorter than the `smallest` of its kind."""
        self.path = path
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe waits for its other end
                refuse(path, "is not a file", f"name a {kind} file")
            with path.open("rb") as file:
                self._facts = os.fstat(file.fileno())
                if self._facts.st_size < smallest:
                    refuse(path, f"has {self._facts.st_size} bytes, too few for a {kind} file")
                self.bytes = mmap.mmap(file.fileno(), self._facts.st_size, access=mmap.ACCESS_READ)
        except OSError as error:
            refuse(path, f"cannot be read: {error.strerror or error}", "check the path")

    def __len__(self) -> int:
        return len(self.bytes)

    def array(
        self, name: str, dtype: np.dtype, shape: tuple[int, ...], start: int, alignment: int
    ) -> np.ndarray:
        """The tensor `name` that begins at byte `start`: read-only, and a copy only where it is not aligned.

        `FileError` where the file was cut or written to since it was opened.
        """
        self._check(name)
        count = math.prod(shape)
        flat = np.frombuffer(self.bytes, dtype, count, start) if count else np.empty(0, dtype)
        if start % alignment:
            flat = flat.copy()
        flat.flags.writeable = False
        return flat.reshape(shape)

    def _check(self, name: str) -> None:
        """To touch what is no more would end the process; a new file in its place changes nothing for us."""
        if self.bytes.size() < len(self.bytes):
            refuse(
                self.path,
                f"tensor {brief(name)} is gone: the file is shorter than when it was opened",
            )
        try:
            now = os.stat(self.path)
        except OSError:  # deleted: what is mapped stays
            return
        own = self._facts
        same = (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino)
        if same and now.st_mtime_ns != own.st_mtime_ns:
            refuse(self.path, f"tensor {brief(name)} is not sure: the file has changed since it was opened",
                   "load the model again when nothing writes to it")  # fmt: skip
