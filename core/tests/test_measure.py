"""Measuring: candidates take turns, what a model asks for is learnt, and the commands say what was found."""

import json
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from lcm import ops
from lcm.backend import discovery, dispatch, measure
from lcm.backend.contract import Backend
from lcm.backend.dispatch import Asked
from lcm.backend.tuning import Table, identity
from lcm.cli import backends, tune
from lcm.errors import KernelError, UsageError

SIZES = {"rows": 4, "inputs": 8, "outputs": 8}


def product(a):
    return lambda: np.copyto(
        a["out"], a["x"] @ a["weight"].T + (0 if a["bias"] is None else a["bias"])
    )


def slow_product(a):
    """The same, a number at a time."""

    def run():
        for row, x in zip(a["out"], a["x"], strict=True):
            for i, weight in enumerate(a["weight"]):
                row[i] = sum(float(p) * float(q) for p, q in zip(x, weight, strict=True))

    return run


def refuse(a):
    def run():
        raise KernelError("not this shape")

    return run


FAST = Backend("fast", {"linear": product}, version="1")
SLOW = Backend("slow", {"linear": slow_product}, version="1")
PICKY = Backend("picky", {"linear": refuse}, version="1")


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    """Three ready backends, and a cache of our own."""
    for name in ("LCM_BACKEND", "LCM_TUNE", "LCM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LCM_CACHE_DIR", str(tmp_path))
    here = (FAST, PICKY, SLOW, discovery.REFERENCE)
    monkeypatch.setattr(discovery, "ready", lambda: here)
    monkeypatch.setattr(measure, "TURN", 0.0005)


def asked(*rows):
    return [Asked("linear", SIZES | {"rows": r}, 1) for r in rows]


# Timing.


def test_every_candidate_is_timed_and_the_fastest_is_taken_from_then_on():
    found, _ = measure.compare("linear", SIZES)
    assert set(found) == {"fast", "picky", "slow", "reference"}
    assert found["picky"] is None
    assert 0 < found["fast"] < found["slow"] < 1
    choice = dispatch.decide("linear", SIZES)
    assert choice.reason == "the fastest measured here" and choice.backend in ("fast", "reference")


class Clock:
    """Time that passes only in calls and sleeps, and a machine that others slow down at times."""

    def __init__(self, busy):
        self.now, self.busy = 0.0, busy

    def perf_counter(self):
        return self.now

    def process_time(self):
        return 0.0

    def sleep(self, seconds):
        self.now += seconds

    def call(self, seconds):
        def run():
            self.now += seconds * (3 if self.busy(self.now) else 1)

        return run


def test_candidates_take_turns_so_that_a_busy_while_disturbs_all_of_them(monkeypatch):
    clock = Clock(busy=lambda now: now < 0.006)  # most of what one would take alone, or 0.4 of both
    monkeypatch.setattr(measure, "time", clock)
    monkeypatch.setattr(measure, "_others_run", lambda: False)
    found = measure.in_turns({"first": clock.call(10e-6), "second": clock.call(11e-6)}, 0.05)
    assert statistics.median(found["first"]) == pytest.approx(10e-6)
    assert statistics.median(found["second"]) == pytest.approx(11e-6)


def test_a_hopeless_candidate_has_one_turn(monkeypatch):
    clock = Clock(busy=lambda now: False)
    monkeypatch.setattr(measure, "time", clock)
    monkeypatch.setattr(measure, "_others_run", lambda: False)
    calls = {"good": 0, "hopeless": 0}

    def counted(name, seconds):
        run = clock.call(seconds)

        def call():
            calls[name] += 1
            run()

        return call

    seconds = {"good": 0.01, "hopeless": 1.0}
    found = measure.in_turns({n: counted(n, s) for n, s in seconds.items()}, 0.0)
    assert {name: max(turns) for name, turns in found.items()} == pytest.approx(seconds)
    assert {name: len(turns) for name, turns in found.items()} == {
        "good": measure.LEAST,
        "hopeless": 1,
    }
    assert calls == {"good": 1 + measure.LEAST, "hopeless": 2}


def test_a_turn_begins_when_the_threads_of_the_one_before_are_at_rest(monkeypatch):
    states = iter([True, True, False])
    monkeypatch.setattr(measure, "_others_run", lambda: next(states))
    measure.settle()
    assert list(states) == []


def test_large_shapes_exist_for_every_op():
    for op in ops.CATALOGUE.values():
        for symbol in op.signature.variants:
            assert measure.possible(op, measure.large(symbol)), symbol


def test_sizes_that_are_no_whole_blocks_are_refused():
    with pytest.raises(UsageError, match="linear__q8_0: no arguments of this shape: .* whole blocks"):
        measure.compare("linear__q8_0", {"rows": 1, "inputs": 33, "outputs": 4}, 0.01)


def test_a_shape_is_given_in_order_or_by_name():
    assert measure.parse_shape("linear", "4,8,8") == SIZES
    assert measure.parse_shape("linear", "outputs=8, rows=4,inputs=8") == SIZES
    for text in ("4,8", "a,b,c", "rows=4", "4,8,0"):
        with pytest.raises(UsageError, match="--shape for linear is rows,inputs,outputs"):
            measure.parse_shape("linear", text)


def test_a_shape_of_which_there_are_no_arguments_is_refused():
    with pytest.raises(UsageError, match="it needs heads % kv_heads == 0"):
        measure.compare(
            "attention",
            {"batch": 1, "rows": 1, "heads": 3, "width": 8, "capacity": 1, "kv_heads": 2},
        )


# Measuring of itself.


def test_what_the_prior_decides_is_learnt_once_the_heaviest_first(monkeypatch):
    order = []

    def compare(symbol, sizes, budget):
        order.append(sizes["rows"])
        names = dispatch.candidates(symbol).values()
        dispatch.table().add(symbol, sizes, {identity(b): 1.0 for b in names})

    monkeypatch.setattr(measure, "compare", compare)
    assert measure.learn(asked(1, 64, 8, 60), 5.0) == 3  # 60 is near to 64
    assert order == [64, 8, 1]
    assert measure.learn(asked(1, 64, 8), 5.0) == 0
    assert len(Table.of_this_host()) == 3


@pytest.mark.parametrize(
    ("fast", "slow", "choice"),
    [
        ((1.1, 1.2, 1.2), (1.0, 1.0, 1.1), "slow"),  # fast is the prior, but not the fastest
        ((1.1, 1.2, 1.2), (0.8, 1.1, 1.1), "fast"),  # perhaps it is not slower
        ((1.1, 1.2, 1.2), (0.5, 0.8, 0.8), "fast"),
        ((2.1, 2.2, 2.2), (0.8, 1.1, 1.1), "slow"),  # beyond doubt
    ],
)
def test_on_a_busy_machine_the_prior_is_given_up_only_beyond_doubt(monkeypatch, fast, slow, choice):
    turns = {"fast": [*fast], "slow": [*slow], "reference": [9.0]}
    monkeypatch.setattr(measure, "in_turns", lambda calls, budget: turns)
    measure.compare("linear", SIZES)
    found = dispatch.decide("linear", SIZES)
    assert found.backend == choice
    assert found.reason.endswith("here" if choice == "slow" else "here, as far as can be told")


def test_tune_tells_a_busy_machine(monkeypatch):
    turns = {"fast": [1.0, 1.3, 1.3], "reference": [9.0]}
    monkeypatch.setattr(measure, "in_turns", lambda calls, budget: turns)
    done = run(tune.command, "--op", "linear", "--shape", "4,8,8")
    assert done.stderr.startswith("lcm: note: the machine was busy at 1 of 1 shapes")


def test_learning_ends_in_time():
    assert measure.learn(asked(1, 1 << 24), 0.0) == 0
    assert not dispatch.table().path.exists()


def test_what_time_was_short_for_is_not_tried_at_every_start():
    everything = asked(1, 64, 1 << 34)
    assert [a.sizes["rows"] for a in measure.new(everything, 5.0)] == [1, 64]
    assert measure.learn(asked(64), 5.0) == 1
    assert measure.new(everything, 5.0) == []
    assert [a.sizes["rows"] for a in measure.new(asked(1), 5.0)] == [1]
    assert measure.new([], 5.0) == []


def test_what_was_learnt_before_an_interruption_is_kept(monkeypatch):
    compare = measure.compare

    def interrupted(symbol, sizes, budget):
        if sizes["rows"] == 1:
            raise KeyboardInterrupt
        return compare(symbol, sizes, budget)

    monkeypatch.setattr(measure, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure.learn(asked(1, 64), 5.0)
    assert [dict(s)["rows"] for s in Table.of_this_host().measured["linear"]] == [64]


def test_a_command_measures_once_and_says_so_in_one_line(capfd):
    tune.automatic(lambda: asked(4))
    assert capfd.readouterr() == (
        "",
        "lcm: note: measuring which backend is fastest for this model, once, for up to 2 s; "
        "LCM_TUNE=off does not\n",
    )
    tune.automatic(lambda: asked(4))
    assert capfd.readouterr() == ("", "")
    assert len(Table.of_this_host()) == 1


@pytest.mark.parametrize(("name", "value"), [("LCM_TUNE", "off"), ("LCM_BACKEND", "fast")])
def test_a_command_measures_nothing_where_the_user_has_decided(monkeypatch, capfd, name, value):
    monkeypatch.setenv(name, value)
    tune.automatic(lambda: pytest.fail("asked"))
    assert capfd.readouterr() == ("", "")


def test_a_wrong_setting_is_said(monkeypatch):
    monkeypatch.setenv("LCM_TUNE", "fast")
    with pytest.raises(UsageError, match="environment LCM_TUNE: tune is auto or off, not 'fast'"):
        tune.automatic(list)


def test_a_training_steps_shapes_are_found_without_training():
    from lcm import models

    config = {"model_type": "llama", "vocab_size": 32, "max_position_embeddings": 16,
              "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
              "num_key_value_heads": 1, "intermediate_size": 16}  # fmt: skip
    model = models.fresh(config, 0)
    model.train()
    before = {n: p.data.copy() for n, p in model.parameters().items()}
    found = {(a.symbol, a.sizes.get("rows")): a.calls for a in tune.of_training(model, 2, 16)}
    assert found["linear_grad", 32] >= 4 and found["cross_entropy", 32] == 1
    for name, parameter in model.parameters().items():
        assert parameter.grad is None and (parameter.data == before[name]).all()


# The commands.


def run(command, *arguments):
    return CliRunner().invoke(command, arguments)


def test_tune_says_what_every_candidate_took_and_where_that_is_kept():
    done = run(tune.command, "--op", "linear", "--shape", "4,8,8")
    assert done.exit_code == 0
    first, last = done.stdout.splitlines()
    assert first.startswith("  1/1  linear") and "picky refuses" in first
    assert last == f"kept in {dispatch.table().path}"
    (row,) = json.loads(run(tune.command, "--op", "linear", "--shape", "4,8,8", "--json").stdout)
    assert row["sizes"] == SIZES and row["seconds"]["picky"] is None
    shape = tuple(sorted(SIZES.items()))
    assert Table.of_this_host().measured["linear"][shape].times == 2
    run(tune.command, "--op", "linear", "--shape", "4,8,8", "--anew")
    assert Table.of_this_host().measured["linear"][shape].times == 1


def test_ctrl_c_in_tune_keeps_what_was_measured(monkeypatch):
    compare = measure.compare

    def interrupted(symbol, sizes, anew):
        if sizes["rows"] == 128:
            raise KeyboardInterrupt
        return compare(symbol, {**sizes, "inputs": 8, "outputs": 8})

    monkeypatch.setattr(measure, "compare", interrupted)
    done = run(tune.command)
    assert done.exit_code == 130
    assert "interrupted; 2 of" in done.stderr
    assert len(Table.of_this_host()) == 2


def test_why_shows_each_candidate_with_its_time_and_the_reason(monkeypatch):
    absent = SimpleNamespace(name="absent", state="ineligible", reason="needs a vax")
    monkeypatch.setattr(discovery, "verdicts", lambda: (absent,))
    times = {
        identity(FAST): 2e-6,
        identity(SLOW): 3e-6,
        identity(PICKY): None,
        identity(None): 1e-3,
    }
    dispatch.table().add("linear", SIZES, times)
    done = run(backends.command, "why", "linear", "--shape", "4,8,8")
    assert [line.split(maxsplit=3) for line in done.stdout.splitlines()] == [
        ["fast:", "the", "fastest", "measured here"],
        ["fast", "2.0", "µs", "taken: the fastest"],
        ["slow", "3.0", "µs", "1.50 x the time of the fastest"],
        ["reference", "1,000.0", "µs", "500.00 x the time of the fastest"],
        ["picky", "refuses", "this", "shape"],
        ["absent", "ineligible:", "needs", "a vax"],
    ]


def test_why_says_what_was_measured_nearby_and_what_was_not(monkeypatch):
    monkeypatch.setattr(discovery, "verdicts", lambda: ())
    dispatch.table().add("linear", SIZES, {identity(FAST): 2e-6, identity(None): 1e-6})
    done = run(backends.command, "why", "linear", "--shape", "8,8,8", "--json")
    found = json.loads(done.stdout)
    assert found["reason"] == "the prior: not measured yet"
    notes = {row["name"]: row["note"] for row in found["candidates"]}
    assert notes == {
        "fast": "taken: 2.00 x the time of the fastest, at rows=4, inputs=8, outputs=8",
        "reference": "the fastest, at rows=4, inputs=8, outputs=8",
        "picky": "not measured",
        "slow": "not measured",
    }
