"""lcm-openblas: found, right, with the threads that were asked for, and alone with its symbols."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lcm_openblas
import numpy as np
import pytest

from lcm.backend import discovery, selftest
from lcm.errors import BackendError
from lcm.host import current


def in_new_process(code: str, **environment: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()


def test_it_is_ready_and_every_kernel_is_right():
    backend = discovery.open_backend("openblas")
    assert set(backend.kernels) == {"linear", "linear_grad", "matmul", "matmul_grad"}
    for symbol, kernel in backend.kernels.items():
        assert selftest.worst(symbol, kernel, cases=20, largest=100) < 1e-5, symbol


@pytest.mark.parametrize("threads", ["1", "2"])
def test_it_has_as_many_threads_as_lcm_threads_says(threads):
    code = (
        "from lcm.backend import discovery; from lcm.backend.native import function, open_library\n"
        "library = open_library(discovery.open_backend('openblas').library)\n"
        "print(function(library, 'scipy_openblas_get_num_threads', 'int')())"
    )
    assert in_new_process(code, LCM_THREADS=threads) == threads


def test_its_symbols_are_private():
    """A program that looks for a BLAS among everything loaded must not find this one."""
    discovery.open_backend("openblas")
    with pytest.raises(AttributeError):
        _ = ctypes.CDLL(None).scipy_cblas_sgemm


def test_a_library_of_the_users_own_is_used_instead(tmp_path, monkeypatch):
    own = Path(shutil.copy(lcm_openblas.library_path(), tmp_path))
    monkeypatch.setenv("LCM_OPENBLAS", str(own))
    assert lcm_openblas.open_backend(current()).library == str(own.resolve())


def test_a_file_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setenv("LCM_OPENBLAS", "/nowhere/libopenblas.so")
    with pytest.raises(BackendError, match="LCM_OPENBLAS: no file /nowhere/libopenblas.so; unset it"):
        lcm_openblas.library_path()


def test_a_library_with_64_bit_integers_is_refused(monkeypatch):
    """numpy brings such a one on Linux and macOS."""
    folder = Path(np.__file__).parents[1] / "numpy.libs"
    (library,) = folder.glob("libscipy_openblas64_*")
    monkeypatch.setenv("LCM_OPENBLAS", str(library))
    with pytest.raises(BackendError, match="exports no cblas_sgemm; an OpenBLAS with CBLAS and 32-bit"):
        lcm_openblas.open_backend(current())


def test_its_threads_sleep_soon_after_a_product():
    code = (
        "import time, numpy as np; from lcm.backend import discovery\n"
        "a = {n: np.ones((256, 256), np.float32) for n in ('x', 'weight', 'out')} | {'bias': None}\n"
        "discovery.open_backend('openblas').kernels['linear'](a)()\n"
        "before = time.process_time(); time.sleep(0.1); print(time.process_time() - before)"
    )
    assert float(in_new_process(code, LCM_THREADS="2")) < 0.03
