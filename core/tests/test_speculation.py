"""Speculation: guesses change when a text comes, and never what it says."""

import itertools

import numpy as np
import pytest
from click.testing import CliRunner

import lcm
from lcm import models, ops
from lcm.backend import discovery
from lcm.backend.dispatch import use_backend
from lcm.caches import KVCache, OneByOne
from lcm.cli.generate import command
from lcm.errors import ContextError, LcmWarning, UsageError
from lcm.generate.decoder import Decoder
from lcm.generate.sampling import Sampler, Sampling
from lcm.generate.speculation import LONGEST_PAUSE, DraftModel, NGrams, Rows, Speculation
from lcm.generate.text_model import TextModel
from lcm.nn import Linear
from lcm.tensor import Tensor, concat
from lcm.text.tokenizer import Tokenizer

MODELS = {
    "gpt2": {"model_type": "gpt2", "n_positions": 300, "n_embd": 12, "n_layer": 2, "n_head": 2},
    "llama": {"model_type": "llama", "hidden_size": 12, "intermediate_size": 16,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "head_dim": 6, "max_position_embeddings": 300, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "hidden_size": 12, "intermediate_size": 16,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
                "head_dim": 6, "max_position_embeddings": 300, "sliding_window": 9},
}  # fmt: skip
BACKENDS = [backend.name for backend in discovery.ready()]
SAMPLINGS = {
    "greedy": Sampling(),
    "drawn": Sampling(temperature=0.7, seed=3),
    "penalised": Sampling(temperature=0.5, repetition_penalty=1.3, presence_penalty=0.2, seed=1),
}
LONGROPE = {
    "model_type": "phi3", "vocab_size": 290, "hidden_size": 16, "intermediate_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 128, "original_max_position_embeddings": 64, "sliding_window": None,
    "pad_token_id": 0,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4},
}  # fmt: skip


def lively(values, seed=5):
    """A fresh model whose every parameter is large enough that its texts are not one token for ever."""
    model = models.fresh(values, seed)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.25
    return model


def some_ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, 280, count).tolist()


class Foreseen:
    """Guesses from a text that it knows."""

    def __init__(self, text):
        self.text = text

    def propose(self, text, most):
        return self.text[len(text) : len(text) + most]


class Rubbish:
    """Guesses that never come true."""

    def __init__(self, text):
        self.text = text

    def propose(self, text, most):
        return [(token + 1) % 290 for token in self.text[len(text) : len(text) + most]]


def made(kind):
    return lively(MODELS[kind] | {"vocab_size": 290})


def text_of(take_in, prompt, logits, sampling, count):
    """The text, and the logits that each of its tokens was chosen from."""
    sampler, text, rows = Sampler(sampling, prompt), list(prompt), []
    for _ in range(count):
        rows.append(logits.copy())
        token, _ = sampler.choose(logits)
        text.append(token)
        logits = take_in(token)
    return text, np.array(rows)


def without(model, prompt, sampling=SAMPLINGS["greedy"], count=60):
    decoder = Decoder(model)
    return text_of(decoder.step, prompt, decoder.prefill(prompt), sampling, count)


def guessing(model, prompt, drafter, sampling=SAMPLINGS["greedy"], count=60, rows=None):
    decoder = Decoder(model)
    speculation = Speculation(decoder, drafter, rows or Rows(), prompt, patient=False)
    return *text_of(speculation.step, prompt, decoder.prefill(prompt), sampling, count), speculation


@pytest.mark.filterwarnings("ignore:the draft model is not used", "ignore:.* has no kernel")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("how", SAMPLINGS)
def test_guesses_change_no_bit_of_what_a_text_is_chosen_from(backend, kind, how):
    model, prompt = made(kind), some_ids(7)
    with use_backend(backend):
        text, logits = without(model, prompt, SAMPLINGS[how], count=40)
        rows = Rows()
        for drafter in (Foreseen(text), Rubbish(text), Foreseen(text)):
            found, its, _ = guessing(model, prompt, drafter, SAMPLINGS[how], 40, rows)
            assert found == text
            np.testing.assert_array_equal(its, logits)


@pytest.mark.filterwarnings("ignore:.* has no kernel")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("format", ["f32", "f16", "q8_0"])
def test_attention_gives_each_of_several_rows_the_bits_of_a_step(backend, format):
    rng = np.random.default_rng(0)
    shapes = ((1, 40, 4, 32), (1, 40, 2, 32), (1, 40, 2, 32))
    q, k, v = (Tensor(rng.standard_normal(shape, np.float32)) for shape in shapes)
    one, many = (KVCache(1, 2, 32, context=100, format=format) for _ in range(2))

    def attention(cache, first, last, scale=0.2, window=11):
        parts = (part.slice(1, first, last) for part in (q, k, v))
        return cache.layer(0).attention(*parts, scale=scale, window=window).numpy()

    with use_backend(backend), lcm.no_grad():
        for cache in (one, many):
            attention(cache, 0, 24)
            cache.advance(24)
        steps = []
        for place in range(24, 40):
            steps.append(attention(one, place, place + 1))
            one.advance(1)
        rows = attention(OneByOne(many, 16), 24, 40)
    np.testing.assert_array_equal(rows, np.concatenate(steps, axis=1))
    many.advance(16)
    for found, wanted in zip(many.layers(40)[0], one.layers(40)[0], strict=True):
        assert found.tobytes() == wanted.tobytes()


def row_by_row(x, weight, bias):
    return concat(
        [ops.linear(x.slice(1, i, i + 1), weight, bias) for i in range(x.shape[1])], axis=1
    )


@pytest.mark.filterwarnings("ignore:.* has no kernel")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", MODELS)
def test_where_products_keep_the_bits_of_a_row_so_does_the_model(backend, kind):
    model, ids = made(kind), some_ids(76)
    for layer in model.modules():
        if isinstance(layer, Linear):
            layer.product = row_by_row
    decoder = Decoder(model)
    with use_backend(backend):
        decoder.prefill(ids[:60])
        steps = [decoder.step(token).copy() for token in ids[60:]]
        decoder.cache.rewind(60)
        np.testing.assert_array_equal(decoder.steps(ids[60:]), steps)


@pytest.mark.parametrize("kind", MODELS)
def test_several_steps_at_once_are_the_steps(kind):
    model, ids = made(kind), some_ids(150)
    decoder = Decoder(model)
    wanted = [decoder.prefill(ids[:100]).copy()] + [decoder.step(i).copy() for i in ids[100:]]
    decoder.cache.rewind(0)
    found = [decoder.prefill(ids[:100])[None].copy()]
    for first in (100, 102, 106, 122):  # 128 is where the buffers move
        found.append(
            decoder.steps(ids[first : {100: 102, 102: 106, 106: 122}.get(first, 150)]).copy()
        )
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=2e-5)
    assert decoder.tokens == ids


def test_what_is_foreseen_comes_true_and_is_read_in_few_runs(monkeypatch):
    model, prompt = made("llama"), some_ids(7)
    text, _ = without(model, prompt)
    rows = Rows()
    for size in (4, 16):
        rows.learn(size, same=True)
    runs = []
    steps = Decoder.steps
    monkeypatch.setattr(Decoder, "steps", lambda d, ids: runs.append(len(ids)) or steps(d, ids))
    found, _, speculation = guessing(model, prompt, Foreseen(text), rows=rows)
    assert found == text
    assert runs == [4, 16, 16, 16, 4, 4], "60 tokens, and nothing is foreseen beyond"
    assert speculation.drafted == speculation.accepted == sum(r - 1 for r in runs)


def test_guesses_that_never_come_true_are_soon_given_up():
    model, prompt = made("llama"), some_ids(7)
    text, _ = without(model, prompt, count=200)
    found, _, speculation = guessing(model, prompt, Rubbish(text), count=200)
    assert found == text
    assert speculation.accepted == 0
    tries = 2 + int(np.log2(LONGEST_PAUSE)) + 200 // LONGEST_PAUSE
    assert 0 < speculation.drafted <= 3 * tries


class TellsRowsApart:
    """A model whose logits are other ones by a last digit where several rows are read."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def logits(self, hidden):
        return self.model.logits(hidden) * (1 + 1e-6 * (hidden.shape[1] > 1))


def test_rows_with_other_bits_than_steps_are_never_used():
    model, prompt = TellsRowsApart(made("llama")), some_ids(7)
    text, logits = without(model, prompt)
    rows = Rows()
    with pytest.warns(LcmWarning, match="draft model is not used"):
        found, its, speculation = guessing(model, prompt, Foreseen(text), rows=rows)
    assert found == text
    np.testing.assert_array_equal(its, logits)
    assert speculation.drafted == 3 and speculation.accepted == 0
    found, _, speculation = guessing(model, prompt, Foreseen(text), rows=rows)
    assert speculation.drafted == 0, "what was learned is not tried again"


def test_more_rows_than_a_number_that_differs_are_not_tried():
    rows = Rows()
    assert rows.may_be_used(16)
    rows.learn(4, same=True)
    rows.learn(16, same=False)
    assert rows.may_be_used(4) and not rows.may_be_used(16)
    rows.learn(4, same=False)
    assert not rows.may_be_used(4)


@pytest.mark.parametrize("kind", ["longrope", "llama"])
def test_guesses_reach_no_further_than_the_text_can(kind):
    """The last place of a context, and the last before a text is read in another way."""
    model = lively(LONGROPE) if kind == "longrope" else made(kind)
    end = 64 if kind == "longrope" else model.context
    prompt = some_ids(end - 40)
    text, logits = without(model, prompt, count=40)
    found, its, speculation = guessing(model, prompt, Foreseen([*text, *text]), count=40)
    assert found == text
    np.testing.assert_array_equal(its, logits)
    with pytest.raises(ContextError):
        speculation.step(1)


# What guesses.


def followed(text, most):
    """By looking from the end: what came after the last 4, 3 or 2 tokens where they last were."""
    for length in (4, 3, 2):
        for place in range(len(text) - 1, length - 1, -1):
            if text[place - length : place] == text[-length:]:
                return (text[place:] * (most + 1))[:most]
    return []


@pytest.mark.parametrize("letters", [2, 3, 6, 20])
def test_the_latest_place_of_the_longest_repeated_words_is_found(letters):
    text = np.random.default_rng(letters).integers(0, letters, 120).tolist()
    drafter = NGrams()
    for length in range(1, 120, 2):
        assert list(drafter.propose(text[:length], 5)) == followed(text[:length], 5)


def test_what_repeats_itself_is_guessed_on_and_on():
    assert list(NGrams().propose([7, 1, 2, 3, 1, 2, 3, 1, 2], 7)) == [3, 1, 2, 3, 1, 2, 3]


def test_nothing_is_guessed_where_nothing_repeats():
    assert not NGrams().propose(list(range(50)), 15)


def test_a_draft_model_guesses_what_it_would_write():
    model, prompt = made("gpt2"), some_ids(12)
    text, _ = without(model, prompt, count=12)
    drafter = DraftModel(Decoder(model), 290)
    assert drafter.propose(prompt, 5) == text[12:17]
    assert drafter.propose([*text[:15], 9], 3) == without(model, [*text[:15], 9], count=3)[0][16:]
    assert drafter.propose(text[:20], 4) == text[20:24]


def test_a_draft_model_guesses_nothing_beyond_its_context():
    drafter = DraftModel(Decoder(made("gpt2")), 290)
    assert drafter.propose([1] * 301, 4) == []
    assert len(drafter.propose([1] * 298, 4)) == 3


# Text models, and the command.


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["for i in range(10):\n    print(i)\n"] * 4, vocabulary=280)


def text_model(tokenizer, kind="llama", seed=5):
    return TextModel(lively(MODELS[kind] | {"vocab_size": tokenizer.vocabulary}, seed), tokenizer)


@pytest.mark.filterwarnings("ignore:the draft model is not used")
@pytest.mark.parametrize("draft", [5, 6], ids=["itself", "another"])
def test_a_draft_changes_nothing_but_what_is_told_of_it(tokenizer, draft):
    alone = text_model(tokenizer)
    alone.speculate = "off"
    wanted = alone.complete("for i in", max_tokens=80, logprobs=3)
    helped = text_model(tokenizer)
    helped.draft = text_model(tokenizer, seed=draft)
    found = helped.complete("for i in", max_tokens=80, logprobs=3)
    assert found.pieces[:-1] == wanted.pieces[:-1]
    assert wanted.drafted_tokens == wanted.accepted_tokens == 0
    assert found.drafted_tokens >= found.accepted_tokens
    assert found.drafted_tokens > 0


@pytest.mark.parametrize("mode", ["ngram", "off"])
def test_texts_are_the_same_in_every_mode(tokenizer, mode):
    found, wanted = text_model(tokenizer), text_model(tokenizer)
    found.speculate, wanted.speculate = mode, "off"
    for prompt, (_, sampling) in itertools.product(("for i", "x = "), SAMPLINGS.items()):
        its = found.complete(prompt, max_tokens=120, sampling=sampling)
        assert its.tokens == wanted.complete(prompt, max_tokens=120, sampling=sampling).tokens


def test_a_draft_of_other_tokens_is_refused_with_the_first(tokenizer):
    model = text_model(tokenizer)
    other = Tokenizer.train(["while True: pass"] * 4, vocabulary=280)
    model.draft = text_model(other)
    with pytest.raises(
        UsageError, match="^(token 2|the draft model has).*; take one of its family$"
    ):
        model.complete("for", max_tokens=3)


def test_a_setting_that_says_nothing_is_refused(tokenizer, monkeypatch):
    monkeypatch.setenv("LCM_SPECULATE", "maybe")
    with pytest.raises(UsageError, match="'speculate' must be ngram or off, not 'maybe'"):
        text_model(tokenizer).complete("for", max_tokens=3)


def test_a_draft_and_no_speculation_exclude_each_other(tokenizer, tmp_path):
    model = text_model(tokenizer)
    models.save(model.model, tmp_path)
    tokenizer.save(tmp_path)
    arguments = ["for", "--model", str(tmp_path), "--draft", str(tmp_path), "--speculate", "off"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2 and "exclude each other" in done.output
