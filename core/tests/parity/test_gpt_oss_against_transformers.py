"""gpt-oss: checkpoints in mxfp4, which transformers and gguf-py decode, and a config without positions."""

import json

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import lcm
from lcm import models
from lcm.errors import FileError
from lcm.files.safetensors import save_safetensors
from lcm.models import gpt_oss
from lcm.models.conversion import to_gguf
from lcm.models.gpt_oss_files import packed
from lcm.tensor import Tensor
from lcm.text.tokenizer import Tokenizer

VALUES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 9,
    "num_local_experts": 5, "num_experts_per_tok": 2,
}  # fmt: skip
IDS = np.random.default_rng(0).integers(0, 300, (2, 20))


def random_blocks(rng, *shape):
    """Blocks (…, 16) and their scales, of numbers about 0.1."""
    return rng.integers(0, 256, (*shape, 16), np.uint8), rng.integers(121, 124, shape, np.uint8)


def decoded(blocks, scales):
    """(experts, inputs, outputs), by transformers."""
    parts = torch.from_numpy(blocks), torch.from_numpy(scales)
    return convert_moe_packed_tensors(*parts, dtype=torch.float32)


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with experts in mxfp4, and transformers' model of the numbers that these stand for."""
    rng = np.random.default_rng(1)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("gpt_oss", **VALUES, pad_token_id=None)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    tensors = {}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
            if name.endswith(("gate_up_proj", "down_proj")):
                experts, inputs, outputs = parameter.shape
                parts = random_blocks(rng, experts, outputs, inputs // 32)
                tensors |= dict(zip((name + "_blocks", name + "_scales"), parts, strict=True))
                parameter.copy_(decoded(*parts))
            else:
                tensors[name] = parameter.numpy()
    save_safetensors(tmp_path / "model.safetensors", tensors)
    values = config.to_dict() | {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    Tokenizer.train(["def f(x):\n    return x\n"] * 4, vocabulary=300).save(tmp_path)
    with torch.no_grad():
        return tmp_path, tensors, theirs(torch.from_numpy(IDS)).logits.numpy()


def logits(model):
    with lcm.no_grad():
        return model(Tensor(IDS.astype(np.int32))).numpy()


@pytest.mark.parametrize("as_stored", [True, False])
def test_logits_are_those_of_the_numbers_that_transformers_decodes(checkpoint, as_stored, monkeypatch):
    monkeypatch.setenv("LCM_ACTIVATIONS", "f32")
    folder, _, wanted = checkpoint
    model = models.load(folder, as_stored=as_stored)
    assert np.abs(logits(model) - wanted).max() <= 1e-4
    to_gguf(folder, folder / "model.gguf", "f32")
    assert np.abs(logits(models.load(folder / "model.gguf")) - wanted).max() <= 1e-4


def test_blocks_become_those_of_gguf():
    blocks, scales = random_blocks(np.random.default_rng(2), 3, 7, 4)
    wanted = decoded(blocks, scales)
    stored = packed(blocks[1], scales[1]).view(np.uint8).reshape(7, -1)
    found = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.MXFP4)
    np.testing.assert_array_equal(found, wanted[1].numpy().T)


def test_a_config_json_that_says_nothing_of_positions_means_what_it_means_to_them():
    ours, theirs = gpt_oss.configure({}), transformers.AutoConfig.for_model("gpt_oss").rope_parameters
    found = vars(ours.rope_scaling) | {"rope_theta": ours.rope_theta}
    assert theirs.items() <= found.items() and len(theirs) == 7


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("down_proj_blocks", (5, 64, 48), "no stack of experts"),
        ("down_proj_blocks", (5, 64, 3, 8), "no mxfp4"),
        ("down_proj_scales", (5, 64, 4), "no mxfp4"),
        ("down_proj_scales", None, "no mxfp4"),
        ("down_proj_blocks", (4, 64, 3, 16), "no mxfp4"),
        ("gate_up_proj_bias", (0, 192), "no stack of experts"),
        ("gate_up_proj_bias", (5, 190), "is \\(95,\\) where the configuration asks for \\(96,\\)"),
        ("gate_up_proj_bias", (4, 192), "experts.4.gate_proj.bias' is missing"),
    ],
)
def test_a_damaged_stack_is_refused_in_one_line(checkpoint, name, shape, said):
    folder, tensors, _ = checkpoint
    full = f"model.layers.1.mlp.experts.{name}"
    dtype = tensors.pop(full).dtype
    if shape is not None:
        tensors[full] = np.zeros(shape, dtype)
    save_safetensors(folder / "model.safetensors", tensors)
    with pytest.raises(FileError, match=said):
        models.load(folder)
