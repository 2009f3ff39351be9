"""lcm bench: limits, the ladder, kernels, training; figures are what they say."""

import dataclasses
import signal
import time

import numpy as np
import pytest
from click.testing import CliRunner

from lcm import host, models
from lcm.backend import limits, native
from lcm.backend.contract import Backend
from lcm.backend.selftest import parse
from lcm.bench import ladder, ops, rungs, timing, train
from lcm.bench.results import Results
from lcm.cli import main
from lcm.cli.bench import command
from lcm.ops.cases import possible


@pytest.fixture
def library(kit_library):
    return native.open_library(kit_library)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 1023, (4 << 20) + 37])
def test_reading_reads_every_number_once(library, count, threads):
    native.function(library, "lcm_set_threads", "void", "int32_t")(threads)
    x = np.random.default_rng(count).integers(-(2**31), 2**31, count + 8).astype(np.int32)
    read = native.function(library, "lcm_limit_read", "int32_t", "int32_t *", "int64_t")
    assert read(native.address(x[3:]), count) == np.bitwise_xor.reduce(x[3 : 3 + count], initial=0)


def test_multiply_adds_are_counted_by_rounds_lanes_and_threads(library):
    set_threads = native.function(library, "lcm_set_threads", "void", "int32_t")
    f32, f64 = (
        native.function(library, f"lcm_limit_fma_{f}", "int64_t", "int64_t") for f in ("f32", "f64")
    )
    set_threads(1)
    one = f32(100)
    assert one == 2 * 100 * 12 * 4 * 4 and f64(100) * 2 == one
    set_threads(3)
    assert f32(100) == 3 * one


@pytest.fixture
def quick(monkeypatch):
    """Limits in no time, and not of much worth."""
    monkeypatch.setattr(limits, "SECONDS", 0.01)
    monkeypatch.setattr(limits, "LEAST_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "MOST_BYTES", 1 << 20)


def test_the_limits_of_a_kit_are_measured_once_and_those_of_others_not_at_all(kit_library, quick):
    library = native.open_library(kit_library)
    set_threads = native.function(library, "lcm_set_threads", "void", "int32_t")
    backend = Backend("kit", {}, library=str(kit_library), threads=set_threads)
    found = limits.measured(backend, 1)
    assert found is not None and found is limits.measured(backend, 1)
    assert found.fma("f32") == found.fma_f32 > 0 and found.fma("f64") == found.fma_f64 > 0
    assert found.read > 0
    assert limits.measured(Backend("python", {})) is None


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 63, 64, 65, 250, 300, 521])
@pytest.mark.parametrize(
    "rung", ["naive_f32", "naive_f64", "blocked_f32", "blocked_f64", "simd_f64"]
)
def test_a_rung_of_the_ladder_is_the_product_and_writes_nothing_else(library, rung, n, threads):
    native.function(library, "lcm_set_threads", "void", "int32_t")(threads)
    dtype = np.float32 if rung.endswith("f32") else np.float64
    rng = np.random.default_rng(n)
    x, y = rng.integers(-8, 9, (2, n, n)).astype(dtype)  # whole numbers: every sum is exact
    memory = np.full(n * n + 32, np.nan, dtype)
    out = memory[16 : 16 + n * n]
    step = native.function(library, f"lcm_ladder_{rung}", "int32_t", *["void *"] * 3, "int64_t")
    assert step(*map(native.address, (out, x, y)), n) == 0
    assert np.array_equal(out.reshape(n, n), np.einsum("ik,kj", x, y, dtype=np.float64))
    assert np.isnan(memory[:16]).all() and np.isnan(memory[16 + n * n :]).all()


# The ladder.


@pytest.fixture
def backend(kit_library):
    """The kit's products alone: other ops run by their bodies."""
    whole = native.load(kit_library, "kit")
    return dataclasses.replace(
        whole, kernels={s: whole.kernels[s] for s in ("linear", "linear_grad", "matmul")}
    )


def test_the_ladder_climbs_from_python_to_blas_and_every_product_is_right(backend, quick):
    results = ladder.run([8, 20], threads=2, budget=0.01, kit=backend)
    for format, ends in (("f32", "SIMD, threaded"), ("f64", "BLAS")):
        names = [r.case["rung"] for r in results.rows if r.case["format"] == format]
        wanted = [
            "naive",
            "naive, threaded",
            "blocked",
            "blocked, threaded",
            "SIMD",
            "SIMD, threaded",
        ]
        assert [n for n in names if n in wanted] == 2 * wanted and ends in names
    assert not ladder.wrong(results) and all(row.seconds for row in results.rows)
    for row in results.rows:
        assert row.figures["GFLOP/s"] == pytest.approx(2 * row.case["n"] ** 3 / row.median / 1e9)
        assert row.figures["of peak"] > 0 and row.figures["speed-up"] > 0


def test_without_a_kit_the_ladder_says_what_is_missing(quick):
    results = ladder.run([8], ["f64"], threads=1, budget=0.01, kit=None)
    assert [row.case["rung"] for row in results.rows] == ["Python loops", "BLAS"]
    assert "pip install" in results.remarks[0]


def test_a_wrong_product_is_said_and_ends_with_exit_code_1(backend, quick, monkeypatch):
    def wrong(out, x, y):
        return lambda: np.add(x @ y, np.eye(len(x)), out=out)

    broken = rungs.Rung("BLAS", "a liar", 1, wrong, rungs._nothing)
    monkeypatch.setattr(rungs, "rungs", lambda *_: [broken])
    monkeypatch.setattr(rungs, "kits", lambda: [])
    done = CliRunner().invoke(command, ["ladder", "--sizes", "4", "--format", "f64"])
    assert done.exit_code == 1 and "WRONG" in done.stdout and "1 products are wrong" in done.output


@pytest.mark.parametrize(
    "arguments",
    [["ladder", "--sizes", "4,5", "--format", "f64"], ["ops", "--op", "silu", "--op", "gelu"]],
)
def test_ctrl_c_keeps_what_was_measured(arguments, quick, monkeypatch, tmp_path):
    """It comes with the third case: two are told and saved. With the first, there is nothing to tell."""
    for measured in (2, 0):
        told = []

        def progress(text, told=told, measured=measured):
            if len(told) == measured:
                raise KeyboardInterrupt
            told.append(text)

        monkeypatch.setattr("lcm.cli.bench._progress", progress)
        file = tmp_path / f"{measured}.jsonl"
        asked = [*arguments, "--budget", "0.001", "--json-lines", str(file)]
        done = CliRunner().invoke(command, asked)
        if measured:
            assert done.exit_code == 130 and "stopped by Ctrl-C" in done.stdout
            assert len(Results.load(file).rows) == 2
        else:
            assert done.exit_code == 1 and not file.exists()  # click's own, outside of `lcm`


def test_what_takes_too_long_is_measured_once_or_skipped_and_said(quick, monkeypatch):
    slow = rungs.Rung("Python loops", "Python", 1, rungs._python, rungs._nothing)
    monkeypatch.setattr(rungs, "rungs", lambda *_: [slow])
    results = ladder.run([16, 64, 512], ["f64"], threads=1, budget=0.003, kit=None)
    assert [len(row.seconds) for row in results.rows][1:] == [1, 0]
    assert results.rows[1].note == "measured once" and "skipped: about" in results.rows[2].note


def test_the_ladders_threads_are_the_hosts_again_afterwards(kit_library, quick):
    set_to = []
    backend = dataclasses.replace(native.load(kit_library, "kit"), threads=set_to.append)
    ladder.run([4], ["f32"], threads=7, budget=0.01, kit=backend)
    assert set(set_to) >= {1, 7} and set_to[-1] == host.current().threads()


def test_a_signal_interrupts_a_long_rung(backend):
    """The product would take many seconds."""
    naive = next(r for r in rungs.rungs("f64", 2, backend) if r.title == "naive, threaded")
    call = naive.bind(*np.ones((3, 1500, 1500)))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    started = time.perf_counter()
    try:
        with naive.running(), pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - started < 1


# Timing.


def test_repetitions_fill_the_budget_after_one_that_is_not_counted():
    calls, before = [], []
    found = timing.repeat(lambda: calls.append(1), budget=0.02, before=lambda: before.append(1))
    assert len(calls) == len(before) == len(found) + 1
    assert timing.LEAST <= len(found) <= timing.MOST
    assert len(timing.repeat(lambda: time.sleep(0.02), budget=0.01)) == 1
    assert len(timing.repeat(lambda: None, budget=1, once=True)) == 1


def test_what_is_done_before_is_not_in_the_time():
    found = timing.repeat(lambda: None, budget=0.05, before=lambda: time.sleep(0.01))
    assert timing.summary(found)["minimum"] < 0.005


def test_a_summary_is_that_of_numpy():
    seconds = [3.0, 1.0, 2.0, 10.0]
    found = timing.summary(seconds)
    assert found["median"] == np.median(seconds) and found["mean"] == np.mean(seconds)
    assert found["deviation"] == pytest.approx(np.std(seconds, ddof=1)) and found["minimum"] == 1
    assert timing.summary([]) == {} and timing.summary([2.0])["deviation"] == 0


# Kernels.


def test_ops_are_measured_on_every_backend_that_has_them(backend, quick, only_backend):
    only_backend(backend)
    results = ops.run(["linear"], shape="4,5,6", budget=0.01)
    cases = {(r.case["kernel"], r.case["backend"]) for r in results.rows}
    assert {(s, b) for s in ("linear", "linear_grad") for b in ("kit", "reference")} <= cases
    row = next(
        r
        for r in results.rows
        if r.case == {"kernel": "linear", "shape": "4,5,6", "backend": "kit"}
    )
    assert row.figures["GFLOP/s"] == pytest.approx(2 * 4 * 5 * 6 / row.median / 1e9)
    moved = 4 * (4 * 5 + 6 * 5 + 6 + 4 * 6)
    assert row.figures["GB/s"] == pytest.approx(moved / row.median / 1e9)
    peak = results.machine["limits"]
    shares = {"multiply-adds": row.figures["GFLOP/s"] / peak["fma_f32"],
              "reading": row.figures["GB/s"] / peak["read"]}  # fmt: skip
    assert row.figures["of limit"] == max(shares.values()) == shares[row.figures["limit"]]


def test_every_kernel_has_shapes_of_which_there_are_arguments():
    for symbol in ops.symbols([], []):
        op, _, is_gradient = parse(symbol)
        for sizes in ops.shapes(symbol):
            assert list(sizes) == list(op.signature.symbols) and possible(op, sizes)
            assert not (is_gradient and sizes.get("rows") == 1)


# Training.


@pytest.fixture
def tiny(monkeypatch):
    shape = {"n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
    monkeypatch.setitem(train.PRESETS, "6x384", shape)
    return models.fresh(train.SAME | shape, seed=0)


def test_a_trained_token_costs_six_operations_a_weight_and_its_attention(tiny):
    weights = sum(p.size for n, p in tiny.parameters().items() if p.ndim == 2 and "wpe" not in n)
    # 2 layers, forward and twice that backward; 2 products of 8 rows with 4.5 keys on average.
    attention = 2 * 3 * (2 * 2 * 16 * 8 * 4.5)
    found = train.operations_of_a_step(tiny, batch=3, context=8)
    assert found == 6 * weights * 3 * 8 + 3 * attention


def test_training_is_told_in_tokens_and_money(tiny, monkeypatch):
    monkeypatch.setenv("LCM_BACKEND", "reference")
    row = train.run(batch=3, budget=0.05, price=3.6).rows[0]
    assert row.case == {"model": "6x384", "batch": 3, "context": 8}
    assert row.figures["tokens/s"] == pytest.approx(3 * 8 / row.median)
    assert row.figures["cost of 1 M tokens"] == pytest.approx(1e3 / row.figures["tokens/s"])
    assert row.figures["peak MiB"] > 10 and row.figures["first step s"] > 0


def test_a_step_of_the_benchmark_trains(tiny):
    step = train.Step(tiny, batch=4, context=8)
    before = {n: p.data.copy() for n, p in tiny.parameters().items()}
    step()
    assert step.loss == pytest.approx(np.log(65), rel=0.1)  # of a model that knows nothing
    assert all((p.data != before[n]).any() for n, p in tiny.parameters().items())


# The command.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ladder", "--sizes", "64,x"], "--sizes is whole numbers"),
        (["ladder", "--sizes", "64,99999"], "from 1 to 8192"),
        (["ladder", "--backend", "nobody"], "'nobody' does not bring the ladder"),
        (["ops", "--shape", "1,2,3"], "--shape belongs to one --op"),
        (["ops", "--op", "nothing"], "is no kernel of lcm's"),
        (["ops", "--backend", "nobody"], "no backend 'nobody' is ready"),
        (["train", "--context", "9999"], "is more than the model's"),
        (
            ["generate", "-p", "12,x"],
            "--prompt is whole numbers, such as 512 or 128,512, not '12,x'",
        ),
        (["generate", "-d", "-1"], "--depth is whole numbers"),
        (["compare", "nothing.jsonl", "nothing.jsonl"], "nothing.jsonl: cannot be read"),
    ],
)
def test_a_wrong_use_is_one_clear_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    assert end.value.code in (2, 3, 4)
    assert said in capsys.readouterr().err
