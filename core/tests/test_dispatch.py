"""Dispatch: who decides, in which order, what is said, and what is remembered of it."""

import warnings

import numpy as np
import pytest

from lcm import ops, settings
from lcm.backend import discovery, dispatch, plugins, selftest
from lcm.backend.contract import Backend
from lcm.backend.manifest import Manifest
from lcm.backend.plugins import Plugin
from lcm.backend.tuning import identity
from lcm.errors import BackendError, LcmWarning
from lcm.recording import no_grad
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


def seconds(quick, other, reference):
    return {identity(QUICK): quick, identity(OTHER): other, identity(None): reference}


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
    dispatch.table().add("linear", SIZES, seconds(3.0, 1.0, 2.0))
    dispatch.table().save()
    dispatch.reset()
    choice = dispatch.decide("linear", SIZES)
    assert (choice.backend, choice.reason) == ("other", "the fastest measured here")


def test_the_reference_runs_where_it_is_the_fastest():
    dispatch.table().add("linear", SIZES, seconds(3.0, 4.0, 2.0))
    linear()
    assert dispatch.ran() == {"linear": {"reference": 1}}


def test_measurements_of_another_build_do_not_count():
    times = {"quick 0": 9.0, identity(OTHER): 1.0, identity(None): 2.0}
    dispatch.table().add("linear", SIZES, times)
    assert dispatch.decide("linear", SIZES).reason == "the prior: not measured yet"


def test_a_shape_is_decided_by_the_nearest_one_that_was_measured():
    near, nearer = {"rows": 8, "inputs": 16, "outputs": 8}, {"rows": 4, "inputs": 12, "outputs": 8}
    dispatch.table().add("linear", near, seconds(1.0, 2.0, 3.0))
    dispatch.table().add("linear", nearer, seconds(2.0, 1.0, 3.0))
    choice = dispatch.decide("linear", SIZES)
    where = "near this shape, at rows=4, inputs=12, outputs=8"
    assert (choice.backend, choice.reason) == ("other", f"the fastest measured here {where}")


def test_a_shape_more_than_twice_as_large_tells_nothing():
    dispatch.table().add("linear", SIZES | {"inputs": 17}, seconds(2.0, 1.0, 3.0))
    assert dispatch.decide("linear", SIZES).reason == "the prior: not measured yet"


def test_the_prior_is_the_kernel_that_asks_for_the_most_features(monkeypatch):
    def plugin(name, *features):
        manifest = Manifest(name, 1, "", features=features, library="x.so")
        return Plugin(name, name, "1", manifest=manifest)

    found = (plugin("quick", "avx2"), plugin("other", "avx2", "fma"))
    monkeypatch.setattr(plugins, "installed", lambda: found)
    assert list(dispatch.candidates("linear")) == ["other", "quick", "reference"]
    assert dispatch.decide("linear", SIZES).backend == "other"
    assert list(dispatch.candidates("silu")) == ["reference"]


def test_a_call_of_known_shape_asks_nobody_again(monkeypatch):
    linear()
    monkeypatch.setattr(dispatch, "decide", None)
    linear()
    assert dispatch.ran() == {"linear": {"other": 2}}


def test_what_ran_is_counted_even_when_old_decisions_are_dropped(monkeypatch):
    monkeypatch.setattr(dispatch, "MOST", 3)
    for rows in range(1, 11):
        x = Tensor(np.ones((rows, 8), np.float32))
        ops.linear(x, x.slice(0, 0, 1))
    assert dispatch.ran() == {"linear": {"other": 10}}
    assert len(dispatch.seen()) <= 3


def test_a_rehearsal_tells_what_is_asked_for_and_computes_nothing():
    x = Tensor(np.ones((4, 8), np.float32), requires_grad=True)
    weight = Tensor(np.ones((8, 8), np.float32))

    def model():
        for _ in range(2):
            found.append(ops.linear(x, weight))
        ops.sum_squares(found[0]).backward()

    found = []
    asked = dispatch.rehearse(model)
    assert [(a.symbol, dict(a.sizes), a.calls) for a in asked] == [
        ("linear", SIZES, 2),
        ("sum_squares", {"count": 32}, 1),
        ("sum_squares_grad", {"count": 32}, 1),
        ("linear_grad", SIZES, 1),
    ]
    assert dispatch.ran() == {} and dispatch.seen() == []
    with no_grad():
        assert (ops.linear(x, weight).data == 8).all()


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
