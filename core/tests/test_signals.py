"""Signals while kernels run: their handlers run soon, what they raise comes out, and nothing else changes."""

import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from lcm.backend import native
from lcm.program import Program

# Three kernels: the first naps for 5 ms for each of its numbers, and then gives twice the number, by way of
# its scratch memory; the second naps so without asking whether to go on; the third is a function of its own.
CODE = """
#include <lcm/simd/threads.h>
#include <lcm/simd/run.h>
EXPORT int32_t lcm_abi(void) { return LCM_ABI; }

static void nap(void) {
  struct timespec left = {0, 5000000};
  while (nanosleep(&left, &left)) continue;
}

typedef struct { const float *x; float *twice; } nap_work;

static void nap_piece(const void *work, int64_t i, int worker) {
  (void)worker;
  const nap_work *w = work;
  nap();
  w->twice[i] = 2 * w->x[i];
}

EXPORT int32_t lcm_silu(const lcm_silu_args *a) {
  const nap_work work = {a->x, scratch((size_t)a->count * sizeof(float))};
  const int32_t code = in_parallel(a->count, nap_piece, &work);
  for (int64_t i = 0; i < a->count && !code; i++) a->out[i] = work.twice[i];
  return code;
}

EXPORT int32_t lcm_gelu(const lcm_gelu_args *a) {
  for (int64_t i = 0; i < a->count; i++) nap(), a->out[i] = 3 * a->x[i];
  return LCM_OK;
}

EXPORT int64_t nap_long(int64_t count) {
  float numbers[1000] = {0};
  const nap_work work = {numbers, numbers};
  return in_parallel(count, nap_piece, &work) ? -1 : count;
}
"""
SOON = 0.5  # seconds


class Alarm(Exception):
    """What the handlers of these tests raise."""


@pytest.fixture(scope="module")
def path(compile_kit):
    return compile_kit(CODE)


@pytest.fixture(params=[1, 2])
def backend(path, request):
    backend = native.load(path, "napping")
    backend.threads(request.param)
    return backend


@contextmanager
def handlers(**actions):
    """Inside, signals do this: SIGUSR1=action …"""
    numbers = {getattr(signal, name): action for name, action in actions.items()}
    before = {n: signal.signal(n, lambda n, _: numbers[n]()) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def after(seconds, *numbers):
    """Send these signals to this process after a while; `time()` in what this gives is when."""
    sent = []

    def send():
        time.sleep(seconds)
        sent.append(time.monotonic())
        for number in numbers:
            signal.pthread_kill(threading.main_thread().ident, number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        thread.join()


def fail():
    raise Alarm("as the handler said")


def call_of(backend, symbol, count, first=0):
    x, out = np.arange(first, first + count, dtype=np.float32), np.zeros(count, np.float32)
    return backend.kernels[symbol]({"out": out, "x": x, "count": count, "tanh": False}), out


def test_what_a_handler_raises_ends_the_kernel_and_comes_out_each_time(backend):
    call, out = call_of(backend, "silu", 1000)  # 5 s on one thread
    for _ in range(3):
        with handlers(SIGUSR1=fail), after(0.05, signal.SIGUSR1) as sent:
            with pytest.raises(Alarm, match="as the handler said"):
                call()
            assert time.monotonic() - sent[0] < SOON
        assert not out.any()


def test_a_handler_that_returns_leaves_the_kernel_alone(backend):
    call, out = call_of(backend, "silu", 100)
    seen = []
    with handlers(SIGUSR1=lambda: seen.append(1)), after(0.05, signal.SIGUSR1):
        call()
        assert seen
    assert out.tolist() == [2 * i for i in range(100)]


def test_a_handler_may_run_kernels_itself(backend):
    """In the memory of the one that it interrupts they would leave their own numbers."""
    call, out = call_of(backend, "silu", 100)
    inner, result = call_of(backend, "silu", 150, first=1000)
    with handlers(SIGUSR1=inner), after(0.05, signal.SIGUSR1):
        call()
    assert out.tolist() == [2 * i for i in range(100)]
    assert result.tolist() == [2 * i for i in range(1000, 1150)]


def test_handlers_of_two_signals_at_once_both_run(backend):
    call, _ = call_of(backend, "silu", 1000)
    ran = []

    def note(name):
        ran.append(name)
        raise Alarm(name)

    actions = {"SIGUSR1": lambda: note("1"), "SIGUSR2": lambda: note("2")}
    for count in (1, 2, 3):
        with handlers(**actions), after(0.05, signal.SIGUSR1, signal.SIGUSR2):
            try:
                with pytest.raises(Alarm):
                    call()
                time.sleep(0.01)  # the second one may have come only now
            except Alarm:
                pass
        assert ran.count("1") == ran.count("2") == count


def test_another_threads_kernel_goes_on(backend):
    call, out = call_of(backend, "silu", 100)
    thread = threading.Thread(target=call)
    thread.start()
    with handlers(SIGUSR1=fail), after(0.05, signal.SIGUSR1), pytest.raises(Alarm):
        time.sleep(1)
    thread.join()
    assert out.tolist() == [2 * i for i in range(100)]


def test_a_program_ends_between_kernels_that_do_not_ask(backend):
    calls = [call_of(backend, "gelu", 20) for _ in range(50)]
    program = Program([call for call, _ in calls], None)
    with handlers(SIGUSR1=fail), after(0.05, signal.SIGUSR1) as sent:
        with pytest.raises(Alarm):
            program()
        assert time.monotonic() - sent[0] < SOON
    whole = [out.tolist() == [3 * i for i in range(20)] for _, out in calls]
    assert whole[0] and not whole[-1] and whole == sorted(whole, reverse=True)


def test_a_function_of_a_library_raises_what_a_handler_raised(backend, path):
    call_of(backend, "silu", 1)[0]()
    nap_long = native.function(native.open_library(path), "nap_long", "int64_t", "int64_t")
    assert nap_long(3) == 3
    with handlers(SIGUSR1=fail), after(0.05, signal.SIGUSR1), pytest.raises(Alarm):
        nap_long(900)


CTRL_C = """
import signal, sys
import numpy as np
from lcm.backend import native
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore it
backend = native.load(sys.argv[1], "kit")
backend.threads(int(sys.argv[2]))
rng = np.random.default_rng(0)
x, weight = (rng.standard_normal((n, 6000), dtype=np.float32) for n in (3000, 8000))
out = np.empty((3000, 8000), np.float32)
call = backend.kernels["linear"]({
    "out": out, "x": x, "weight": weight, "bias": None, "rows": 3000, "inputs": 6000, "outputs": 8000,
})
while True:
    try:
        print("begun", flush=True)
        call()
        print("done", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        if len(sys.argv) > 3:
            break
        sys.argv.append("once")
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_in_a_long_matrix_product_returns_soon_and_again(kit_library, threads):
    command = [sys.executable, "-W", "error", "-c", CTRL_C, str(kit_library), str(threads)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        for _ in range(2):
            assert process.stdout.readline() == "begun\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            assert process.stdout.readline() == "interrupted\n"
            assert time.monotonic() - begin < SOON
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0
