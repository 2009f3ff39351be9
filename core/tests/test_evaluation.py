"""Evaluation: perplexity and divergence against slow ways, whatever the pieces; what is no number is said."""

import math
import os
import statistics
import tracemalloc

import numpy as np
import pytest

from lcm import models
from lcm.backend import dispatch
from lcm.errors import DataError, LcmError, NumericsError, UsageError
from lcm.evaluation import rows
from lcm.evaluation.divergence import compare
from lcm.evaluation.perplexity import evaluate
from lcm.evaluation.running import activations_of, load_running
from lcm.evaluation.text import windows
from lcm.generate.text_model import TextModel
from lcm.models.conversion import to_gguf
from lcm.recording import no_grad
from lcm.tensor import Tensor
from lcm.text.tokenizer import Tokenizer
from lcm.train.split import IGNORE, Split

VALUES = {"model_type": "llama", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64,
          "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
          "max_position_embeddings": 600}  # fmt: skip
BYTES = np.arange(300) % 7 + 1


def lively(seed=0, **values):
    """A fresh model with large enough parameters that its probabilities are far from equal."""
    model = models.fresh(VALUES | values, seed)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.2
    return model


def batch(rows, tokens, seed=0, classes=300):
    """Inputs and targets, of which some are not counted."""
    inputs, targets = np.random.default_rng(seed).integers(0, classes, (2, rows, tokens), np.int32)
    targets[:, ::5] = IGNORE
    return inputs, targets


def slow_logs(model, inputs):
    """Log-probabilities (B, T, V) in f64, of the whole text at once and without a cache."""
    with no_grad():
        logits = model(Tensor(inputs)).numpy().astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def slow_losses(model, batches):
    return [
        -logs[t]
        for inputs, targets in batches
        for row, came in zip(slow_logs(model, inputs), targets, strict=True)
        for logs, t in zip(row, came, strict=True) if t != IGNORE
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["def add(a, b):\n    return a + b\n" * 8], vocabulary=300)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """A folder with a model whose rows are whole blocks, and its 8-bit form."""
    folder = tmp_path_factory.mktemp("models") / "model"
    model = lively(vocab_size=tokenizer.vocabulary, max_position_embeddings=64)
    models.save(model, folder)
    tokenizer.save(folder / "tokenizer.json")
    to_gguf(folder, folder.with_suffix(".gguf"), "q8_0")
    return folder


# Perplexity.


@pytest.mark.parametrize("numbers", [1, 7 * 300, 1 << 22])
def test_the_loss_is_that_of_the_whole_text_whatever_the_pieces(monkeypatch, numbers):
    monkeypatch.setattr(rows, "NUMBERS", numbers)
    model, batches = lively(), [batch(2, 530), batch(3, 40, seed=1)]
    found = evaluate(model, batches, BYTES)
    wanted = slow_losses(model, batches)
    counted = np.concatenate([t[t != IGNORE] for _, t in batches])
    assert found.loss == pytest.approx(statistics.fmean(wanted), rel=1e-5)
    assert (found.tokens, found.bytes) == (len(wanted), BYTES[counted].sum())


def test_the_logits_of_a_long_text_are_never_there_all_at_once():
    classes, tokens = 30_000, 1024
    model = lively(vocab_size=classes, hidden_size=16, max_position_embeddings=tokens)
    text = batch(1, tokens, classes=classes)
    evaluate(model, [batch(1, 8)], np.ones(classes, int))  # what is kept for good
    tracemalloc.start()
    evaluate(model, [text], np.ones(classes, int))
    compare(model, model, [text])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    logits = tokens * classes * 4
    assert logits > 120e6 and peak < 2 * rows.NUMBERS * 4 + 6 * rows.NUMBERS * 8 < 2 * logits


def test_every_window_starts_as_a_prompt_does_and_this_is_not_predicted():
    class WithStart:
        start, end = 1, 2

    split = Split("text", [np.array([1, 5, 6, 7, 1, 8, 9], np.int32)], ())
    [(inputs, targets)] = windows(split, WithStart, batch=2, context=3)
    np.testing.assert_array_equal(inputs, [[1, 5, 6], [1, 1, 8]])
    np.testing.assert_array_equal(targets, [[5, 6, 7], [IGNORE, 8, 9]])


# Divergence.


def test_a_model_does_not_diverge_from_itself():
    model = lively()
    found = compare(model, model, [batch(2, 40)])
    assert not found.kl.any() and found.same.all()
    assert found.figures()["perplexity_ratio"] == 1
    assert found.figures()["perplexity_ratio_error"] == 0


@pytest.mark.parametrize("numbers", [300, 1 << 22])
def test_divergence_is_its_definition(monkeypatch, numbers):
    monkeypatch.setattr(rows, "NUMBERS", numbers)
    model, reference = lively(1), lively(2)
    inputs, targets = text = batch(1, 300)
    found = compare(model, reference, [text, batch(1, 9)])
    q, p = (slow_logs(m, inputs)[targets != IGNORE] for m in (model, reference))
    kl = [
        math.fsum(math.exp(a) * (a - b) for a, b in zip(*row, strict=True))
        for row in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(found.kl[: len(kl)], kl, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found.same[: len(kl)], q.argmax(-1) == p.argmax(-1))
    assert (found.kl > 0).all()


def test_perplexities_of_a_comparison_are_those_that_are_measured_alone():
    model, reference, text = lively(1), lively(2), [batch(2, 60), batch(2, 60, seed=4)]
    figures = compare(model, reference, text).figures()
    losses, others = slow_losses(model, text), slow_losses(reference, text)
    assert figures["perplexity"] == pytest.approx(evaluate(model, text, BYTES).perplexity, rel=1e-5)
    assert figures["reference_perplexity"] == pytest.approx(
        evaluate(reference, text, BYTES).perplexity, rel=1e-5
    )
    change = [a - b for a, b in zip(losses, others, strict=True)]
    ratio = math.exp(statistics.fmean(change))
    assert figures["perplexity_ratio"] == pytest.approx(ratio, rel=1e-5)
    error = ratio * statistics.stdev(change) / math.sqrt(len(change))
    assert figures["perplexity_ratio_error"] == pytest.approx(error, rel=1e-4)


def test_percentiles_are_those_of_the_sorted_divergences():
    found = compare(lively(1), lively(2), [batch(2, 200)])
    values, figures = sorted(found.kl.tolist()), found.figures()
    assert figures["kl_largest"] == values[-1]
    assert figures["kl_median"] == pytest.approx(statistics.median(values))
    assert figures["kl_99th_percentile"] == pytest.approx(
        statistics.quantiles(values, n=100, method="inclusive")[98]
    )
    assert figures["kl_mean"] == pytest.approx(statistics.fmean(values))
    assert figures["kl_mean_error"] == pytest.approx(
        statistics.stdev(values) / math.sqrt(len(values))
    )


def test_models_with_other_vocabularies_are_not_compared():
    with pytest.raises(UsageError, match="the model has 300 tokens and the reference 301"):
        compare(lively(), lively(vocab_size=301), [batch(1, 4)])


def test_a_comparison_needs_two_tokens():
    inputs, targets = np.zeros((2, 1, 3), np.int32)
    targets[0, 1:] = IGNORE
    with pytest.raises(DataError, match="fewer than 2 tokens"):
        compare(lively(), lively(), [(inputs, targets)])


# As it runs.


def test_rounded_activations_diverge_a_little_and_only_where_they_are_asked_for(saved, monkeypatch):
    if not dispatch.has_kernel("linear_int8__q8_0"):
        pytest.skip("no backend here rounds activations")
    monkeypatch.setenv("LCM_ACTIVATIONS", "int8")
    file = str(saved.with_suffix(".gguf"))
    usual, rounded, exact = (load_running(file, a) for a in (None, "int8", "f32"))
    assert os.environ["LCM_ACTIVATIONS"] == "int8"
    assert [activations_of(m.model) for m in (usual, rounded, exact)] == ["int8", "int8", "f32"]
    text = [batch(2, 60, classes=exact.model.vocabulary)]
    assert not compare(usual.model, rounded.model, text).kl.any()
    assert 0 < compare(rounded.model, exact.model, text).kl.max() < 0.1
    original = load_running(str(saved))
    assert activations_of(original.model) == "f32"
    assert 0 < compare(exact.model, original.model, text).kl.max() < 0.1


def test_the_setting_is_gone_again_when_it_was_not_there(saved, monkeypatch):
    monkeypatch.delenv("LCM_ACTIVATIONS", raising=False)
    with pytest.raises(LcmError):
        load_running("no-such-model", "f32")
    assert "LCM_ACTIVATIONS" not in os.environ


# What is no number.


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_whose_numbers_are_none_is_refused_wherever_it_is_used(tokenizer, bad):
    model, good = (lively(vocab_size=tokenizer.vocabulary) for _ in range(2))
    next(iter(model.parameters().values())).data[:, 0] = bad
    text = [batch(1, 8, classes=tokenizer.vocabulary)]
    with pytest.raises(NumericsError, match="the loss is nan after 0 tokens"):
        evaluate(model, text, BYTES)
    with pytest.raises(NumericsError, match="the loss is nan after 0 tokens"):
        compare(model, good, text)
    with pytest.raises(NumericsError, match="is nan after 0 tokens"):
        compare(good, model, text)
    with pytest.raises(NumericsError, match="the model's logits have nan among them"):
        TextModel(model, tokenizer).complete("def", max_tokens=3)


def test_keys_and_values_in_fewer_bits_diverge_from_those_in_f32(monkeypatch):
    model, text = lively(), [batch(2, 60)]
    exact = evaluate(model, text, BYTES).loss
    monkeypatch.setenv("LCM_CACHE_FORMAT", "f16")
    assert 0 < compare(model, model, text).kl.max() < 0.01
    assert evaluate(model, text, BYTES, exact=True).loss == exact
    assert evaluate(model, text, BYTES).loss != exact
