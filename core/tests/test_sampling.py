"""The sampler, against slow ways and laws: what is cut and penalised, how often the rest is drawn."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcm.errors import NumericsError, UsageError
from lcm.generate.sampling import Sampler, Sampling, log_softmax

LOGITS = np.array([1.0, 3.0, -2.0, 2.5, 3.0, 0.0, -1.0], np.float32)


def chosen(logits, count=1, prompt=(), **sampling):
    sampler = Sampler(Sampling(**sampling), prompt)
    return [sampler.choose(np.asarray(logits, np.float32))[0] for _ in range(count)]


def shares(logits, temperature=1.0):
    powers = np.exp(np.asarray(logits, np.float64) / temperature)
    return powers / powers.sum()


def kept(probabilities, top_k=0, top_p=1.0, min_p=0.0):
    """Which tokens survive the cuts: one at a time, in words."""
    ranking = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    if top_k:
        ranking = ranking[:top_k]
    enough = top_p * sum(probabilities[i] for i in ranking)
    nucleus, total = [], 0.0
    for i in ranking:
        if nucleus and total >= enough:
            break
        nucleus.append(i)
        total += probabilities[i]
    best = probabilities[ranking[0]]
    return {i for i in nucleus if probabilities[i] >= min_p * best} | {ranking[0]}


def test_greedy_takes_the_first_of_the_likeliest():
    assert chosen(LOGITS) == [1]


def test_the_same_seed_chooses_the_same_and_another_seed_otherwise():
    first, same, other = (chosen(LOGITS, 50, temperature=1.0, seed=s) for s in (1, 1, 2))
    assert first == same != other
    assert chosen(LOGITS, 50, temperature=1.0) != chosen(LOGITS, 50, temperature=1.0), "no seed"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature):
    count = 20_000
    found = np.bincount(chosen(LOGITS, count, temperature=temperature, seed=0), minlength=7) / count
    wanted = shares(LOGITS, temperature)
    np.testing.assert_allclose(found, wanted, atol=4 * np.sqrt(0.25 / count))


@pytest.mark.parametrize("cuts", [
    {"top_k": 3}, {"top_k": 100}, {"top_p": 0.5}, {"top_p": 0.9}, {"top_p": 0.01}, {"min_p": 0.2},
    {"min_p": 0.99}, {"top_k": 5, "top_p": 0.8, "min_p": 0.3}, {"top_k": 2, "top_p": 0.4},
], ids=str)  # fmt: skip
def test_what_is_cut_is_never_drawn_and_the_rest_in_proportion(cuts):
    logits = LOGITS + np.linspace(0, 0.3, 7, dtype=np.float32)  # no two alike
    count = 8000
    found = Counter(chosen(logits, count, temperature=1.0, seed=3, **cuts))
    wanted = shares(logits)
    survivors = kept(wanted, **cuts)
    assert set(found) == survivors
    for token in survivors:
        share = wanted[token] / sum(wanted[i] for i in survivors)
        assert abs(found[token] / count - share) < 4 * np.sqrt(0.25 / count)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12, unique=True),
    st.integers(0, 14), st.floats(0.01, 1.0), st.floats(0.0, 0.98), st.integers(0, 2**31),
)  # fmt: skip
def test_a_cut_token_is_never_drawn(logits, top_k, top_p, min_p, seed):
    cuts = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    exact = kept(shares(logits), **cuts)
    near = kept(shares(logits), top_k=top_k, top_p=min(1.0, top_p + 1e-9), min_p=min_p * (1 - 1e-9))
    assert set(chosen(logits, 5, temperature=1.0, seed=seed, **cuts)) <= exact | near


def test_repetition_penalty_divides_what_is_above_zero_and_multiplies_what_is_below():
    _, logs = Sampler(Sampling(repetition_penalty=2.0), prompt=[1, 2], logs=True).choose(LOGITS)
    wanted = LOGITS.astype(np.float64)
    wanted[1], wanted[2] = 1.5, -4.0
    np.testing.assert_allclose(logs, np.log(shares(wanted)), atol=1e-12)


def test_presence_is_subtracted_once_and_frequency_each_time_for_what_was_generated():
    sampler = Sampler(Sampling(presence_penalty=0.25, frequency_penalty=0.5), prompt=[3], logs=True)
    wanted, logs = LOGITS.astype(np.float64), None
    found = []
    for _ in range(6):
        counts = Counter(found)
        now = wanted.copy()
        for token, count in counts.items():
            now[token] -= 0.25 + 0.5 * count
        token, logs = sampler.choose(LOGITS)
        assert token == int(np.argmax(now)), "the prompt's tokens are not penalised"
        np.testing.assert_allclose(logs, np.log(shares(now)), atol=1e-12)
        found.append(token)
    assert len(set(found)) > 2


def test_the_logits_given_are_left_as_they_are():
    logits = LOGITS.copy()
    chosen(logits, 3, prompt=[1, 4], repetition_penalty=1.5, presence_penalty=1.0)
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_probabilities_sum_to_one_even_of_huge_logits(temperature):
    sampler = Sampler(Sampling(temperature=temperature, top_k=2, seed=0), logs=True)
    _, logs = sampler.choose(LOGITS * 1e4)
    assert abs(np.exp(logs).sum() - 1) < 1e-12
    np.testing.assert_allclose(
        np.exp(log_softmax(LOGITS.astype(float))), shares(LOGITS), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("top_k", -1), ("top_p", 0.0),
     ("top_p", 1.1), ("min_p", 1.0), ("min_p", -0.1), ("repetition_penalty", 0.0)],
)  # fmt: skip
def test_a_setting_that_cannot_be_meant_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=rf"^{name} must be .*, not {value}$"):
        Sampling(**{name: value})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_token_is_chosen_from_what_is_no_number(temperature, penalty, bad):
    logits = LOGITS.copy()
    logits[2] = bad
    sampler = Sampler(Sampling(temperature=temperature, repetition_penalty=penalty), prompt=[1])
    with pytest.raises(NumericsError, match=f"logits have {bad} among them"):
        sampler.choose(logits)


def test_a_token_that_cannot_be_is_no_error():
    logits = LOGITS.copy()
    logits[1] = -np.inf
    assert chosen(logits) == [4]


@pytest.mark.parametrize(
    "sampling", [{}, {"repetition_penalty": 1.3}, {"temperature": 0.7, "seed": 2}], ids=str
)
def test_what_is_told_does_not_change_what_is_chosen(sampling):
    logits = np.random.default_rng(0).standard_normal((20, 50), np.float32)
    told, silent = (Sampler(Sampling(**sampling), logs=logs) for logs in (True, False))
    for row in logits:
        (token, logs), (same, nothing) = told.choose(row), silent.choose(row)
        assert token == same and nothing is None
        assert logs.shape == (50,) and abs(np.exp(logs).sum() - 1) < 1e-12
