"""Models against transformers: logits, gradients, training, decoding and files, on random weights.

Tolerances are those that the documentation promises: 1e-4 absolute on logits, 1e-4 relative on the gradient
of every parameter, and five digits on the losses of ten steps.
"""

import copy
import json
from dataclasses import fields

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import lcm
from lcm import models, ops
from lcm.files.safetensors import open_safetensors, save_safetensors
from lcm.generate.decoder import Decoder
from lcm.tensor import Tensor
from lcm.train.optimizers import AdamW, decays

GPT2 = {"vocab_size": 97, "n_positions": 160, "n_embd": 60, "n_layer": 2, "n_head": 3,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
LLAMA = {"vocab_size": 97, "hidden_size": 60, "intermediate_size": 77, "num_hidden_layers": 2,
         "num_attention_heads": 3, "num_key_value_heads": 3, "max_position_embeddings": 160}  # fmt: skip

# What differs from the sizes above: nothing here is a multiple of a vector's width.
CONFIGS = {
    "gpt2": ("gpt2", GPT2),
    "gpt2, untied, exact gelu, n_inner": (
        "gpt2",
        GPT2 | {"tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 77,
                "layer_norm_epsilon": 1e-3},
    ),
    "gpt2, tanh gelu by its other name, one head": (
        "gpt2", GPT2 | {"activation_function": "gelu_pytorch_tanh", "n_head": 1, "n_layer": 1},
    ),
    "llama, untied": ("llama", LLAMA),
    "llama, grouped, tied, head_dim": (
        "llama",
        LLAMA | {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 14,
                 "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    ),
    "llama, biases, one key head, theta": (
        "llama",
        LLAMA | {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1,
                 "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
    "mistral, window": (
        "mistral",
        LLAMA | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 20,
                 "sliding_window": 7},
    ),
    "mistral, no window": ("mistral", LLAMA | {"num_key_value_heads": 1, "sliding_window": None}),
    "llama, as DeepSeek-Coder": (
        "llama", LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}},
    ),
    "llama, as Llama 3.1": (
        "llama",
        LLAMA | {"num_key_value_heads": 1, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}},
    ),
    "granite": (
        "granite",
        LLAMA | {"num_key_value_heads": 1, "embedding_multiplier": 3, "attention_multiplier": 0.3,
                 "residual_multiplier": 0.7, "logits_scaling": 0.8},
    ),
    "granite, tied, biases": (
        "granite",
        LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
                 "logits_scaling": 4},
    ),
    "phi3, window": ("phi3", LLAMA | {"num_key_value_heads": 1, "sliding_window": 9}),
    "phi3, longrope, a part of each head": (
        "phi3",
        LLAMA | {"tie_word_embeddings": True, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 500.0, "partial_rotary_factor": 0.4,
            "short_factor": [1.0, 1.1, 1.3, 1.8], "long_factor": [1.5, 2.5, 4.0, 9.0]},
            "original_max_position_embeddings": 159},
    ),
    "gemma2, window in every other layer": (
        "gemma2",
        LLAMA | {"num_key_value_heads": 1, "head_dim": 14, "query_pre_attn_scalar": 20,
                 "sliding_window": 7, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0},
    ),
    "gemma2, untied, biases, no caps": (
        "gemma2",
        LLAMA | {"head_dim": 20, "attention_bias": True, "tie_word_embeddings": False,
                 "attn_logit_softcapping": None, "final_logit_softcapping": None,
                 "hidden_activation": "gelu", "layer_types": ["full_attention"] * 2},
    ),
    "gemma3_text": (
        "gemma3_text",
        LLAMA | {"num_key_value_heads": 1, "head_dim": 14, "query_pre_attn_scalar": 9,
                 "sliding_window": 7, "sliding_window_pattern": 2},
    ),
    "gemma3_text, linear, capped logits, untied": (
        "gemma3_text",
        LLAMA | {"head_dim": 20, "sliding_window": 9, "tie_word_embeddings": False,
                 "layer_types": ["full_attention", "sliding_attention"], "final_logit_softcapping": 3.0,
                 "rope_parameters": {
                     "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e4},
                     "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}},
    ),
    "qwen2": ("qwen2", LLAMA | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2, yarn, windows from the second layer": (
        "qwen2",
        LLAMA | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1,
                 "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
                                     "original_max_position_embeddings": 40}},
    ),
    "qwen3": ("qwen3", LLAMA | {"num_key_value_heads": 1, "head_dim": 14, "rms_norm_eps": 1e-3}),
    "qwen3, biases, types of layers": (
        "qwen3",
        LLAMA | {"head_dim": 14, "attention_bias": True, "use_sliding_window": True,
                 "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "qwen3_moe": (
        "qwen3_moe",
        LLAMA | {"num_key_value_heads": 1, "head_dim": 14, "num_experts": 5, "num_experts_per_tok": 2,
                 "moe_intermediate_size": 20},
    ),
    "qwen3_moe, window, normed shares, an MLP": (
        "qwen3_moe",
        LLAMA | {"use_sliding_window": True, "sliding_window": 9, "tie_word_embeddings": True,
                 "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 20,
                 "norm_topk_prob": True, "mlp_only_layers": [0]},
    ),
    "gpt_oss": (  # of sizes that torch's grouped product takes
        "gpt_oss",
        LLAMA | {"intermediate_size": 76, "num_attention_heads": 6, "num_key_value_heads": 2,
                 "head_dim": 14, "sliding_window": 9, "num_local_experts": 5,
                 "num_experts_per_tok": 2, "swiglu_limit": 0.3},
    ),
    "gpt_oss, tied, no biases, plain positions": (
        "gpt_oss",
        LLAMA | {"intermediate_size": 76, "head_dim": 20, "sliding_window": 7, "attention_bias": False,
                 "tie_word_embeddings": True, "num_local_experts": 3, "num_experts_per_tok": 1,
                 "swiglu_alpha": 1.1, "layer_types": ["full_attention", "sliding_attention"],
                 "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
    "starcoder2, window": ("starcoder2", LLAMA | {"num_key_value_heads": 1, "sliding_window": 11}),
    "starcoder2, no biases, untied, exact gelu": (
        "starcoder2", LLAMA | {"use_bias": False, "tie_word_embeddings": False, "hidden_act": "gelu"},
    ),
}  # fmt: skip


def random_model(model_type, values, seed=0):
    """Every parameter random: fresh gains of 1 and biases of 0 would hide that they are not used."""
    config = transformers.AutoConfig.for_model(
        model_type, **values, bos_token_id=None, eos_token_id=None, pad_token_id=None
    )
    torch.manual_seed(seed)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return theirs


@pytest.fixture(params=CONFIGS)
def theirs(request):
    return random_model(*CONFIGS[request.param])


@pytest.fixture
def ours(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "checkpoint")
    return models.load(tmp_path / "checkpoint")


def some_ids(*shape, seed=1):
    return np.random.default_rng(seed).integers(0, 97, shape).astype(np.int32)


def rounded(theirs, dtype):
    """The model with its parameters rounded; its table of angles, which no file holds, is kept."""
    theirs = copy.deepcopy(theirs)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.to(dtype).float())
    return theirs


def their_logits(theirs, ids):
    with torch.no_grad():
        return theirs(torch.tensor(ids).long()).logits.float().numpy()


def our_logits(ours, ids):
    with lcm.no_grad():
        return ours(Tensor(ids)).numpy()


def assert_same_logits(ours, theirs, tolerance=1e-4):
    ids = some_ids(3, 41)
    wanted = their_logits(theirs, ids)
    assert np.abs(wanted).max() > 0.5, "logits that say something"
    assert np.abs(our_logits(ours, ids) - wanted).max() <= tolerance


def their_loss(theirs, ids, targets):
    logits = theirs(torch.tensor(ids).long()).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(targets).long().flatten(), ignore_index=-100
    )


def our_loss(ours, ids, targets):
    return ops.cross_entropy(ours(Tensor(ids)), Tensor(targets), ignore_index=-100)


def as_saved(theirs, folder):
    """Their parameters, by the names and in the shapes of a file."""
    theirs.save_pretrained(folder / "saved")
    file = open_safetensors(folder / "saved" / "model.safetensors")
    return {name: file[name] for name in file}


def some_batch(seed=2):
    ids = some_ids(3, 33, seed=seed)
    targets = ids[:, 1:].copy()
    targets[0, :5] = -100
    return ids[:, :-1].copy(), targets


def test_logits_are_theirs(ours, theirs):
    assert_same_logits(ours, theirs)


def test_a_batch_is_its_texts(ours):
    ids = some_ids(3, 41)
    alone = np.concatenate([our_logits(ours, row[None]) for row in ids])
    np.testing.assert_allclose(our_logits(ours, ids), alone, atol=1e-5)


def test_parameters_have_the_names_and_number_of_theirs(ours, theirs, tmp_path):
    assert set(models.tensors(ours)) == set(as_saved(theirs, tmp_path))


def test_the_gradient_of_every_parameter_is_theirs(ours, theirs, tmp_path):
    batch = some_batch()
    ours.train()
    our_loss(ours, *batch).backward()
    their_loss(theirs, *batch).backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    for parameter in ours.parameters().values():
        parameter.data = parameter.grad.numpy()
    gradients = models.tensors(ours)
    for name, wanted in as_saved(theirs, tmp_path).items():
        found = gradients[name]
        # A key's bias moves all scores of a row alike: its gradient is nothing but rounding.
        size = max(np.linalg.norm(wanted), 1e-5)
        assert np.linalg.norm(found - wanted) <= 1e-4 * size, name


def test_ten_losses_of_adamw_are_theirs_to_five_digits(ours, theirs):
    ours.train()
    adamw = AdamW(ours.parameters(), weight_decay=0.1, beta1=0.9, beta2=0.95, eps=1e-8)
    groups = {True: [], False: []}
    for name, parameter in theirs.named_parameters():
        groups[parameter.ndim >= 2 and not name.endswith("bias")].append(parameter)
    reference = torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": 0.1}, {"params": groups[False], "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    found, wanted = [], []
    for step in range(10):
        batch = some_batch(seed=step % 3)
        loss = our_loss(ours, *batch)
        loss.backward()
        adamw.step(lr=1e-3)
        found.append(loss.item())
        reference.zero_grad()
        loss = their_loss(theirs, *batch)
        loss.backward()
        reference.step()
        wanted.append(loss.item())
    assert wanted[-1] < wanted[0] - 0.1, "it learns"
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_weight_decay_is_for_matrices(ours):
    decay = {name for name, parameter in ours.parameters().items() if decays(parameter)}
    assert decay
    assert not any(name.endswith(("bias", "norm.weight", "ln_f.weight")) for name in decay)


def test_greedy_decoding_is_theirs_past_the_growth_of_the_cache(ours, theirs):
    prompt = some_ids(9)
    decoder = Decoder(ours)
    logits = decoder.prefill(prompt.tolist())
    assert decoder.cache.capacity == 128
    text = prompt.tolist()
    for _ in range(140):
        text.append(int(np.argmax(logits)))
        logits = decoder.step(text[-1])
    assert decoder.cache.capacity == 160
    wanted = theirs.generate(
        torch.tensor([prompt.tolist()]), max_new_tokens=140, do_sample=False, pad_token_id=0
    )
    assert text == wanted[0].tolist()


def test_decoding_with_the_cache_is_decoding_without(ours):
    text = some_ids(150).tolist()
    decoder = Decoder(ours)
    logits = [decoder.prefill(text[:5]).copy()]
    logits += [decoder.step(token).copy() for token in text[5:]]
    whole = our_logits(ours, np.array([text], np.int32))[0, 4:]
    assert np.abs(np.array(logits) - whole).max() <= 1e-4
    np.testing.assert_array_equal(np.argmax(logits, -1), np.argmax(whole, -1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_checkpoints_of_half_precision_are_read(theirs, tmp_path, dtype):
    copy.deepcopy(theirs).to(dtype).save_pretrained(tmp_path)
    formats = open_safetensors(tmp_path / "model.safetensors").formats.values()
    assert set(formats) == {{torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]}
    assert_same_logits(models.load(tmp_path), rounded(theirs, dtype))


def test_sharded_checkpoints_are_read(theirs, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    assert_same_logits(models.load(tmp_path), theirs)


@pytest.mark.parametrize("format", ["f32", "f16", "bf16"])
def test_transformers_read_what_is_saved(ours, theirs, tmp_path, format):
    models.save(ours, tmp_path / "saved", format=format)
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[format]
    wanted = rounded(theirs, dtype)
    read, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", dtype=torch.float32, output_loading_info=True
    )
    assert type(read) is type(theirs)
    config, kept = read.config.to_dict(), theirs.config.to_dict()
    for name in json.loads((tmp_path / "saved" / "config.json").read_text()).keys() & kept.keys():
        assert config[name] == kept[name], name
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = some_ids(3, 41)
    np.testing.assert_allclose(their_logits(read.eval(), ids), their_logits(wanted, ids), atol=1e-5)
    assert_same_logits(models.load(tmp_path / "saved"), wanted)


def test_generation_in_transformers_ends_at_the_tokenizers_own_end(ours, tmp_path):
    """Without a word about it, transformers would end a Llama's text at token 2, a GPT-2's at 50256."""
    models.save(ours, tmp_path / "none")
    models.save(ours, tmp_path / "own", extra={"eos_token_id": 7})
    for name, wanted in (("none", None), ("own", 7)):
        read = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert read.config.eos_token_id == read.generation_config.eos_token_id == wanted


def test_gpt2_files_without_prefix_are_read(tmp_path):
    theirs = random_model(*CONFIGS["gpt2"])
    theirs.transformer.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    file = open_safetensors(path)
    tensors = {name: np.array(file[name]) for name in file}
    assert not any(name.startswith("transformer.") for name in tensors)
    mask = np.tril(np.ones((1, 1, 160, 160), np.float32))  # as OpenAI's files have it
    save_safetensors(path, tensors | {f"h.{i}.attn.bias": mask for i in range(2)})
    assert_same_logits(models.load(tmp_path), theirs)


def test_configurations_of_transformers_4_are_read(tmp_path):
    """There, `rope_theta` stands by itself, and `rope_scaling` is null."""
    theirs = random_model(*CONFIGS["llama, biases, one key head, theta"])
    theirs.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values.pop("rope_parameters")["rope_theta"] == 500.0
    values |= {"rope_theta": 500.0, "rope_scaling": None}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert_same_logits(models.load(tmp_path), theirs)


@pytest.mark.parametrize("name", models.ARCHITECTURES)
def test_a_key_that_is_left_out_means_what_it_means_to_them(name):
    ours = models._architecture({"model_type": name}).configure({"model_type": name})
    theirs = {f.name: f.default for f in fields(transformers.AutoConfig.for_model(name))}
    known = {f.name for f in fields(ours)} - {"rope_theta", "rope_scaling"}
    assert len(known & theirs.keys()) >= 8
    for key in known & theirs.keys():
        assert getattr(ours, key) == theirs[key], key
