"""gpt-oss: what the comparison with transformers does not reach."""

import gguf
import numpy as np
import pytest

from lcm import models
from lcm.files.gguf import open_gguf
from lcm.files.gguf_writing import save_gguf
from lcm.formats import FORMATS
from lcm.generate.decoder import Decoder
from lcm.models.conversion import to_gguf
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.text.tokenizer import Tokenizer

VALUES = {
    "model_type": "gpt_oss", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 256, "sliding_window": 9, "num_local_experts": 5, "num_experts_per_tok": 2,
}  # fmt: skip


@pytest.fixture
def model():
    model, rng = models.fresh(VALUES, seed=1), np.random.default_rng(2)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.1
    return model


@pytest.fixture
def file(model, tmp_path):
    """A GGUF file whose experts are in mxfp4, by gguf-py."""
    models.save(model, tmp_path / "folder")
    Tokenizer.train(["def f(x):\n    return x\n"] * 4, vocabulary=300).save(tmp_path / "folder")
    to_gguf(tmp_path / "folder", tmp_path / "f32.gguf", "f32")
    opened = open_gguf(tmp_path / "f32.gguf")
    tensors = dict(opened)
    stacks = [name for name in tensors if name.endswith("exps.weight")]
    for name in stacks:
        made = gguf.quants.quantize(tensors[name], gguf.GGMLQuantizationType.MXFP4)
        tensors[name] = made.view(FORMATS["mxfp4"].storage)
    formats = dict.fromkeys(stacks, "mxfp4")
    save_gguf(tmp_path / "mxfp4.gguf", tensors, metadata=opened.metadata, formats=formats)
    return tmp_path / "mxfp4.gguf"


def logits(model, text):
    with no_grad():
        return model(Tensor(np.array([text], np.int32))).numpy()[0]


def test_a_file_that_does_not_say_how_yarn_ends_means_what_the_model_learned_with(file, tmp_path):
    opened = open_gguf(file)
    metadata = {key: value for key, value in opened.metadata.items() if "truncate" not in key}
    assert len(metadata) == len(opened.metadata) - 1
    save_gguf(tmp_path / "other.gguf", dict(opened), metadata=metadata, formats=opened.formats)
    assert models.opened(tmp_path / "other.gguf")[0].config == models.opened(file)[0].config


@pytest.mark.usefixtures("kit")
def test_experts_in_mxfp4_are_used_where_the_file_is_mapped(file, monkeypatch):
    monkeypatch.setenv("LCM_ACTIVATIONS", "f32")
    stored, decoded = (models.load(file, as_stored=how) for how in (True, False))
    experts = {n: p for n, p in stored.parameters().items() if ".experts." in n and p.ndim == 2}
    assert len(experts) == 30 and {p.format for p in experts.values()} == {"mxfp4"}
    assert not any(p.data.flags.owndata for p in experts.values())
    text = list(range(20))
    assert np.abs(logits(stored, text) - logits(decoded, text)).max() <= 1e-4


@pytest.mark.parametrize("format", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("backend", ["kernels", "definition"])
def test_a_few_tokens_at_a_time_past_the_window_are_the_whole_text(
    model, format, backend, request, monkeypatch
):
    if backend == "kernels":
        request.getfixturevalue("kit")
    monkeypatch.setenv("LCM_CACHE_FORMAT", format)
    text = np.random.default_rng(3).integers(0, 300, 40).tolist()
    decoder = Decoder(model)
    found = [decoder.prefill(text[:4])[None].copy()]
    found += [decoder.steps(text[i : i + 3]).copy() for i in range(4, 40, 3)]
    wanted = logits(model, text)[3:]
    allowed = {"f32": 1e-4, "f16": 1e-2, "q8_0": 0.1}[format]
    assert np.abs(np.concatenate(found) - wanted).max() <= allowed * np.abs(wanted).max()
