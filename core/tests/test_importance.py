"""Importance files against gguf-py's writer, and what heeding them gains."""

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from lcm import formats, models
from lcm.cli.quantize import command
from lcm.errors import FileError
from lcm.files.gguf import open_gguf
from lcm.models.conversion import to_gguf
from lcm.models.importance import read_importance
from lcm.text.tokenizer import Tokenizer

LLAMA = {"model_type": "llama", "vocab_size": 300, "hidden_size": 256, "intermediate_size": 256,
         "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}  # fmt: skip
MOE = LLAMA | {"model_type": "qwen3_moe", "num_experts": 3, "num_experts_per_tok": 2, "norm_topk_prob": True,
               "num_key_value_heads": 2, "moe_intermediate_size": 64}  # fmt: skip
NAME = "blk.0.ffn_gate.weight"
SQUARES = np.random.default_rng(3).gamma(0.3, size=256).astype(np.float32)


def write(path, tensors, type="imatrix"):
    writer = gguf.GGUFWriter(path, "")
    writer.add_type(type)
    for name, array in tensors.items():
        writer.add_tensor(name, np.asarray(array, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sums(squares=SQUARES, count=10, name=NAME):
    return {f"{name}.in_sum2": squares[None] * count, f"{name}.counts": [[count]]}


@pytest.fixture
def folder(tmp_path):
    models.save(models.fresh(LLAMA, seed=1), tmp_path / "model")
    Tokenizer.train(["def f(x):\n    return x\n"] * 4, vocabulary=300).save(tmp_path / "model")
    return tmp_path / "model"


def test_the_means_are_sums_by_counts(tmp_path):
    found = read_importance(write(tmp_path / "i.gguf", sums()))
    assert list(found) == [NAME]
    np.testing.assert_allclose(found[NAME], SQUARES, rtol=1e-6)


def test_a_tensor_that_the_text_never_used_is_left_out(tmp_path):
    assert read_importance(write(tmp_path / "i.gguf", sums(count=0))) == {}


def test_each_expert_has_its_own_and_one_that_was_never_asked_counts_all_columns_alike(tmp_path):
    sums = {f"{NAME}.in_sum2": [SQUARES * 4, SQUARES * 0], f"{NAME}.counts": [[4], [0]]}
    found = read_importance(write(tmp_path / "i.gguf", sums))[NAME]
    np.testing.assert_allclose(found, [SQUARES, np.ones_like(SQUARES)], rtol=1e-6)


def test_each_expert_is_written_as_it_would_be_alone(tmp_path):
    model = models.fresh(MOE, seed=1)
    models.save(model, tmp_path / "moe")
    Tokenizer.train(["def f(x):\n    return x\n"] * 4, vocabulary=300).save(tmp_path / "moe")
    weights = np.random.default_rng(4).gamma(0.3, size=(3, 256)).astype(np.float32)
    name = "blk.0.ffn_up_exps.weight"
    to_gguf(tmp_path / "moe", tmp_path / "moe.gguf", "q4_k_s", {name: weights})
    parameters = model.parameters()
    for i, stored in enumerate(open_gguf(tmp_path / "moe.gguf")[name]):
        right = parameters[f"model.layers.0.mlp.experts.{i}.up_proj.weight"].numpy()
        alone = formats.encode(right, "q4_k", weights[i])
        assert stored.tobytes() == alone.tobytes() != formats.encode(right, "q4_k").tobytes()
    with pytest.raises(FileError, match=r"says \(2, 256\) of .*, which is \(3, 64, 256\) here"):
        to_gguf(tmp_path / "moe", tmp_path / "moe.gguf", "q4_k_s", {name: weights[:2]})


def test_heeding_it_makes_the_product_better_and_changes_no_other_tensor(folder, tmp_path):
    importance = read_importance(write(tmp_path / "i.gguf", sums()))
    for name, weights in (("plain", None), ("heeded", importance)):
        to_gguf(folder, tmp_path / f"{name}.gguf", "q4_k_s", weights)
    right = models.load(folder).parameters()["model.layers.0.mlp.gate_proj.weight"].numpy()
    plain, heeded = (open_gguf(tmp_path / f"{name}.gguf") for name in ("plain", "heeded"))
    errors = [
        ((formats.decode(file[NAME], file.formats[NAME]) - right) ** 2 * SQUARES).sum()
        for file in (plain, heeded)
    ]
    assert errors[1] < 0.8 * errors[0]
    assert [name for name in plain if plain[name].tobytes() != heeded[name].tobytes()] == [NAME]


def test_the_command_heeds_the_file(folder, tmp_path):
    write(tmp_path / "i.gguf", sums())
    arguments = [str(folder), str(tmp_path / "a.gguf"), "--importance", str(tmp_path / "i.gguf")]
    done = CliRunner().invoke(command, [*arguments, "--format", "q4_k_s"], catch_exceptions=False)
    assert done.exit_code == 0
    to_gguf(folder, tmp_path / "b.gguf", "q4_k_s", read_importance(tmp_path / "i.gguf"))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{NAME}.in_sum2": SQUARES[None]}, "has no sums and counts"),
        ({f"{NAME}.in_sum2": SQUARES[None], f"{NAME}.counts": [[1], [2]]}, "do not fit each other"),
        ({f"{NAME}.in_sum2": -SQUARES[None], f"{NAME}.counts": [[1]]}, "a negative sum"),
        ({f"{NAME}.in_sum2": SQUARES[None] * np.inf, f"{NAME}.counts": [[1]]}, "not finite"),
    ],
)
def test_a_damaged_importance_file_is_refused(tmp_path, tensors, said):
    path = write(tmp_path / "i.gguf", tensors)
    with pytest.raises(FileError, match=rf"i\.gguf: tensor '{NAME}'.*{said}"):
        read_importance(path)


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(FileError, match="is no importance file"):
        read_importance(write(tmp_path / "i.gguf", sums(), type="model"))


@pytest.mark.parametrize("wrong", [sums(SQUARES[:128]), sums(name="blk.7.ffn_up.weight")])
def test_importance_of_another_model_is_refused(folder, tmp_path, wrong):
    importance = read_importance(write(tmp_path / "i.gguf", wrong))
    with pytest.raises(FileError, match="is it of the same model"):
        to_gguf(folder, tmp_path / "out.gguf", "q4_k_s", importance)
    assert not (tmp_path / "out.gguf").exists()
