"""Models: folders that become models, and what is refused, each time in one line that helps."""

import contextlib
import json

import numpy as np
import pytest

import lcm
from lcm import models, ops
from lcm.errors import FileError, LcmError, UsageError
from lcm.files.safetensors import open_safetensors, save_safetensors
from lcm.grad import gradient
from lcm.program import record
from lcm.tensor import Tensor

GPT2 = {"model_type": "gpt2", "vocab_size": 31, "n_positions": 24, "n_embd": 12, "n_layer": 2,
        "n_head": 3}  # fmt: skip
LLAMA = {"model_type": "llama", "vocab_size": 31, "hidden_size": 12, "intermediate_size": 17,
         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
         "max_position_embeddings": 24}  # fmt: skip
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": 5}
CONFIGS = {
    "gpt2": GPT2,
    "gpt2, untied": GPT2 | {"tie_word_embeddings": False, "n_inner": 7, "activation_function": "gelu"},
    "llama": LLAMA,
    "llama, tied": LLAMA | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "mistral": MISTRAL,
    "mistral, no window": MISTRAL | {"sliding_window": None, "num_key_value_heads": None},
    **{name: LLAMA | {"model_type": name, "hidden_size": 16}
       for name in models.ARCHITECTURES if name not in ("gpt2", "llama", "mistral")},
}  # fmt: skip
IDS = Tensor(np.random.default_rng(0).integers(0, 31, (2, 20)).astype(np.int32))


@pytest.fixture(params=CONFIGS)
def model(request):
    """Fresh, but with every gain and bias random too."""
    model = models.fresh(CONFIGS[request.param], seed=1)
    rng = np.random.default_rng(2)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.1
    return model


def logits(model):
    with lcm.no_grad():
        return model(IDS).numpy()


def change(folder, **values):
    """Other values in the folder's config.json; `...` takes a key away."""
    path = folder / "config.json"
    new = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in new.items() if v is not ...}))


def change_tensors(folder, **changes):
    """Other tensors in the folder's weights; None takes one away."""
    path = folder / "model.safetensors"
    file = open_safetensors(path)
    tensors = {name: np.array(file[name]) for name in file} | changes
    save_safetensors(path, {name: a for name, a in tensors.items() if a is not None})


def refusal(folder):
    with pytest.raises(FileError) as caught:
        models.load(folder)
    message = str(caught.value)
    assert message.startswith(str(folder)), "where"
    assert "\n" not in message, "one line"
    assert caught.value.exit_code == 4
    return message.removeprefix(str(folder))


@pytest.fixture
def folder(tmp_path):
    models.save(models.fresh(LLAMA, seed=1), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def gpt2_folder(tmp_path):
    models.save(models.fresh(GPT2, seed=1), tmp_path / "model")
    return tmp_path / "model"


# Files that fit.


def test_a_saved_model_is_the_loaded_one_to_the_bit(model, tmp_path):
    models.save(model, tmp_path)
    again = models.load(tmp_path)
    assert again.config == model.config
    assert again.model_type == model.model_type
    assert again.parameters().keys() == model.parameters().keys()
    for name, parameter in model.parameters().items():
        np.testing.assert_array_equal(again.parameters()[name].data, parameter.data)
    np.testing.assert_array_equal(logits(again), logits(model))


@pytest.mark.parametrize("gradients", [False, True], ids=["logits", "gradients"])
def test_a_recorded_program_is_the_model_for_other_texts_too(model, gradients):
    def result(ids):
        y = ops.cross_entropy(model(ids), IDS) if gradients else model(ids)
        return gradient(y, list(model.parameters().values())) if gradients else [y]

    model.train(gradients)
    ids = Tensor(IDS.numpy().copy())
    program = record(lambda: result(ids), gradients=gradients)
    for seed in range(3):
        ids.data[...] = np.random.default_rng(seed).integers(0, 31, ids.shape)
        found = [y.numpy().copy() for y in program()]
        with contextlib.nullcontext() if gradients else lcm.no_grad():
            for a, b in zip(found, result(ids), strict=True):
                np.testing.assert_allclose(a, b.numpy(), atol=1e-6)


@pytest.mark.parametrize(("format", "digits"), [("f16", 2**-11), ("bf16", 2**-8)])
def test_half_precision_rounds_each_weight_once(model, tmp_path, format, digits):
    models.save(model, tmp_path / "once", format=format)
    once = models.load(tmp_path / "once")
    for name, parameter in model.parameters().items():
        np.testing.assert_allclose(
            once.parameters()[name].data, parameter.data, rtol=digits, atol=2**-24
        )
    models.save(once, tmp_path / "twice", format=format)
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("once", "twice")]
    assert weights[0] == weights[1]
    assert set(open_safetensors(tmp_path / "once" / "model.safetensors").formats.values()) == {
        format
    }


def test_parameters_are_called_as_in_checkpoints():
    gpt2, llama = (set(models.build(v).parameters()) for v in (GPT2, LLAMA))
    block = ("ln_1.weight ln_1.bias attn.c_attn.weight attn.c_attn.bias attn.c_proj.weight "
             "attn.c_proj.bias ln_2.weight ln_2.bias mlp.c_fc.weight mlp.c_fc.bias "
             "mlp.c_proj.weight mlp.c_proj.bias").split()  # fmt: skip
    whole = ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"]
    assert gpt2 == {
        f"transformer.{n}" for n in whole + [f"h.{i}.{n}" for i in (0, 1) for n in block]
    }
    layer = ("input_layernorm self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj "
             "post_attention_layernorm mlp.gate_proj mlp.up_proj mlp.down_proj").split()  # fmt: skip
    layers = [f"model.layers.{i}.{n}" for i in (0, 1) for n in layer]
    names = ["model.embed_tokens", "model.norm", "lm_head", *layers]
    assert llama == {f"{n}.weight" for n in names}


def test_exact_gelu_is_not_its_approximation_whatever_that_is_called():
    exact, new, tanh = (
        logits(models.fresh(GPT2 | {"activation_function": name}, seed=1))
        for name in ("gelu", "gelu_new", "gelu_pytorch_tanh")
    )
    np.testing.assert_array_equal(new, tanh)
    assert not np.array_equal(exact, new)


def test_a_tied_head_is_one_parameter_and_one_tensor(tmp_path):
    model = models.fresh(LLAMA | {"tie_word_embeddings": True}, seed=0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    models.save(model, tmp_path)
    assert "lm_head.weight" not in open_safetensors(tmp_path / "model.safetensors")


def test_a_tied_head_may_be_in_the_file_too(gpt2_folder):
    change_tensors(gpt2_folder, **{"lm_head.weight": np.zeros((31, 12), np.float32)})
    assert np.abs(logits(models.load(gpt2_folder))).max() > 0


def test_weights_of_gpt2_lie_transposed_in_the_file(gpt2_folder):
    file = open_safetensors(gpt2_folder / "model.safetensors")
    assert file["transformer.h.0.mlp.c_fc.weight"].shape == (12, 48)
    weight = models.load(gpt2_folder).parameters()["transformer.h.0.mlp.c_fc.weight"].data
    np.testing.assert_array_equal(weight, file["transformer.h.0.mlp.c_fc.weight"].T)


def test_the_same_seed_gives_the_same_model_and_another_another():
    first, same, other = (models.fresh(LLAMA, seed=s) for s in (3, 3, 4))
    name = "model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(first.parameters()[name].data, same.parameters()[name].data)
    assert not np.array_equal(first.parameters()[name].data, other.parameters()[name].data)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_fresh_model_knows_nothing(name):
    """Its loss is that of guessing: the logarithm of the vocabulary."""
    y = logits(models.fresh(CONFIGS[name], seed=0)).astype(np.float64)
    losses = np.log(np.exp(y).sum(-1)) - y.mean(-1)
    assert abs(losses.mean() - np.log(31)) < 0.05


def test_keys_left_out_mean_each_architectures_own_default():
    def config(**values):
        return models.build(values | {"hidden_size": 64, "vocab_size": 8, "num_hidden_layers": 1,
                                      "intermediate_size": 8}).config  # fmt: skip

    assert config(model_type="mistral").sliding_window == 4096
    assert config(model_type="mistral").key_heads == 8
    assert config(model_type="mistral", sliding_window=None).sliding_window is None
    assert config(model_type="qwen2").windows() == [0]
    assert config(model_type="qwen2", use_sliding_window=True, max_window_layers=0).windows() == [
        4096
    ]
    assert config(model_type="llama").sliding_window is None
    assert config(model_type="llama").key_heads == 32


@pytest.mark.parametrize("place", [{"rope_theta": 77.0}, {"rope_theta": 77}, {"rope_parameters": {
    "rope_type": "default", "rope_theta": 77.0}}])  # fmt: skip
def test_theta_is_found_in_old_and_new_configurations(place):
    assert models.build(LLAMA | place).config.rope_theta == 77.0


# Files that do not fit.


def test_a_folder_without_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    assert refusal(folder) == ": no config.json there; a model's folder has one"


@pytest.mark.parametrize("text", ["", "{", "\x00\x01", '{"model_type": "llama"', b"\xff\xfe{"])
def test_a_damaged_configuration_is_refused(folder, text):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert refusal(folder).startswith("/config.json: cannot be read as JSON: ")


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"model_type": 3}', '{"model_type": null}'])
def test_a_configuration_without_model_type_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    assert refusal(folder) == "/config.json: no model_type in it; it must name the architecture"


def test_an_unknown_architecture_is_refused_and_the_known_ones_are_named(folder):
    change(folder, model_type="mamba")
    assert refusal(folder) == ": no architecture 'mamba' here; there are: " + ", ".join(
        models.ARCHITECTURES
    )
    with pytest.raises(UsageError, match="no architecture 'mamba' here"):
        models.build({"model_type": "mamba"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_act": "gelu"}, "llama with hidden_act='gelu' is not supported; only: silu"),
        ({"rope_scaling": {"rope_type": "proportional", "factor": 4.0}},
         "llama with rope_type='proportional' is not supported; only: "
         "default, linear, dynamic, yarn, llama3, longrope"),
        ({"rope_parameters": {"type": "su", "rope_theta": 1e4}},
         "llama with rope_type='su' is not supported; only: "
         "default, linear, dynamic, yarn, llama3, longrope"),
        ({"rope_scaling": {"type": "linear"}}, "llama's linear scaling's factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": None}},
         "llama's linear scaling's factor must be float, not None"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1, "2"], "long_factor": []}},
         "llama's longrope scaling's short_factor must be float, not '2'"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1]}},
         "short_factor has 2 numbers for 3 pairs"),
        ({"rope_scaling": "linear"}, "llama's rope settings must be a table, not 'linear'"),
        ({"hidden_size": "12"}, "llama's hidden_size must be int, not '12'"),
        ({"hidden_size": 12.5}, "llama's hidden_size must be int, not 12.5"),
        ({"num_hidden_layers": -1}, "llama's num_hidden_layers must be positive, not -1"),
        ({"num_attention_heads": 0}, "llama's num_attention_heads must be positive, not 0"),
        ({"num_key_value_heads": [2]}, "llama's num_key_value_heads must be int or null, not [2]"),
        ({"tie_word_embeddings": 1}, "llama's tie_word_embeddings must be bool, not 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_a_llama_cannot_be_is_refused(folder, values, said):
    change(folder, **values)
    assert refusal(folder) == f": config.json: {said}"


def test_a_mistral_is_refused_by_its_own_name(folder):
    change(folder, model_type="mistral", hidden_act="relu")
    assert refusal(folder).startswith(": config.json: mistral with hidden_act='relu'")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"activation_function": "relu"}, "activation_function='relu' is not supported; only: "
                                          "gelu_new, gelu_pytorch_tanh, gelu"),
        ({"scale_attn_weights": False}, "scale_attn_weights=False is not supported; only: True"),
        ({"scale_attn_by_inverse_layer_idx": True},
         "scale_attn_by_inverse_layer_idx=True is not supported; only: False"),
        ({"add_cross_attention": True}, "add_cross_attention=True is not supported; only: False"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_a_gpt2_cannot_be_is_refused(gpt2_folder, values, said):
    change(gpt2_folder, **values)
    assert refusal(gpt2_folder) == f": config.json: gpt2 with {said}"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (LLAMA | {"num_key_value_heads": 3}, "num_attention_heads=4 is not a multiple of "
                                             "num_key_value_heads=3"),
        (LLAMA | {"head_dim": 5}, "llama would rotate 5 of the 5 numbers of a head"),
        (LLAMA | {"head_dim": None, "hidden_size": 13}, "hidden_size=13 is not a multiple of "
                                                        "num_attention_heads=4"),
        (GPT2 | {"n_embd": 13}, "n_embd=13 is not a multiple of n_head=3"),
    ],
    ids=["groups", "rotary pairs", "llama's heads", "gpt2's heads"],
)  # fmt: skip
def test_sizes_that_do_not_divide_are_refused_before_any_weight_is_read(tmp_path, values, said):
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert said in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("qwen2", {"layer_types": ["full_attention"]},
         "layer_types must be 2 of full_attention, not full_attention"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]},  # no window is used
         "layer_types must be 2 of full_attention, not full_attention, sliding_attention"),
        ("gemma2", {"layer_types": ["full_attention", "chunked_attention"]},
         "layer_types must be 2 of full_attention, sliding_attention, not full_attention, chunked_attention"),
        ("gemma2", {"use_bidirectional_attention": True},
         "gemma2 with use_bidirectional_attention=True is not supported; only: None, False"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0},
         "gemma3_text's attn_logit_softcapping must be null, not 50.0"),
        ("gemma3_text", {"rope_parameters": {"full_attention": {}, "sliding_attention": {
            "rope_type": "linear", "factor": 2.0}}},
         "gemma3_text's sliding_attention with rope_type='linear' is not supported; only: default"),
        ("starcoder2", {"hidden_act": "relu"}, "starcoder2 with hidden_act='relu' is not supported; only: "
                                               "gelu_new, gelu_pytorch_tanh, gelu"),
        ("phi3", {"partial_rotary_factor": 0.8},
         "phi3 would rotate 3 of the 4 numbers of a head, which are no pairs"),
        ("qwen3_moe", {"num_experts": 4}, "qwen3_moe's num_experts_per_tok=8 is more than num_experts=4"),
        ("qwen3_moe", {"mlp_only_layers": [-1]}, "qwen3_moe's mlp_only_layers must be positive, not -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_other_architectures_cannot_be_is_refused(tmp_path, name, values, said):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name] | values))
    assert refusal(tmp_path) == f": config.json: {said}"


def test_a_missing_tensor_is_named(folder):
    change_tensors(folder, **{"model.layers.1.mlp.up_proj.weight": None})
    assert refusal(folder) == (
        ": the tensor 'model.layers.1.mlp.up_proj.weight' is missing; is the download complete?"
    )


def test_a_tensor_of_another_shape_is_named_with_both(folder):
    change_tensors(folder, **{"model.norm.weight": np.ones(13, np.float32)})
    assert refusal(folder) == (
        ": 'model.norm.weight' is (13,) where the configuration asks for (12,); "
        "are both of the same model?"
    )


def test_a_tensor_that_fits_nowhere_is_named(folder):
    extra = {f"model.layers.2.extra{i}.weight": np.ones(3, np.float32) for i in range(2)}
    change_tensors(folder, **extra)
    assert refusal(folder) == (
        ": 2 tensors fit nowhere, such as 'model.layers.2.extra0.weight'; "
        "are config.json and weights of the same model?"
    )


def test_constants_that_old_checkpoints_hold_are_ignored(folder, tmp_path):
    change_tensors(
        folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}
    )
    models.load(folder)
    models.save(models.fresh(GPT2, seed=1), tmp_path / "gpt2")
    mask = np.ones((1, 1, 24, 24), np.float32)
    change_tensors(tmp_path / "gpt2", **{"transformer.h.0.attn.bias": mask,
                                         "transformer.h.1.attn.masked_bias": mask})  # fmt: skip
    models.load(tmp_path / "gpt2")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "has neither model.safetensors nor model.safetensors.index.json" in refusal(folder)


def test_every_refusal_is_an_error_of_ours(folder):
    change(folder, vocab_size=...)  # 32000 then: another shape
    with pytest.raises(LcmError, match=r"where the configuration asks for \(32000, 12\)"):
        models.load(folder)
