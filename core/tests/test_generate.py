"""Generation: the cache, the recorded program, stop strings, whole texts."""

import itertools

import numpy as np
import pytest

import lcm
from lcm import models
from lcm.caches import KVCache
from lcm.errors import ContextError, UsageError
from lcm.generate.decoder import Decoder
from lcm.generate.sampling import Sampler, Sampling
from lcm.generate.text_model import TextModel
from lcm.tensor import Tensor
from lcm.text.tokenizer import Tokenizer

CODE = [
    "def add(a, b):\n    return a + b\n",
    "for i in range(10):\n    print(i)\n",
    "x = 'größer ≥ 1'\n",
]
MODELS = {
    "gpt2": {"model_type": "gpt2", "n_positions": 300, "n_embd": 12, "n_layer": 2, "n_head": 2},
    "llama": {"model_type": "llama", "hidden_size": 12, "intermediate_size": 16,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "head_dim": 6, "max_position_embeddings": 300, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "hidden_size": 12, "intermediate_size": 16,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
                "head_dim": 6, "max_position_embeddings": 300, "sliding_window": 9},
}  # fmt: skip


def lively(values, seed=5):
    """A fresh model whose every parameter is large enough that its texts are not one token for ever."""
    model = models.fresh(values, seed)
    rng = np.random.default_rng(seed)
    for parameter in model.parameters().values():
        parameter.data += rng.standard_normal(parameter.shape, np.float32) * 0.25
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CODE * 4, vocabulary=300)


@pytest.fixture(params=MODELS)
def model(request, tokenizer):
    return lively(MODELS[request.param] | {"vocab_size": tokenizer.vocabulary})


@pytest.fixture
def text_model(tokenizer):
    return TextModel(lively(MODELS["llama"] | {"vocab_size": tokenizer.vocabulary}), tokenizer)


# The cache and the recorded program.


def whole_logits(model, ids):
    with lcm.no_grad():
        return model(Tensor(np.array([ids], np.int32))).numpy()[0]


def some_ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, 290, count).tolist()


def test_each_step_gives_what_the_whole_text_gives_anew(model):
    """Step by step: the recorded program against eager runs, from a prompt of one token past 128."""
    ids = some_ids(140)
    decoder = Decoder(model)
    found = [decoder.prefill(ids[:1]).copy()]
    found += [decoder.step(token).copy() for token in ids[1:]]
    assert decoder.cache.capacity > 128
    np.testing.assert_allclose(found, whole_logits(model, ids), atol=2e-5)
    for count in (1, 2, 20, 127, 128, 129, 140):
        np.testing.assert_allclose(
            found[count - 1], whole_logits(model, ids[:count])[-1], atol=2e-5
        )


def test_a_step_is_recorded_once_for_each_place_of_the_buffers(model, monkeypatch):
    from lcm.generate import decoder as module

    recorded = []
    monkeypatch.setattr(
        module, "record", lambda f, record=module.record: recorded.append(1) or record(f)
    )
    decoder = Decoder(model)
    decoder.prefill([3])
    for token in some_ids(140):
        decoder.step(token)
    assert len(recorded) == 2


@pytest.mark.parametrize("length", [1, 127, 128, 129, 257, 290])
def test_a_prompt_of_any_length_leaves_the_same_cache(model, length):
    """In pieces of 256, across the growth of the buffers, and one by one at last."""
    ids = some_ids(length)
    decoder = Decoder(model)
    found = decoder.prefill(ids)
    np.testing.assert_allclose(found, whole_logits(model, ids)[-1], atol=2e-5)
    assert decoder.cache.length == length == int(decoder.cache.start.data[0])
    after = decoder.step(7)
    np.testing.assert_allclose(after, whole_logits(model, [*ids, 7])[-1], atol=2e-5)


def test_a_prompt_may_go_on_after_steps(model):
    ids = some_ids(200)
    decoder = Decoder(model)
    decoder.prefill(ids[:5])
    decoder.step(ids[5])
    found = decoder.prefill(ids[6:199])
    np.testing.assert_allclose(found, whole_logits(model, ids[:199])[-1], atol=2e-5)
    np.testing.assert_allclose(decoder.step(ids[199]), whole_logits(model, ids)[-1], atol=2e-5)


def test_a_rewound_cache_has_forgotten_the_rest(model):
    ids = some_ids(60)
    decoder = Decoder(model)
    decoder.prefill(ids)
    decoder.cache.rewind(20)
    found = [decoder.step(token).copy() for token in some_ids(10, seed=1)]
    wanted = whole_logits(model, ids[:20] + some_ids(10, seed=1))[20:]
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_growth_keeps_what_the_cache_holds():
    cache = KVCache(2, 3, 4, context=1000, batch=2)
    rng = np.random.default_rng(0)
    written = []
    for layer in (0, 1):
        k, v = (Tensor(rng.standard_normal((2, 100, 3, 4)).astype(np.float32)) for _ in "kv")
        cache.layer(layer).attention(k, k, v, scale=1.0)
        written.append((k.data, v.data))
    cache.advance(100)
    assert cache.reserve(28) is False
    assert cache.capacity == 128
    assert cache.reserve(29) is True
    assert cache.capacity == 256
    assert cache.reserve(700) is True
    assert cache.capacity == 1000, "no more than the context"
    for layer, (k, v) in enumerate(written):
        held = cache.layer(layer)
        np.testing.assert_array_equal(held.k.data[:, :100], k)
        np.testing.assert_array_equal(held.v.data[:, :100], v)
        assert not held.k.data[:, 100:].any()


def test_growth_to_a_large_size_is_one_step():
    cache = KVCache(1, 1, 2, context=5000)
    assert cache.reserve(1025)
    assert cache.capacity == 2048


def test_more_than_the_context_is_refused_with_both_numbers():
    cache = KVCache(1, 1, 2, context=40)
    assert cache.capacity == 40
    cache.advance(30)
    cache.reserve(10)
    with pytest.raises(ContextError, match="^41 tokens do not fit: the model's context is 40; "):
        cache.reserve(11)


# Whole texts.


def test_a_greedy_completion_is_the_argmax_of_the_whole_text_each_time(text_model):
    found = text_model.complete("def add(", max_tokens=20)
    ids = text_model.tokenizer.encode("def add(")
    for token in found.tokens:
        assert token == int(np.argmax(whole_logits(text_model.model, ids)[-1]))
        ids.append(token)
    assert found.finish == "length"
    assert found.prompt_tokens == len(ids) - 20
    assert found.text == text_model.tokenizer.decode(found.tokens)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1.5, seed=4)], ids=["greedy", "drawn"]
)
def test_the_pieces_of_a_stream_are_the_completion(text_model, sampling):
    """Also where a character's bytes come in several tokens."""
    options = {"max_tokens": 60, "sampling": sampling, "stop": ("zzz",)}
    whole = text_model.complete("x = 'grö", **options)
    pieces = list(text_model.stream("x = 'grö", **options))
    assert "".join(p.text for p in pieces) == whole.text
    assert [p.token for p in pieces[:-1]] == list(whole.tokens)
    assert [p.finish for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].token is None
    assert pieces[-1].finish == whole.finish
    assert whole.text == text_model.tokenizer.decode(whole.tokens)


def test_the_same_seed_writes_the_same_text(text_model):
    texts = [
        text_model.complete("for", max_tokens=30, sampling=Sampling(temperature=1.0, seed=s)).text
        for s in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


class Scripted(TextModel):
    """A text model that writes the tokens it is told, whatever it is given."""

    def __init__(self, tokenizer, tokens):
        values = MODELS["llama"] | {"vocab_size": tokenizer.vocabulary}
        super().__init__(models.fresh(values, 0), tokenizer)
        self.script = tokens

    def stream(self, *args, **options):
        with pytest.MonkeyPatch.context() as patch:
            tokens = iter(self.script)
            logs = np.full(self.tokenizer.vocabulary, -1.0)
            patch.setattr(Sampler, "choose", lambda self, logits: (next(tokens), logs))
            yield from super().stream(*args, **options)


def byte_tokens(tokenizer, text):
    """The text in the smallest pieces that there are: one token for each byte."""
    by_byte = {tokenizer.bytes_of(i): i for i in reversed(range(tokenizer.vocabulary))}
    return [by_byte[bytes([b])] for b in text.encode()]


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("return a\ndef next", ["\ndef "], "return a"),
        ("aab", ["ab"], "a"),
        ("ababac rest", ["abac"], "ab"),
        ("one two three", ["three", "two"], "one "),
        ("abcd", ["bc", "abcd"], "a"),
        ("abcdef", ["abcd", "bcx"], ""),
        ("x größer y", ["ößer"], "x gr"),
        ("the end", ["ending"], "the end"),
        ("the end", ["the", "the end"], ""),
        ("return", ["n", "u"], "ret"),  # both in one token
        ("nothing here", [], "nothing here"),
    ],
)
@pytest.mark.parametrize("pieces", ["bytes", "tokens"])
def test_a_stop_string_is_never_written_not_even_in_part(tokenizer, text, stop, wanted, pieces):
    tokens = byte_tokens(tokenizer, text) if pieces == "bytes" else tokenizer.encode(text)
    found = list(Scripted(tokenizer, tokens).stream("def", max_tokens=len(tokens), stop=stop))
    assert "".join(p.text for p in found) == wanted
    stopped = any(s in text for s in stop)
    assert found[-1].finish == ("stop" if stopped else "length")
    written = list(itertools.accumulate(p.text for p in found))
    assert all(wanted.startswith(part) for part in written), "nothing was taken back"


def test_text_that_only_looked_like_a_stop_string_comes_when_it_is_certain(tokenizer):
    tokens = byte_tokens(tokenizer, "x = 1; y")
    found = list(Scripted(tokenizer, tokens).stream("def", max_tokens=len(tokens), stop=["= 2"]))
    assert [p.text for p in found] == ["x", " ", "", "", "= 1", ";", " ", "y", ""]


def test_the_token_that_ends_a_text_ends_it_and_is_not_shown(tokenizer):
    tokens = [*tokenizer.encode("add"), tokenizer.end, *tokenizer.encode("more")]
    found = list(Scripted(tokenizer, tokens).stream("def", max_tokens=20))
    assert "".join(p.text for p in found) == "add"
    assert found[-1].finish == "end"
    assert tokenizer.end not in [p.token for p in found]


def test_held_back_text_comes_when_the_text_ends(tokenizer):
    tokens = [*byte_tokens(tokenizer, "a\nde"), tokenizer.end]
    found = list(Scripted(tokenizer, tokens).stream("def", max_tokens=20, stop=["\ndef"]))
    assert "".join(p.text for p in found) == "a\nde"
    assert found[-1].text == "\nde"


def test_the_likeliest_tokens_come_with_their_logprobs(text_model):
    vocabulary = text_model.tokenizer.vocabulary
    found = text_model.complete("def", max_tokens=5, logprobs=vocabulary)
    ids = text_model.tokenizer.encode("def")
    for piece in found.pieces[:-1]:
        y = whole_logits(text_model.model, ids)[-1].astype(np.float64)
        wanted = y - np.log(np.exp(y).sum())
        logs = dict(piece.top)
        assert len(logs) == vocabulary
        assert abs(sum(np.exp(v) for v in logs.values()) - 1) < 1e-9
        np.testing.assert_allclose([logs[i] for i in range(vocabulary)], wanted, atol=1e-4)
        assert piece.logprob == logs[piece.token] == piece.top[0][1]
        assert [v for _, v in piece.top] == sorted(logs.values(), reverse=True)
        ids.append(piece.token)


def test_logprobs_are_not_computed_for_nobody(text_model):
    assert all(p.top == () for p in text_model.stream("def", max_tokens=3))


def test_a_text_that_cannot_fit_is_refused_before_anything_is_computed(text_model):
    prompt = "a b " * 200
    count = len(text_model.tokenizer.encode(prompt))
    said = f"the prompt's {count} tokens and 10 new ones do not fit the model's context of 300"
    with pytest.raises(ContextError, match=said):
        next(text_model.stream(prompt, max_tokens=10))
    with pytest.raises(
        ContextError, match=f"prompt's {count} tokens and 1 new ones .* context of 300"
    ):
        next(text_model.stream(prompt))


def test_the_last_place_of_the_context_can_be_had_and_no_more(text_model):
    prompt = "\x01" * 250
    assert len(text_model.complete(prompt, max_tokens=50).tokens) == 50
    with pytest.raises(ContextError, match="prompt's 250 tokens and 51 new ones"):
        text_model.complete(prompt, max_tokens=51)


def test_without_a_number_of_tokens_the_text_ends_where_the_context_does(text_model):
    prompt = "\x01" * 250
    assert len(text_model.tokenizer.encode(prompt)) == 250
    found = text_model.complete(prompt)
    assert (len(found.tokens), found.finish) == (50, "length")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"max_tokens": 0}, "max_tokens must be 1 or more, not 0"),
     ({"stop": ["a", ""]}, "a stop string must not be empty")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(text_model, options, said):
    with pytest.raises(UsageError, match=said):
        next(text_model.stream("def", **options))


def test_an_empty_prompt_starts_from_the_token_that_ends_a_text(text_model):
    assert text_model.prompt_ids("") == [text_model.tokenizer.end]
    assert len(text_model.complete("", max_tokens=3).tokens) <= 3


def test_an_id_that_only_pads_the_models_vocabulary_is_never_chosen(tokenizer):
    padded = lively(MODELS["gpt2"] | {"vocab_size": tokenizer.vocabulary + 60})
    hot = Sampling(temperature=1e6, seed=0)
    found = TextModel(padded, tokenizer).complete("def", max_tokens=200, sampling=hot)
    assert max(found.tokens) < tokenizer.vocabulary
