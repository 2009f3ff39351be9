"""Rotary tables against transformers: every scaling, in both spellings, for short texts and for long ones."""

import json

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import lcm
from lcm import models
from lcm.caches import NoCache
from lcm.errors import ContextError
from lcm.generate.decoder import Decoder
from lcm.tensor import Tensor

CONTEXT, ORIGINAL = 200, 64
LLAMA = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": CONTEXT}  # fmt: skip
FACTORS = np.random.default_rng(0)
LONG_ROPE = {
    "rope_type": "longrope", "original_max_position_embeddings": ORIGINAL,
    "short_factor": FACTORS.uniform(1, 2, 12).tolist(), "long_factor": FACTORS.uniform(2, 9, 12).tolist(),
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": ORIGINAL}  # fmt: skip
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "linear, whole factor": {"rope_type": "linear", "factor": 3},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3,
    "llama3, of the whole context": {k: v for k, v in LLAMA3.items() if k[0] != "o"},
    "yarn": YARN,
    "yarn, its factor from the contexts": YARN | {"factor": None},
    "yarn, not truncated": YARN | {"truncate": False, "beta_fast": 20.0, "beta_slow": 2.0},
    "yarn, attention factor": YARN | {"attention_factor": 1.25},
    "yarn, a small theta": YARN | {"rope_theta": 2.0},
    "yarn, mscale": YARN | {"mscale": 0.707, "mscale_all_dim": 0.5},
    "longrope": LONG_ROPE,
    "longrope, factor": LONG_ROPE | {"factor": 32.0},
    "longrope, attention factor": LONG_ROPE | {"attention_factor": 1.19},
}  # fmt: skip
THETA = 500.0


@pytest.fixture(params=SCALINGS)
def scaling(request):
    return dict(SCALINGS[request.param])


def theirs(scaling, **values):
    parameters = {"rope_theta": THETA} | json.loads(json.dumps(scaling))
    return transformers.LlamaConfig(**LLAMA | values, rope_parameters=parameters)


def their_table(config, length):
    places = torch.arange(length)[None]
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), places)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].numpy(), sin[0, :, :half].numpy()


def our_rotary(values):
    return models.build({"model_type": "llama"} | LLAMA | values).model.layers[0].rotary


@pytest.mark.parametrize("length", [ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, CONTEXT])
@pytest.mark.parametrize("spelling", ["transformers 5", "transformers 4", "before 4.43"])
def test_the_tables_are_theirs(scaling, spelling, length):
    old = spelling != "transformers 5"
    values = {"rope_theta": THETA, "rope_scaling": scaling} if old else {
        "rope_parameters": {"rope_theta": THETA} | scaling}  # fmt: skip
    if spelling == "before 4.43":
        values["rope_scaling"]["type"] = scaling.pop("rope_type")
    kind = scaling.get("type") or scaling["rope_type"]
    wanted = their_table(theirs(scaling | {"rope_type": kind}), length)
    found = our_rotary(values).table(NoCache(1, length))
    for ours, other in zip(found, wanted, strict=True):
        assert ours.shape[0] >= length
        np.testing.assert_allclose(ours.numpy()[:length], other, atol=2e-5)


def test_the_tables_are_theirs_at_far_positions(scaling):
    """There an angle is 100,000 times its frequency's rounding off."""
    far = {"max_position_embeddings": 1 << 17}
    wanted = their_table(theirs(scaling, **far), far["max_position_embeddings"])
    found = our_rotary(far | {"rope_theta": THETA, "rope_scaling": scaling})
    for ours, other in zip(found.table(NoCache(1, 1 << 17)), wanted, strict=True):
        assert np.abs(ours.numpy()[-1000:] - other[-1000:]).max() <= 1e-3


@pytest.fixture
def model(scaling, tmp_path):
    """Theirs, and ours made of it."""
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(theirs(scaling)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    made.save_pretrained(tmp_path / "theirs")
    models.save(models.load(tmp_path / "theirs"), tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    return made, again, models.load(tmp_path / "ours")


@pytest.mark.parametrize("length", [ORIGINAL, ORIGINAL + 1, CONTEXT])
def test_logits_are_theirs_whoever_saved_the_model(model, length):
    made, again, ours = model
    ids = np.random.default_rng(1).integers(0, 97, (2, length)).astype(np.int32)
    with torch.no_grad(), lcm.no_grad():
        found = ours(Tensor(ids)).numpy()
        for other in (made, again):
            assert np.abs(other(torch.tensor(ids).long()).logits.numpy() - found).max() <= 1e-4


def test_a_text_that_ends_the_context_is_refused(model):
    """Theirs goes on; what a dynamic scaling does there has no cache that is right."""
    ours = model[-1]
    ids = np.zeros((1, CONTEXT + 1), np.int32)
    with pytest.raises(ContextError, match="the model's context is 200"):
        ours(Tensor(ids))
    with pytest.raises(ContextError, match="the model's context is 200"):
        Decoder(ours).prefill(ids[0].tolist())


# LongRoPE: the angles of a long text are others from its start on.


@pytest.fixture
def longrope(tmp_path):
    made = AutoModelForCausalLM.from_config(theirs(LONG_ROPE)).eval()
    made.save_pretrained(tmp_path)
    return made, models.load(tmp_path)


def assert_next_logits_are_theirs(made, text, logits):
    with torch.no_grad():
        wanted = made(torch.tensor([text])).logits[0, -1].numpy()
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


def test_a_text_is_decoded_as_theirs_until_it_becomes_a_long_one(longrope):
    made, ours = longrope
    text = np.random.default_rng(2).integers(0, 97, ORIGINAL + 1).tolist()
    decoder = Decoder(ours)
    logits = decoder.prefill(text[:40])
    for length in range(40, ORIGINAL + 1):
        assert_next_logits_are_theirs(made, text[:length], logits)
        if length < ORIGINAL:
            logits = decoder.step(text[length])
    with pytest.raises(ContextError, match="a text of more than 64 in another way .* begin again"):
        decoder.step(text[-1])


def test_long_texts_and_short_ones_take_turns_with_one_cache(longrope):
    made, ours = longrope
    decoder = Decoder(ours)
    for length in (ORIGINAL + 3, 9, ORIGINAL - 2, CONTEXT - 3):
        text = np.random.default_rng(length).integers(0, 97, length + 2).tolist()
        decoder.cache.rewind(0)
        logits = decoder.prefill(text[:length])
        assert_next_logits_are_theirs(made, text[:length], logits)
        for more in (1, 2):
            logits = decoder.step(text[length + more - 1])
            assert_next_logits_are_theirs(made, text[: length + more], logits)


def test_what_a_long_text_left_behind_is_no_part_of_a_short_one(longrope):
    _, ours = longrope
    decoder = Decoder(ours)
    decoder.prefill([1] * (ORIGINAL + 1))
    decoder.cache.rewind(ORIGINAL // 2)
    with pytest.raises(ContextError, match="begin again with the whole text"):
        decoder.step(1)


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
@pytest.mark.parametrize("length", [ORIGINAL, ORIGINAL + 1])
def test_phi3_is_read_by_the_names_that_longrope_had(tmp_path, name, length):
    scaling = {"type": name, "short_factor": [1.0, 1.1, 1.4], "long_factor": [1.5, 4.0, 9.0]}
    values = LLAMA | {"original_max_position_embeddings": ORIGINAL, "rope_theta": THETA,
                      "partial_rotary_factor": 0.25}  # fmt: skip
    whole = scaling | {"original_max_position_embeddings": ORIGINAL}  # theirs needs it twice for su
    config = transformers.Phi3Config(**values, rope_scaling=whole, pad_token_id=None)
    made = AutoModelForCausalLM.from_config(config).eval()
    made.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(saved | values | {"rope_scaling": scaling}))
    ids = np.random.default_rng(1).integers(0, 97, (1, length)).astype(np.int32)
    with torch.no_grad(), lcm.no_grad():
        wanted = made(torch.tensor(ids).long()).logits.numpy()
        assert np.abs(models.load(tmp_path)(Tensor(ids)).numpy() - wanted).max() <= 1e-4
