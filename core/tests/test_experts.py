"""Experts: each token goes through those that are chosen for it, however many tokens there are at a time."""

import numpy as np
import pytest

from lcm import models, ops
from lcm.generate.decoder import Decoder
from lcm.models.blocks import GatedMLP
from lcm.models.conversion import to_gguf
from lcm.models.qwen3_moe import Experts
from lcm.program import record
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.text.tokenizer import Tokenizer

VALUES = {
    "model_type": "qwen3_moe", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 256, "num_experts": 5, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "norm_topk_prob": True, "mlp_only_layers": [],
}  # fmt: skip


@pytest.fixture
def model():
    model, rng = models.fresh(VALUES, seed=1), np.random.default_rng(2)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.1
    return model


@pytest.fixture
def experts(model):
    return next(module for module in model.modules() if isinstance(module, Experts))


@pytest.fixture
def quantised(model, tmp_path):
    models.save(model, tmp_path / "folder")
    Tokenizer.train(["def f(x):\n    return x\n"] * 4, vocabulary=300).save(tmp_path / "folder")
    to_gguf(tmp_path / "folder", tmp_path / "model.gguf", "q8_0")
    return tmp_path / "model.gguf"


def by_hand(experts, x):
    """Each token by itself, through its two experts, those before others of equal share."""
    rows = []
    for row in x:
        logits = experts.gate.weight.data @ row
        first, second = sorted(range(5), key=lambda i: (-logits[i], i))[:2]
        powers = np.exp(logits[[first, second]] - logits[first])
        shares = powers / powers.sum()
        parts = [experts.experts[i](Tensor(row[None])).data[0] for i in (first, second)]
        rows.append(shares[0] * parts[0] + shares[1] * parts[1])
    return np.array(rows)


def test_each_token_goes_through_its_experts(experts):
    x = np.random.default_rng(3).standard_normal((17, 64)).astype(np.float32)
    with no_grad():
        np.testing.assert_allclose(experts(Tensor(x)).data, by_hand(experts, x), atol=1e-5)


def test_of_experts_with_equal_shares_the_first_are_chosen(experts):
    experts.gate.weight.data[...] = 0
    experts.gate.weight.data[4] -= 1
    x = np.ones((3, 64), np.float32)
    with no_grad():
        np.testing.assert_allclose(experts(Tensor(x)).data, by_hand(experts, x), atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_recorded_step_asks_the_experts_of_the_tokens_that_it_is_given_next(experts, tokens):
    rng = np.random.default_rng(4)
    x = Tensor(rng.standard_normal((tokens, 64)).astype(np.float32))
    program = record(lambda: experts(x))
    for _ in range(12):
        x.data[...] = rng.standard_normal((tokens, 64))
        np.testing.assert_allclose(program().data, by_hand(experts, x.data), atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 3])
def test_an_expert_that_is_not_chosen_is_not_asked(experts, tokens):
    """It would make the sum no number."""
    experts.gate.weight.data[3] = -np.abs(experts.gate.weight.data).max(0) * 9
    experts.experts[3].down_proj.weight.data[...] = np.nan
    x = Tensor(np.ones((tokens, 64), np.float32))
    program = record(lambda: experts(x))
    assert np.isfinite(program().data).all()


@pytest.mark.usefixtures("kit")
def test_each_expert_of_a_file_is_laid_out_for_the_kernels_of_int8(quantised):
    modules = models.load(quantised, as_stored=True).modules()
    experts = [module for module in modules if isinstance(module, GatedMLP)]
    assert len(experts) == 10
    for expert in experts:
        layers = expert.gate_proj, expert.up_proj, expert.down_proj
        assert {(a.product, a.weight.format) for a in layers} == {(ops.linear_int8, "q8_0_x16")}
        assert expert.gate_proj.joined[1] == (32, 32)


@pytest.mark.usefixtures("kit")
def test_token_by_token_a_file_says_what_it_says_at_once(quantised):
    model = models.load(quantised, as_stored=True)
    text = np.random.default_rng(5).integers(0, 300, 150).tolist()
    decoder = Decoder(model)
    decoder.prefill(text[:1])
    found = np.array([decoder.step(token).copy() for token in text[1:]])
    with no_grad():
        whole = model(Tensor(np.array([text], np.int32))).data[0, 1:]
    assert np.abs(found - whole).max() <= 1e-3 * np.abs(whole).max()
