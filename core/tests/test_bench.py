"""lcm bench: limits, the ladder, timed cases, reports and their comparison."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

import lcm
from lcm.backend import limits, native
from lcm.backend.contract import Backend

INCLUDE = Path(lcm.__file__).parent / "include"
KIT = """
#define LANES 4
#define TILE_ROWS 4
#define TILE_VECTORS 2
#include <lcm/simd/types.h>
#include <lcm/simd/kernels.h>
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


def test_the_limits_of_a_kit_are_measured_once_and_those_of_others_not_at_all(kit, monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 0.01)
    monkeypatch.setattr(limits, "LEAST_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "MOST_BYTES", 1 << 20)
    library = native.open_library(kit)
    set_threads = native.function(library, "lcm_set_threads", "void", "int32_t")
    backend = Backend("kit", {}, library=str(kit), threads=set_threads)
    found = limits.measured(backend, 1)
    assert found is not None and found is limits.measured(backend, 1)
    # Half as many doubles in a vector: about half the rate, on any machine.
    assert 0.25 < found.fma("f64") / found.fma("f32") < 1 and found.read > 0.1
    assert limits.measured(Backend("python", {})) is None


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 250, 300])
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
