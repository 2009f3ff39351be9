"""Model folders as Hugging Face lays them out, whole and damaged."""

import json

import numpy as np
import pytest

from lcm.errors import FileError
from lcm.files.safetensors import save_safetensors
from lcm.files.weights import open_weights


@pytest.fixture
def sharded(tmp_path):
    save_safetensors(tmp_path / "1.safetensors", {"a": np.arange(3)})
    save_safetensors(
        tmp_path / "2.safetensors", {"b": np.ones(2, np.uint16)}, formats={"b": "bf16"}
    )
    write_index(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    return tmp_path


def write_index(folder, weight_map):
    index = {"metadata": {"total_size": 28}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_read_as_one(sharded):
    weights = open_weights(sharded)
    assert sorted(weights) == ["a", "b"]
    assert weights["a"].tolist() == [0, 1, 2]
    assert weights.formats == {"a": "i64", "b": "bf16"}
    assert weights.shape("b") == (2,)
    assert "c" not in weights
    assert weights.get("c") is None


def test_one_file_reads_by_folder_and_by_name(tmp_path):
    save_safetensors(tmp_path / "model.safetensors", {"a": np.arange(3)})
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert open_weights(path)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"a": "3.safetensors"}, "'3.safetensors' is not there"),
        ({"a": "2.safetensors"}, "tensor 'a' should be in 2.safetensors"),
        ({"a": "../x/1.safetensors"}, "is not a file of this folder"),
        ({"a": "/etc/passwd"}, "is not a file of this folder"),
        ({"a": ".."}, "is not a file of this folder"),
        ({"a": "..\\x"}, "is not a file of this folder"),
        ({"a": 3}, "is not a file of this folder"),
        ({"a": ["x"]}, "is not a file of this folder"),
        ({"a": "x" * 300}, "is not there"),
        ({"a": "1\0"}, "is not there"),
        (["a"], "is damaged"),
    ],
)
def test_an_index_that_lies_is_refused(sharded, weight_map, said):
    write_index(sharded, weight_map)
    with pytest.raises(FileError, match=said):
        open_weights(sharded)


def test_a_folder_without_weights_says_what_it_lacks(tmp_path):
    with pytest.raises(FileError, match="has neither"):
        open_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(FileError, match=r"pytorch_model\.bin is a pickle"):
        open_weights(tmp_path)
    with pytest.raises(FileError, match="no such model folder"):
        open_weights(tmp_path / "none")
