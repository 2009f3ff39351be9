"""The weights of a model folder as Hugging Face lays it out: one safetensors file, or shards."""

import os
from pathlib import Path

from lcm.files.reading import read_json
from lcm.files.refusal import brief, refuse
from lcm.files.safetensors import SafetensorsFile, open_safetensors
from lcm.files.sharded import ShardedWeights

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def open_weights(path: str | Path) -> SafetensorsFile | ShardedWeights:
    """Open a model folder's weights, or one safetensors file; nothing is read before it is used."""
    path = Path(path)
    if path.is_file():
        return open_safetensors(path)
    if (path / SINGLE).exists():
        return open_safetensors(path / SINGLE)
    if (path / INDEX).exists():
        return _open_shards(path, path / INDEX)
    if not path.is_dir():
        refuse(path, "there is no such model folder", "check the path")
    pickles = sorted(p.name for p in path.glob("*") if p.suffix in (".bin", ".pt", ".pth"))
    if pickles:
        refuse(path, f"{pickles[0]} is a pickle, which can run any code when opened",
               f"get the model's {SINGLE}")  # fmt: skip
    refuse(path, f"has neither {SINGLE} nor {INDEX}", "download it again")


def _open_shards(folder: Path, index: Path) -> ShardedWeights:
    shards: dict[str, SafetensorsFile] = {}
    files: dict[str, SafetensorsFile] = {}
    for tensor, shard in _weight_map(index).items():
        if shard not in shards:
            if shard not in os.listdir(folder):
                refuse(index, f"the shard {brief(shard)} is not there", "download it")
            shards[shard] = open_safetensors(folder / shard)
        if tensor not in shards[shard]:
            refuse(index, f"tensor {brief(tensor)} should be in {shard}, but is not",
                   "download both again")  # fmt: skip
        files[tensor] = shards[shard]
    metadata = next((file.metadata for file in files.values()), {})
    return ShardedWeights(folder, files, metadata)


def shards_in(index: Path) -> list[str]:
    """The names of the files that an index names."""
    return sorted(set(_weight_map(index).values()))


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index)
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict):
        refuse(index, "is damaged: there is no weight_map in it")
    for name in weight_map.values():
        if not isinstance(name, str) or name == ".." or "\\" in name or Path(name).name != name:
            refuse(
                index, f"the shard {brief(name)} is not a file of this folder", "take no such model"
            )
    return weight_map
