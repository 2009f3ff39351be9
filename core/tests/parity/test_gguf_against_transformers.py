"""GGUF files that lcm writes, read by transformers, which has a reader and names of its own."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import lcm
from lcm import models
from lcm.models.conversion import to_gguf
from lcm.tensor import Tensor
from lcm.text.tokenizer import Tokenizer

SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
CONFIGS = {
    "gpt2": {
        "model_type": "gpt2", "vocab_size": 300, "n_positions": 1024, "n_embd": 64, "n_layer": 2, "n_head": 4,
    },
    **{name: SIZES | {"model_type": name} for name in ("llama", "qwen2", "qwen3", "starcoder2")},
    "phi3": SIZES | {"model_type": "phi3", "vocab_size": 32064},
    "gemma2": SIZES | {
        "model_type": "gemma2", "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    },
    "gemma3": SIZES | {
        "model_type": "gemma3_text", "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    },
    "qwen3_moe": SIZES | {
        "model_type": "qwen3_moe", "head_dim": 16, "num_experts": 5, "num_experts_per_tok": 2,
        "moe_intermediate_size": 768, "norm_topk_prob": True,  # transformers reads no other size
    },
    "mistral": SIZES | {"model_type": "mistral", "sliding_window": None},
    "llama, tied": SIZES | {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 500.0},
}  # fmt: skip
IDS = np.random.default_rng(0).integers(0, 300, (2, 20))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["def f(x):\n    return x + 1\n"] * 20, vocabulary=270)


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_reads_the_same_model(name, tmp_path, tokenizer):
    model, rng = models.fresh(CONFIGS[name], seed=1), np.random.default_rng(2)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.1
    models.save(model, tmp_path / "folder")
    tokenizer.save(tmp_path / "folder")
    to_gguf(tmp_path / "folder", tmp_path / "model.gguf", "f32")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    with torch.no_grad(), lcm.no_grad():
        wanted = theirs(torch.from_numpy(IDS)).logits.numpy()
        found = model(Tensor(IDS.astype(np.int32))).numpy()
    assert np.abs(found - wanted).max() <= 1e-4
