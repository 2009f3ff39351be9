"""Conversion: a model's files as other kinds of files, which hold the same model."""

import dataclasses

import gguf
import numpy as np
import pytest

from lcm import formats, host, models
from lcm.backend.contract import Backend
from lcm.errors import FileError, LcmWarning, UsageError
from lcm.files.gguf import open_gguf
from lcm.files.gguf_writing import save_gguf
from lcm.models.conversion import to_folder, to_gguf
from lcm.models.dialects import DIALECTS
from lcm.models.gguf import halves, pairs
from lcm.models.recipes import RECIPES, format_for
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.text.tokenizer import Tokenizer

SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
CONFIGS = {
    **{d.model_type: SIZES | {"model_type": d.model_type} for d in DIALECTS.values()},
    "gpt2": {
        "model_type": "gpt2", "vocab_size": 300, "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 4,
    },
    "qwen3_moe": SIZES | {
        "model_type": "qwen3_moe", "head_dim": 32, "num_experts": 5, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "norm_topk_prob": True, "mlp_only_layers": [],
    },
    "gpt_oss": SIZES | {
        "model_type": "gpt_oss", "head_dim": 32, "num_local_experts": 5, "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_oss, no biases, plain positions": SIZES | {
        "model_type": "gpt_oss", "head_dim": 32, "num_local_experts": 5, "num_experts_per_tok": 2,
        "attention_bias": False, "rope_scaling": {"rope_type": "default"},
    },
    "llama, tied, with biases": SIZES | {
        "model_type": "llama", "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
    },
    "llama, wide heads": SIZES | {"model_type": "llama", "head_dim": 32, "rope_theta": 500.0},
    "llama, linear scaling": SIZES | {
        "model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "llama, as Llama 3.1": SIZES | {
        "model_type": "llama", "rope_theta": 500000.0, "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "llama, yarn": SIZES | {
        "model_type": "llama", "rope_scaling": {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "beta_fast": 16.0,
        },
    },
    "mistral": SIZES | {"model_type": "mistral", "sliding_window": None},
}  # fmt: skip
IDS = Tensor(np.random.default_rng(0).integers(0, 300, (2, 20)).astype(np.int32))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["def f(x):\n    return x + 1\n"] * 20, vocabulary=270)


@pytest.fixture(params=CONFIGS)
def folder(request, tmp_path, tokenizer):
    return made(CONFIGS[request.param], tmp_path / "folder", tokenizer)


def made(values, folder, tokenizer):
    """A folder with a random model, every gain and bias random too."""
    model = models.fresh(values, seed=1)
    rng = np.random.default_rng(2)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.1
    models.save(model, folder)
    tokenizer.save(folder)
    return folder


def logits(model):
    with no_grad():
        return model(IDS).numpy()


def test_a_gguf_file_of_f32_is_the_same_model(folder, tmp_path):
    to_gguf(folder, tmp_path / "model.gguf", "f32")
    ours, theirs = models.load(folder), models.load(tmp_path / "model.gguf")
    assert theirs.config == ours.config or theirs.model_type != ours.model_type
    np.testing.assert_array_equal(logits(theirs), logits(ours))


def test_back_in_a_folder_it_is_the_same_model_and_tokenizer(folder, tmp_path):
    to_gguf(folder, tmp_path / "model.gguf", "f32")
    to_folder(tmp_path / "model.gguf", tmp_path / "back", "f32")
    np.testing.assert_array_equal(
        logits(models.load(tmp_path / "back")), logits(models.load(folder))
    )
    text = "def f(x):\n    return x + 1\n"
    found = [
        Tokenizer.load(path).encode(text)
        for path in (folder, tmp_path / "model.gguf", tmp_path / "back")
    ]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_gives_the_model_that_its_formats_make_of_the_weights(
    recipe, tmp_path, tokenizer
):
    """The file's numbers are those that each format keeps of the numbers in the folder."""
    folder = made(CONFIGS["llama"], tmp_path / "folder", tokenizer)
    to_gguf(folder, tmp_path / "model.gguf", recipe)
    file = open_gguf(tmp_path / "model.gguf")
    wanted = {n: np.array(p.data) for n, p in models.load(folder).parameters().items()}
    for name, parameter in models.load(tmp_path / "model.gguf").parameters().items():
        format = file.formats[DIALECTS["llama"].theirs(name)]
        kept = formats.decode(formats.encode(wanted[name], format), format)
        np.testing.assert_array_equal(parameter.data, kept)


@pytest.mark.usefixtures("kit")
@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("recipe", ["q8_0", "q4_k_m", "f16"])
def test_as_it_is_stored_the_model_computes_what_its_numbers_say(
    recipe, name, tmp_path, tokenizer, monkeypatch
):
    monkeypatch.setenv("LCM_ACTIVATIONS", "f32")
    folder = made(
        CONFIGS[name] | {"hidden_size": 256, "intermediate_size": 256},
        tmp_path / "folder",
        tokenizer,
    )
    to_gguf(folder, tmp_path / "model.gguf", recipe)
    stored, decoded = (models.load(tmp_path / "model.gguf", as_stored=how) for how in (True, False))
    assert {"f32"} < {p.format for p in stored.parameters().values()}
    assert np.abs(logits(stored) - logits(decoded)).max() <= 1e-4 * np.abs(logits(decoded)).max()


@pytest.mark.usefixtures("kit")
@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_rounding_what_meets_the_weights_changes_little_and_their_layout_nothing(
    name, tmp_path, tokenizer, monkeypatch
):
    folder = made(CONFIGS[name] | {"hidden_size": 256}, tmp_path / "folder", tokenizer)
    to_gguf(folder, tmp_path / "model.gguf", "q8_0")
    exact = logits(models.load(tmp_path / "model.gguf"))
    found = {}
    for layout in ("on", "off"):
        monkeypatch.setenv("LCM_INTERLEAVE", layout)
        found[layout] = logits(models.load(tmp_path / "model.gguf", as_stored=True))
    assert 0 < np.abs(found["on"] - exact).mean() <= 0.05 * exact.std()
    np.testing.assert_allclose(found["on"], found["off"], rtol=0, atol=1e-4 * np.abs(exact).max())


@pytest.mark.usefixtures("kit")
@pytest.mark.parametrize("name", ["qwen2", "qwen3_moe"])
def test_weights_stay_where_the_file_is_mapped(name, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("LCM_INTERLEAVE", "off")
    folder = made(CONFIGS[name], tmp_path / "folder", tokenizer)
    to_gguf(folder, tmp_path / "model.gguf", "q8_0")
    stored = models.load(tmp_path / "model.gguf", as_stored=True).parameters()
    assert not any(parameter.data.flags.owndata for parameter in stored.values())
    assert not any(parameter.data.flags.writeable for parameter in stored.values())


def test_a_format_that_no_backend_reads_becomes_f32_and_that_is_said(
    tmp_path, tokenizer, only_backend
):
    only_backend(Backend("none", {}))
    folder = made(CONFIGS["llama"], tmp_path / "folder", tokenizer)
    to_gguf(folder, tmp_path / "model.gguf", "q8_0")
    with pytest.warns(LcmWarning, match="no backend here computes with q8_0: such weights") as said:
        stored = models.load(tmp_path / "model.gguf", as_stored=True)
    assert len(said) == 1
    assert {p.format for p in stored.parameters().values()} == {"f32"}


def test_what_meets_the_weights_is_int8_or_f32(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("LCM_ACTIVATIONS", "int4")
    folder = made(CONFIGS["llama"], tmp_path / "folder", tokenizer)
    with pytest.raises(UsageError, match="'activations' must be int8 or f32, not 'int4'"):
        models.load(folder, as_stored=True)
    monkeypatch.setenv("LCM_ACTIVATIONS", "int8")
    monkeypatch.setenv("LCM_INTERLEAVE", "no")
    with pytest.raises(UsageError, match="'interleave' must be on or off, not 'no'"):
        models.load(folder, as_stored=True)


def test_converted_to_the_formats_that_it_has_a_file_stays_as_it_is(tmp_path, tokenizer):
    folder = made(CONFIGS["llama"], tmp_path / "folder", tokenizer)
    to_gguf(folder, tmp_path / "once.gguf", "q4_k_m")
    to_gguf(tmp_path / "once.gguf", tmp_path / "twice.gguf", "q4_k_m")
    once, twice = open_gguf(tmp_path / "once.gguf"), open_gguf(tmp_path / "twice.gguf")
    assert list(once) == list(twice)
    for name in once:
        assert once[name].tobytes() == twice[name].tobytes()


@pytest.mark.parametrize(
    ("model_type", "architecture", "width"),
    [("qwen3_moe", gguf.MODEL_ARCH.QWEN3MOE, 32), ("gpt_oss", gguf.MODEL_ARCH.GPT_OSS, 96)],
)
def test_the_experts_of_a_layer_lie_in_one_tensor_by_the_names_of_gguf_py(
    model_type, architecture, width, tmp_path, tokenizer
):
    folder = made(CONFIGS[model_type], tmp_path / "folder", tokenizer)
    to_gguf(folder, tmp_path / "model.gguf", "f32")
    known = [gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[architecture]]
    file, name = open_gguf(tmp_path / "model.gguf"), gguf.MODEL_ARCH_NAMES[architecture]
    stems = {n.removesuffix(".weight") for n in file if not n.endswith(".bias")}
    assert stems == {n.format(bid=i) for n in known for i in (0, 1)}
    keys = (gguf.Keys.LLM.EXPERT_COUNT, gguf.Keys.LLM.EXPERT_USED_COUNT,
            gguf.Keys.LLM.EXPERT_FEED_FORWARD_LENGTH)  # fmt: skip
    assert [file.metadata[key.format(arch=name)] for key in keys] == [5, 2, width]
    parameters = models.load(folder).parameters()
    down = [parameters[f"model.layers.1.mlp.experts.{i}.down_proj.weight"].data for i in range(5)]
    np.testing.assert_array_equal(file["blk.1.ffn_down_exps.weight"], down)


@pytest.mark.parametrize("shape", [(), (0, 32, 64), (512, 32, 64), (4, 32, 64)])
def test_a_stack_of_another_number_of_experts_is_refused(shape, tmp_path, tokenizer):
    to_gguf(made(CONFIGS["qwen3_moe"], tmp_path / "folder", tokenizer), tmp_path / "model.gguf", "f32")
    file = open_gguf(tmp_path / "model.gguf")
    tensors = dict(file) | {"blk.0.ffn_up_exps.weight": np.zeros(shape, np.float32)}
    save_gguf(tmp_path / "other.gguf", tensors, metadata=file.metadata)
    with pytest.raises(FileError, match=r"no stack of experts|experts\.4\.up_proj.weight' is missing"):
        models.load(tmp_path / "other.gguf")


def test_the_file_has_as_many_tokens_as_the_model(tmp_path, tokenizer):
    folder = made(CONFIGS["qwen2"], tmp_path / "folder", tokenizer)
    to_gguf(folder, tmp_path / "model.gguf", "f32")
    tokens = open_gguf(tmp_path / "model.gguf").metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 300 and tokens[-1] == "[PAD299]"
    text = "x [PAD299] y"
    assert Tokenizer.load(tmp_path / "model.gguf").encode(text) == tokenizer.encode(text)


def test_halves_undoes_pairs():
    rows = np.arange(24 * 3).reshape(24, 3)
    np.testing.assert_array_equal(halves(pairs(rows, 2), 2), rows)
    assert pairs(np.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    ("recipe", "name", "shape", "tied", "format"),
    [
        ("q4_k_m", "blk.0.attn_v.weight", (256, 1024), False, "q6_k"),  # an eighth of 24 layers
        ("q4_k_m", "blk.3.attn_v.weight", (256, 1024), False, "q4_k"),
        ("q4_k_m", "blk.5.ffn_down.weight", (256, 1024), False, "q6_k"),  # each third between
        ("q4_k_m", "blk.21.ffn_down.weight", (256, 1024), False, "q6_k"),
        ("q4_k_m", "blk.0.ffn_up.weight", (256, 1024), False, "q4_k"),
        ("q4_k_m", "output.weight", (300, 1024), False, "q6_k"),
        ("q4_k_m", "token_embd.weight", (300, 1024), False, "q4_k"),
        ("q4_k_m", "token_embd.weight", (300, 1024), True, "q6_k"),
        ("q4_k_m", "token_embd.weight", (300, 896), True, "q8_0"),
        ("q4_k_m", "blk.3.attn_q.weight", (896, 896), False, "q5_0"),
        ("q4_k_m", "blk.0.attn_norm.weight", (1024,), False, "f32"),
        ("q4_k_m", "blk.0.ffn_down_exps.weight", (8, 256, 1024), False, "q6_k"),
        ("q4_k_m", "blk.3.ffn_down_exps.weight", (8, 256, 1024), False, "q4_k"),
        ("q4_k_m", "blk.3.ffn_down_exps.bias", (8, 256), False, "f32"),
        ("q4_k_m", "blk.3.ffn_gate_inp.weight", (8, 256), False, "f32"),
        ("f16", "blk.3.ffn_gate_inp.weight", (8, 256), False, "f32"),
        ("q4_k_s", "blk.1.ffn_down.weight", (256, 1024), False, "q5_k"),
        ("q4_k_s", "blk.3.ffn_down.weight", (256, 1024), False, "q4_k"),
        ("q4_0", "output.weight", (300, 1024), False, "q6_k"),
        ("q8_0", "output.weight", (300, 1024), False, "q8_0"),
        ("q8_0", "blk.0.attn_q.weight", (12, 12), False, "f16"),
        ("bf16", "blk.0.attn_q.weight", (12, 12), False, "bf16"),
        ("f16", "position_embd.weight", (12, 12), False, "f32"),
    ],
)  # fmt: skip
def test_a_recipe_gives_the_formats_that_llama_cpp_gives(recipe, name, shape, tied, format):
    assert format_for(recipe, name, shape, layers=24, tied=tied) == format


def test_what_is_not_there_is_said_in_one_line(tmp_path, tokenizer):
    folder = made(CONFIGS["llama"], tmp_path / "folder", tokenizer)
    with pytest.raises(UsageError, match=r"no format 'q9'; there are: f32, .*q4_k_m"):
        to_gguf(folder, tmp_path / "x.gguf", "q9")
    with pytest.raises(UsageError, match="a model's folder holds f32, f16 or bf16, not 'q8_0'"):
        to_folder(folder, tmp_path / "x", "q8_0")
    scaled = CONFIGS["llama"] | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
    with pytest.raises(FileError, match="'dynamic' cannot be said in a GGUF file"):
        to_gguf(made(scaled, tmp_path / "scaled", tokenizer), tmp_path / "x.gguf", "f32")
    windowed = CONFIGS["qwen2"] | {"use_sliding_window": True, "max_window_layers": 1}
    with pytest.raises(FileError, match="a GGUF file of a qwen2 cannot say use_sliding_window=True"):
        to_gguf(made(windowed, tmp_path / "windowed", tokenizer), tmp_path / "x.gguf", "f32")
    for key, value, said in (("norm_topk_prob", False, "False"), ("mlp_only_layers", [1], r"\(1,\)")):
        uneven = made(CONFIGS["qwen3_moe"] | {key: value}, tmp_path / key, tokenizer)
        with pytest.raises(FileError, match=f"a GGUF file of a qwen3_moe cannot say {key}={said}"):
            to_gguf(uneven, tmp_path / "x.gguf", "f32")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("as_stored", [True, False])
def test_what_does_not_fit_in_memory_is_refused_before_it_is_read(
    tmp_path, tokenizer, monkeypatch, as_stored
):
    folder = made(CONFIGS["llama"], tmp_path / "folder", tokenizer)
    small = dataclasses.replace(host.current(), memory=host.Fact(100_000, "a test"))
    monkeypatch.setattr(host, "current", lambda: small)
    with pytest.raises(FileError, match=r"its weights take 0\.00 GB, and this machine has 0\.00 GB"):
        models.load(folder, as_stored=as_stored)


def test_a_gguf_file_of_something_else_is_refused(tmp_path):
    save_gguf(tmp_path / "x.gguf", {}, metadata={"general.architecture": "mamba"})
    with pytest.raises(
        FileError, match=r"no architecture 'mamba' here; of GGUF files there are: llama, "
    ):
        models.load(tmp_path / "x.gguf")
    save_gguf(tmp_path / "x.gguf", {}, metadata={"general.architecture": "llama"})
    with pytest.raises(FileError, match=r"no matrix 'token_embd.weight'"):
        models.load(tmp_path / "x.gguf")
