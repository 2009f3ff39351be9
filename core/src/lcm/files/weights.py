"""The weights of a model folder as Hugging Face lays it out: one safetensors file, or shards."""

import json
from pathlib import Path

from lcm.errors import FileError
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
        raise FileError(f"{path}: there is no such model folder; check the path")
    pickles = sorted(p.name for p in path.glob("*") if p.suffix in (".bin", ".pt", ".pth"))
    if pickles:
        raise FileError(f"{path}: {pickles[0]} is a pickle, which can run any code when opened; "
                        f"get the model's {SINGLE}")  # fmt: skip
    raise FileError(f"{path}: has neither {SINGLE} nor {INDEX}; download it again")


def _open_shards(folder: Path, index: Path) -> ShardedWeights:
    shards: dict[str, SafetensorsFile] = {}
    files: dict[str, SafetensorsFile] = {}
    for tensor, shard in _weight_map(index).items():
        if shard not in shards:
            if not (folder / shard).is_file():
                raise FileError(f"{index}: the shard {shard!r} is not there; download it")
            shards[shard] = open_safetensors(folder / shard)
        if tensor not in shards[shard]:
            raise FileError(f"{index}: tensor {tensor!r} should be in {shard}, but is not; "
                            f"download both again")  # fmt: skip
        files[tensor] = shards[shard]
    metadata = next((file.metadata for file in files.values()), {})
    return ShardedWeights(folder, files, metadata)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
        weight_map: dict[str, str] = found["weight_map"]
        names = set(weight_map.values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{index}: is damaged: no weight_map can be read from it ({error!r}); "
                        f"download it again") from error  # fmt: skip
    for name in names:
        if not isinstance(name, str) or name == ".." or "\\" in name or Path(name).name != name:
            raise FileError(f"{index}: the shard {name!r} is not a file of this folder; refused")
    return weight_map
