"""Dispatch: who decides, in which order, what is said, and what the tuning table remembers."""

import warnings

import numpy as np
import pytest

from lcm import ops, settings
from lcm.backend import discovery, dispatch, measure, selftest, tuning
from lcm.backend.contract import Backend
from lcm.backend.tuning import Table
from lcm.errors import BackendError, LcmWarning, UsageError
from lcm.tensor import Tensor


def right(a):
    return lambda: np.copyto(
        a["out"], a["x"] @ a["weight"].T + (0 if a["bias"] is None else a["bias"])
    )


def wrong(a):
    make = right(a)
    return lambda: [make(), np.multiply(a["out"], np.float32(1.001), out=a["out"])]


QUICK = Backend("quick", {"linear": right}, version="1")
OTHER = Backend("other", {"linear": right}, version="1")
SIZES = {"rows": 4, "inputs": 8, "outputs": 8}


@pytest.fixture(autouse=True)
def two_backends(monkeypatch, tmp_path):
    """Two ready backends, in a world of their own."""
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("LCM_BACKEND", raising=False)
    here = {b.name: b for b in (QUICK, OTHER)}

    def open_backend(name):
        if name not in here:
            raise BackendError(f"no backend {name!r} here")
        return here[name]

    monkeypatch.setattr(discovery, "ready", lambda: tuple(here.values()))
    monkeypatch.setattr(discovery, "open_backend", open_backend)
    dispatch.reset()
    yield
    dispatch.reset()


def linear(**options):
    x = Tensor(np.ones((4, 8), np.float32))
    return ops.linear(x, x.slice(0, 0, 1).expand(8, 8), **options)


def test_an_argument_beats_the_context_the_environment_and_the_table(monkeypatch, tmp_path):
    monkeypatch.setenv("LCM_BACKEND", "other")
    with dispatch.use_backend("other"):
        linear(backend="quick")
    assert dispatch.ran() == {"linear": {"quick": 1}}


def test_the_context_beats_the_environment(monkeypatch):
    monkeypatch.setenv("LCM_BACKEND", "other")
    with dispatch.use_backend("quick"):
        linear()
    linear()
    assert dispatch.ran() == {"linear": {"other": 1, "quick": 1}}


def test_the_environment_beats_the_configuration_which_beats_the_table(monkeypatch, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('backend = "other"\n')
    monkeypatch.setattr(settings, "config_file", lambda: config)
    assert dispatch.decide("linear", SIZES).reason == f"asked for by {config}"
    monkeypatch.setenv("LCM_BACKEND", "quick")
    dispatch.reset()
    assert dispatch.decide("linear", SIZES).reason == "asked for by environment LCM_BACKEND"


def test_the_table_beats_the_prior():
    assert dispatch.decide("linear", SIZES).reason == "the prior: not measured yet"
    times = {tuning.identity(QUICK): 3.0, tuning.identity(OTHER): 1.0, "reference": 2.0}
    dispatch.table().add(tuning.bucket("linear", SIZES), times)
    dispatch.table().save()
    dispatch.reset()
    choice = dispatch.decide("linear", SIZES)
    assert (choice.backend, choice.reason) == ("other", "the fastest measured here")


def test_the_reference_runs_where_it_is_the_fastest():
    times = {tuning.identity(QUICK): 3.0, tuning.identity(OTHER): 4.0, "reference": 2.0}
    dispatch.table().add(tuning.bucket("linear", SIZES), times)
    linear()
    assert dispatch.ran() == {"linear": {"reference": 1}}


def test_measurements_of_another_build_do_not_count():
    dispatch.table().add(
        tuning.bucket("linear", SIZES),
        {"quick 0": 9.0, tuning.identity(OTHER): 1.0, "reference": 2.0},
    )
    assert dispatch.decide("linear", SIZES).reason == "the prior: not measured yet"


def test_a_backend_that_cannot_be_had_fails_loudly(monkeypatch):
    with pytest.raises(BackendError, match="no backend 'gone' here"):
        linear(backend="gone")
    with pytest.raises(BackendError, match="no backend 'gone' here"), dispatch.use_backend("gone"):
        raise AssertionError("entered")
    monkeypatch.setenv("LCM_BACKEND", "gone")
    dispatch.reset()
    with pytest.raises(BackendError, match="no backend 'gone' here"):
        linear()


def test_what_the_chosen_backend_lacks_is_said_once_for_each_op():
    x = Tensor(np.ones(8, np.float32))
    with dispatch.use_backend("quick"), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for size in (8, 9, 10):
            ops.silu(Tensor(np.ones(size, np.float32)))
            ops.gelu(x)
    assert [str(w.message) for w in said] == [
        "quick has no kernel 'silu': the reference runs it",
        "quick has no kernel 'gelu': the reference runs it",
    ]
    assert all(w.category is LcmWarning for w in said)


def test_without_a_choice_nothing_is_said(recwarn):
    ops.silu(Tensor(np.ones(8, np.float32)))
    assert not recwarn.list


def test_f64_always_runs_the_body():
    x = Tensor(np.ones((4, 8)))
    ops.linear(x, x, backend="gone")
    assert dispatch.ran() == {}


def test_the_table_does_not_flap_within_its_margin(tmp_path):
    table = Table(tmp_path / "t.json")
    table.add("k", {"a": 1.00, "b": 0.99})
    assert table.choices["k"] == "b"
    table.add("k", {"a": 0.96, "b": 0.99})
    assert table.choices["k"] == "b"
    table.add("k", {"a": 0.90, "b": 0.99})
    assert table.choices["k"] == "a"


def test_a_broken_table_is_said_and_begun_anew():
    path = dispatch.table().path
    path.parent.mkdir(parents=True)
    path.write_text("{")
    dispatch.reset()
    with pytest.warns(LcmWarning, match="tuning table is unreadable"):
        assert dispatch.table().choices == {}


def test_buckets_are_powers_of_two():
    assert tuning.bucket("linear", {"rows": 1, "inputs": 896}) == "linear rows=1 inputs=1024"
    assert tuning.bucket("linear", {"rows": 2, "inputs": 1024}) == "linear rows=2 inputs=1024"


def test_compare_times_every_candidate_and_fills_the_table():
    found = measure.compare("linear", SIZES)
    assert set(found) == {"quick", "other", "reference"}
    assert all(0 < t < 1 for t in found.values())
    assert dispatch.decide("linear", SIZES).reason == "the fastest measured here"


def test_a_shape_is_given_in_order_or_by_name():
    assert measure.parse_shape("linear", "4,8,8") == SIZES
    assert measure.parse_shape("linear", "outputs=8, rows=4,inputs=8") == SIZES
    for text in ("4,8", "a,b,c", "rows=4", "4,8,0"):
        with pytest.raises(UsageError, match="--shape for linear is rows,inputs,outputs"):
            measure.parse_shape("linear", text)


def test_the_self_test_passes_what_is_right_and_catches_what_is_a_thousandth_off():
    selftest.check(QUICK)
    with pytest.raises(BackendError, match=r"other: its linear is wrong by 1\.\de-03"):
        selftest.check(Backend("other", {"linear": wrong}))


def test_the_self_test_catches_not_a_number():
    bad = Backend("bad", {"linear": lambda a: lambda: a["out"].fill(np.nan)})
    with pytest.raises(BackendError, match="bad: its linear is wrong by nan"):
        selftest.check(bad)


def test_the_self_test_catches_a_kernel_of_no_op():
    with pytest.raises(BackendError, match="'warp' is no kernel of lcm's"):
        selftest.check(Backend("liar", {"warp": right}))


def test_the_self_test_catches_a_wrong_gradient():
    def gradient(a):
        return lambda: [
            None if a[f"{n}_grad"] is None else a[f"{n}_grad"].fill(0)
            for n in ("x", "weight", "bias")
        ]

    with pytest.raises(BackendError, match="its linear_grad is wrong"):
        selftest.check(Backend("flat", {"linear_grad": gradient}))
