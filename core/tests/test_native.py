"""The native loader: a C library's exports become kernels, its errors become ours, and lies are refused."""

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lcm import host, ops
from lcm.backend import native, selftest
from lcm.backend.cblas import Cblas
from lcm.errors import BackendError, KernelError
from lcm.ops.cases import case
from lcm.tensor import Tensor

INCLUDE = Path(ops.__file__).parents[1] / "include"
ABI = "int32_t lcm_abi(void) { return 1; }\n"
SILU = """
#include <math.h>
int32_t lcm_silu(const lcm_silu_args *a) {
  for (int64_t i = 0; i < a->count; i++) a->out[i] = a->x[i] / (1 + expf(-a->x[i]));
  return 0;
}
int32_t lcm_silu_grad(const lcm_silu_grad_args *a) {
  for (int64_t i = 0; i < a->count && a->x_grad; i++) {
    const float s = 1 / (1 + expf(-a->x[i]));
    a->x_grad[i] = a->out_grad[i] * s * (1 + a->x[i] * (1 - s));
  }
  return 0;
}
"""


@pytest.fixture
def compiled(tmp_path):
    def compiled(source: str) -> Path:
        path = tmp_path / "k.c"
        path.write_text(f"#include <lcm/ops.h>\n{source}")
        library = tmp_path / "k.so"
        flags = ["-std=c11", "-O1", "-Wall", "-Werror", "-fPIC", "-shared", f"-I{INCLUDE}"]
        subprocess.run(["cc", *flags, str(path), "-o", str(library), "-lm"], check=True)
        return library

    return compiled


def test_a_librarys_exports_are_its_kernels(compiled):
    backend = native.load(compiled(ABI + SILU), "c")
    assert set(backend.kernels) == {"silu", "silu_grad"}
    selftest.check(backend)


def test_a_kernel_writes_its_output_and_nothing_else(compiled):
    kernel = native.load(compiled(ABI + SILU), "c").kernels["silu"]
    for count in (0, 1, 5, 16, 33):
        memory = np.full(count + 64, np.nan, np.float32)
        x = np.linspace(-3, 3, count, dtype=np.float32)
        kernel({"out": memory[32 : 32 + count], "x": x, "count": count})()
        assert np.isnan(memory[:32]).all()
        assert np.isnan(memory[32 + count :]).all()
        np.testing.assert_allclose(memory[32 : 32 + count], x / (1 + np.exp(-x)), rtol=1e-5)


def test_a_wrong_kernel_fails_the_self_test(compiled):
    broken = SILU.replace("i < a->count; i++) a->out", "i < a->count - 1; i++) a->out")
    with pytest.raises(BackendError, match="its silu is wrong"):
        selftest.check(native.load(compiled(ABI + broken), "c"))


def test_an_error_code_becomes_an_error_with_the_librarys_words(compiled):
    source = ABI + (
        'const char *lcm_error(void) { return "width above 9"; }\n'
        "int32_t lcm_silu(const lcm_silu_args *a) { (void)a; return LCM_UNSUPPORTED; }\n"
    )
    kernel = native.load(compiled(source), "c").kernels["silu"]
    bound = case(ops.silu, np.random.default_rng(0))
    with pytest.raises(
        KernelError, match="lcm_silu failed: it does not support these arguments: width above 9"
    ):
        ops.silu.run_kernel(kernel, bound)


TELL = """
static int64_t told[4];
void lcm_set_threads(int32_t threads) { told[0] = threads; }
void lcm_set_caches(int64_t l1, int64_t l2, int64_t l3) { told[1] = l1; told[2] = l2; told[3] = l3; }
int32_t lcm_silu(const lcm_silu_args *a) {
  for (int i = 0; i < 4; i++) a->out[i] = (float)told[i];
  return LCM_OK;
}
"""


def test_a_library_is_told_of_the_machine_before_its_first_kernel(compiled, monkeypatch):
    machine = host.load_named("x86-avx2")
    unknown = dataclasses.replace(machine, l3=host.Fact(None, "a test"))
    monkeypatch.setattr(native.host, "current", lambda: unknown)
    monkeypatch.setenv("LCM_THREADS", "3")
    x, out = np.zeros(4, np.float32), np.zeros(4, np.float32)
    native.load(compiled(ABI + TELL), "c").kernels["silu"]({"out": out, "x": x, "count": 4})()
    assert out.tolist() == [3, machine.l1d.value, machine.l2.value, 0]
    assert machine.l1d.value and machine.l2.value


def test_a_code_without_a_name_is_shown(compiled):
    source = ABI + "int32_t lcm_silu(const lcm_silu_args *a) { (void)a; return 77; }\n"
    kernel = native.load(compiled(source), "c").kernels["silu"]
    with pytest.raises(KernelError, match=r"^lcm_silu failed: code 77$"):
        kernel({"out": None, "x": None, "count": 0})()


def test_scalars_sizes_and_missing_inputs_arrive_in_c(compiled):
    source = (
        ABI
        + """
    int32_t lcm_linear(const lcm_linear_args *a) {
      a->out[0] = a->bias ? 1 : 0;
      a->out[1] = (float)(a->rows * 100 + a->inputs * 10 + a->outputs);
      return a->size == sizeof *a ? 0 : 3;
    }
    int32_t lcm_rms_norm(const lcm_rms_norm_args *a) { a->out[0] = a->eps; return 0; }
    """
    )
    kernels = native.load(compiled(source), "c").kernels
    x, weight = Tensor(np.ones((1, 3), np.float32)), Tensor(np.ones((2, 3), np.float32))
    bound = ops.linear.signature.bind(x, weight)
    assert ops.linear.run_kernel(kernels["linear"], bound).data.tolist() == [[0, 132]]
    with_bias = ops.linear.signature.bind(x, weight, Tensor(np.ones(2, np.float32)))
    assert ops.linear.run_kernel(kernels["linear"], with_bias).data.tolist() == [[1, 132]]
    norm = ops.rms_norm.signature.bind(x, Tensor(np.ones(3, np.float32)), eps=0.25)
    assert ops.rms_norm.run_kernel(kernels["rms_norm"], norm).data[0, 0] == 0.25


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("int nothing;\n", "exports no lcm_abi"),
        (ABI, "exports none of the kernels"),
        (ABI.replace("1", "0"), "reports ABI 0"),
    ],
)
def test_a_library_without_kernels_is_refused(compiled, source, message):
    with pytest.raises(BackendError, match=message):
        native.load(compiled(source), "c")


def test_a_file_that_is_no_library_is_refused_in_one_line(tmp_path):
    (tmp_path / "k.so").write_text("no")
    with pytest.raises(BackendError, match="cannot be loaded") as caught:
        native.load(tmp_path / "k.so", "c")
    assert "\n" not in str(caught.value)


def test_a_relative_path_is_not_searched_for():
    with pytest.raises(BackendError, match="absolute path only"):
        native.open_library("libm.so.6")


CBLAS = """
#include <stddef.h>
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc) {
  (void)order;
  for (int i = 0; i < m; i++)
    for (int j = 0; j < n; j++) {
      float sum = 0;
      for (int p = 0; p < k; p++)
        sum += (ta == 111 ? a[i * lda + p] : a[p * lda + i]) * (tb == 111 ? b[p * ldb + j] : b[j * ldb + p]);
      c[i * ldc + j] = alpha * sum + (beta == 0 ? 0 : beta * c[i * ldc + j]);
    }
}
void cblas_sgemv(int order, int t, int m, int n, float alpha, const float *a, int lda, const float *x,
                 int incx, float beta, float *y, int incy) {
  const int rows = t == 111 ? m : n, inner = t == 111 ? n : m;
  (void)order;
  for (int i = 0; i < rows; i++) {
    float sum = 0;
    for (int p = 0; p < inner; p++) sum += (t == 111 ? a[i * lda + p] : a[p * lda + i]) * x[p * incx];
    y[i * incy] = alpha * sum + (beta == 0 ? 0 : beta * y[i * incy]);
  }
}
"""


def test_any_cblas_makes_right_kernels(compiled):
    """Against a CBLAS of twenty lines: the binding's own mistakes have nowhere to hide."""
    cblas = Cblas(native.open_library(compiled(CBLAS)))
    for symbol, kernel in cblas.kernels().items():
        assert selftest.worst(symbol, kernel, cases=40) < 1e-5, symbol


def test_a_product_over_nothing_is_zero_or_the_bias(compiled):
    cblas = Cblas(native.open_library(compiled(CBLAS)))
    x, weight = np.ones((2, 0), np.float32), np.ones((3, 0), np.float32)
    bias, out = np.arange(3, dtype=np.float32), np.full((2, 3), np.nan, np.float32)
    cblas.linear({"out": out, "x": x, "weight": weight, "bias": None})()
    assert (out == 0).all()
    cblas.linear({"out": out, "x": x, "weight": weight, "bias": bias})()
    assert (out == bias).all()
