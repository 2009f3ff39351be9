"""lcm bench: limits, the ladder, timed cases, reports and their comparison."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import lcm
from lcm.backend import limits, native
from lcm.backend.contract import Backend
from lcm.bench import ladder, rungs
from lcm.cli.bench import command

INCLUDE = Path(lcm.__file__).parent / "include"
KIT = """
#define LANES 4
#define TILE_ROWS 4
#define TILE_VECTORS 2
#include <lcm/simd/types.h>
#include <lcm/simd/linear.h>
#include <lcm/simd/ladder.h>
EXPORT int32_t lcm_abi(void) { return LCM_ABI; }
"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """The kit for whatever machine this is: vectors of four, which every compiler can do."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "kernels.c").write_text(KIT)
    options = ["-std=gnu11", "-O3", "-fno-math-errno", "-fPIC", "-shared", "-pthread"]
    built = folder / "kernels.so"
    subprocess.run(
        ["cc", *options, f"-I{INCLUDE}", "-o", built, folder / "kernels.c", "-lm"], check=True
    )
    return built


@pytest.fixture
def library(kit):
    return native.open_library(kit)


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


def test_the_limits_of_a_kit_are_measured_once_and_those_of_others_not_at_all(kit, quick):
    library = native.open_library(kit)
    set_threads = native.function(library, "lcm_set_threads", "void", "int32_t")
    backend = Backend("kit", {}, library=str(kit), threads=set_threads)
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
def backend(kit):
    return native.load(kit, "kit")


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


def test_what_takes_too_long_is_measured_once_or_skipped_and_said(quick, monkeypatch):
    slow = rungs.Rung("Python loops", "Python", 1, rungs._python, rungs._nothing)
    monkeypatch.setattr(rungs, "rungs", lambda *_: [slow])
    results = ladder.run([16, 64, 512], ["f64"], threads=1, budget=0.003, kit=None)
    assert [len(row.seconds) for row in results.rows][1:] == [1, 0]
    assert results.rows[1].note == "measured once" and "skipped: about" in results.rows[2].note
