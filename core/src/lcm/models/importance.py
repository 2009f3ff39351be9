"""Importance files: how much each column of a matrix matters, as llama.cpp's `llama-imatrix` measures it.

For every product of a model some text is read, and the squares of its input are summed, column by column: the
larger the mean, the more an error of that column of the weights costs. The files are GGUF, of type `imatrix`.
"""

from pathlib import Path

import numpy as np

from lcm.files.gguf import open_gguf
from lcm.files.refusal import brief, refuse

SUMS, COUNTS = ".in_sum2", ".counts"


def read_importance(path: str | Path) -> dict[str, np.ndarray]:
    """By a GGUF tensor's name (columns,) f32: the mean of the squares that each column was multiplied with.

    For a tensor of experts (experts, columns); the columns of an expert that the text never used count alike.
    Tensors that it never used are left out; `FileError` for what is no importance file.
    """
    path = Path(path)
    file = open_gguf(path)
    if file.metadata.get("general.type") != "imatrix":
        refuse(
            path,
            "is no importance file (general.type is not 'imatrix')",
            "make one with llama-imatrix",
        )
    names = [name.removesuffix(SUMS) for name in file if name.endswith(SUMS)]
    means = {name: _means(path, name, file[name + SUMS], file.get(name + COUNTS)) for name in names}
    return {name: array for name, array in means.items() if array is not None}


def _means(path: Path, name: str, sums: np.ndarray, counts: np.ndarray | None) -> np.ndarray | None:
    """Of sums (experts, columns) and counts (experts, 1), or without experts (columns,) and (1,)."""
    if counts is None or counts.dtype != np.float32 or sums.dtype != np.float32:
        refuse(path, f"tensor {brief(name)} has no sums and counts in f32")
    sums, counts = np.atleast_2d(sums), counts.reshape(-1, 1)
    finite = np.isfinite(sums).all() and np.isfinite(counts).all()
    if sums.ndim > 2 or len(sums) != len(counts) or not finite:
        refuse(
            path,
            f"tensor {brief(name)}: its sums and counts do not fit each other, or are not finite",
        )
    if sums.min(initial=0) < 0 or counts.min(initial=0) < 0:
        refuse(path, f"tensor {brief(name)}: it has a negative sum of squares or count")
    if not counts.any():
        return None
    means: np.ndarray = np.where(counts > 0, sums / np.where(counts, counts, 1), np.float32(1))
    return means if len(means) > 1 else means[0]
