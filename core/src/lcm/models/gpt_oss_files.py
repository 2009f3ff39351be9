"""gpt-oss's checkpoints, where the experts of a layer lie in one tensor, taken apart and put together.

An expert's gate and up projections alternate there, output by output. Weights are (inputs, outputs), unless
they are in mxfp4: then two tensors hold blocks of 16 bytes and the scale of each, outputs first.

E experts   F hidden width   D model width
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from lcm.files.refusal import brief, refuse
from lcm.files.sharded import ShardedWeights, TensorFile
from lcm.formats import FORMATS
from lcm.models.config import COUNTS

# An expert's projection: the tensor that it is in, and which of the outputs are its own.
OUTPUTS = {
    "gate_proj": ("gate_up_proj", slice(0, None, 2)),
    "up_proj": ("gate_up_proj", slice(1, None, 2)),
    "down_proj": ("down_proj", slice(None)),
}
# What comes behind a tensor's name: the parameter's, and how many axes it has.
KINDS = {"": ("weight", 3), "_bias": ("bias", 2), "_blocks": ("weight", 4)}
STACK = re.compile(r"(.*\.mlp\.experts)\.(gate_up_proj|down_proj)(|_bias|_blocks|_scales)")
EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.(weight|bias)")
SINKS = ".self_attn.sinks"


class Parts(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by the names of the parameters, each expert's by itself."""

    def __init__(self, weights: TensorFile | ShardedWeights) -> None:
        self.path, self.metadata, self._weights = weights.path, weights.metadata, weights
        self._places: dict[str, tuple[str, int, slice]] = {}
        self.formats: dict[str, str] = {}
        for name, format in weights.formats.items():
            found = STACK.fullmatch(name)
            if found is None:
                ours = name + ".weight" * name.endswith(SINKS)
                self._places[ours], self.formats[ours] = (name, -1, slice(None)), format
            elif found[3] != "_scales":
                self._take_apart(name, *found.groups())

    def _take_apart(self, name: str, experts: str, stack: str, kind: str) -> None:
        (ending, axes), shape = KINDS[kind], self._weights.shape(name)
        if len(shape) != axes or not 0 < shape[0] < COUNTS["num_local_experts"]:
            refuse(self.path, f"tensor {brief(name)} is {shape}, no stack of experts", "get the model again")
        if kind == "_blocks":
            self._check_blocks(name, shape)
        for part, (of, outputs) in OUTPUTS.items():
            for i in range(shape[0] if of == stack else 0):
                ours = f"{experts}.{i}.{part}.{ending}"
                self._places[ours] = name, i, outputs
                self.formats[ours] = "mxfp4" if kind == "_blocks" else self._weights.formats[name]

    def _check_blocks(self, name: str, shape: tuple[int, ...]) -> None:
        scales = _scales(name)
        formats = {self._weights.formats.get(n) for n in (name, scales)}
        if formats != {"u8"} or self._weights.shape(scales) != shape[:3] or shape[3] != 16:
            refuse(self.path, f"tensor {brief(name)} and its scales are no mxfp4", "get the model again")

    def __getitem__(self, name: str) -> np.ndarray:
        theirs, i, outputs = self._places[name]
        if theirs.endswith("_blocks"):
            scales = self._weights[_scales(theirs)][i, outputs]
            return packed(self._weights[theirs][i, outputs], scales)
        array = self._weights[theirs]
        return array if i < 0 else array[i].T[outputs]

    def shape(self, name: str) -> tuple[int, ...]:
        """In numbers."""
        theirs, i, outputs = self._places[name]
        array = np.broadcast_to(np.int8(0), self._weights.shape(theirs))
        if theirs.endswith("_blocks"):
            rows, blocks, _ = array[i, outputs].shape
            return rows, blocks * FORMATS["mxfp4"].numbers
        return (array if i < 0 else array[i].T[outputs]).shape

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _scales(blocks: str) -> str:
    return blocks.removesuffix("_blocks") + "_scales"


def packed(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Blocks (outputs, n, 16) and scales (outputs, n) as mxfp4 (outputs, n).

    Numbers 0 and 1 share the first byte of the checkpoint's blocks, 0 and 16 that of ours.
    """
    whole = np.empty((*scales.shape, 17), np.uint8)
    first, second = blocks[..., :8], blocks[..., 8:]
    whole[..., 0] = scales
    whole[..., 1::2] = first & 15 | second << 4
    whole[..., 2::2] = first >> 4 | second & 240
    return whole.view(FORMATS["mxfp4"].storage)[..., 0]


def joined(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `Parts` was given, in numbers."""
    made: dict[str, np.ndarray] = {}
    experts = 1 + max(int(found[2]) for found in map(EXPERT.fullmatch, tensors) if found)
    for name, array in tensors.items():
        found = EXPERT.fullmatch(name)
        if found is None:
            made[name.replace(SINKS + ".weight", SINKS)] = array
            continue
        stack, outputs = OUTPUTS[found[3]]
        theirs = f"{found[1]}.{stack}" + "_bias" * (found[4] == "bias")
        count = len(array) * (2 if outputs.step else 1)
        if theirs not in made:  # (E, 2 F) or (E, D); weights (E, D, 2 F) or (E, F, D)
            made[theirs] = np.empty((experts, *array.shape[1:], count), array.dtype)
        made[theirs][int(found[2])].T[outputs] = array
    return made
