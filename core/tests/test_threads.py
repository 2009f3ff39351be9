"""The pool: every piece is done once, by any number of threads, whatever else the process does."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from lcm.backend import native
from lcm.errors import UsageError

CODE = """
#include <lcm/simd/threads.h>
EXPORT int32_t lcm_abi(void) { return LCM_ABI; }

typedef struct { float *out; const float *x; int32_t *of_worker; } silu_work;

static void double_one(const void *work, int64_t i, int worker) {
  const silu_work *w = work;
  w->out[i] = 2 * w->x[i];
  w->of_worker[worker * 16]++;
}

/* Twice x. Fails if the workers' own counts, in the middle of the scratch memory, do not come to `count`. */
EXPORT int32_t lcm_silu(const lcm_silu_args *a) {
  const int threads = workers();
  int32_t *memory = scratch(((size_t)threads * 16 + 32) * sizeof *memory);
  if (!memory) return LCM_NO_MEMORY;
  for (int i = 0; i < threads * 16 + 32; i++) memory[i] = 0;
  const silu_work work = {a->out, a->x, memory + 16};
  const int32_t code = in_parallel(a->count, double_one, &work);
  if (code) return code;
  int64_t done = 0;
  for (int i = 0; i < threads; i++) done += work.of_worker[i * 16];
  return done == a->count && !memory[0] && !memory[threads * 16 + 16] ? LCM_OK : LCM_INTERNAL;
}

typedef struct { atomic_int here, missed; } meeting;

static void be_met(const void *work, int64_t i, int worker) {
  (void)i, (void)worker;
  meeting *m = *(meeting *const *)work;
  atomic_fetch_add(&m->here, 1);
  for (int j = 0; j < 500 && atomic_load(&m->here) < 2; j++) usleep(1000);
  if (atomic_load(&m->here) < 2) atomic_store(&m->missed, 1);
}

/* Whether two threads do pieces at the same time. */
EXPORT int32_t two_meet(void) {
  meeting m = {0}, *const p = &m;
  in_parallel(2, be_met, &p);
  return !atomic_load(&m.missed);
}

static void count_late(const void *work, int64_t i, int worker) {
  (void)worker;
  usleep(i ? 1000 : 30000);
  atomic_fetch_add(*(atomic_int *const *)work, 1);
}

/* How many pieces of four have been done when in_parallel returns, where the first takes longest. */
EXPORT int32_t all_are_done(void) {
  atomic_int done = 0, *const p = &done;
  in_parallel(4, count_late, &p);
  return atomic_load(&done);
}

static void note_worker(const void *work, int64_t i, int worker) {
  (void)i;
  usleep(1000);
  if (worker > 1) atomic_store(*(atomic_int *const *)work, worker);
}

static void *want_eight(void *unused) {
  lcm_set_threads(8);
  return unused;
}

/* The highest worker number above 1 in a kernel that was promised two workers before there were more. */
EXPORT int32_t more_than_promised(void) {
  lcm_set_threads(2);
  atomic_int highest = 0, *const p = &highest;
  const int promised = workers();
  pthread_t other;
  pthread_create(&other, NULL, want_eight, NULL);
  pthread_join(other, NULL);
  in_parallel(50, note_worker, &p);
  return promised == 2 ? atomic_load(&highest) : -1;
}

/* Touch all of the thread's scratch memory. */
EXPORT int32_t use_scratch(int64_t bytes) {
  char *const memory = scratch((size_t)bytes);
  for (int64_t i = 0; i < bytes; i += 4096) memory[i] = 1;
  return memory[0];
}
"""
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
FORKING = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def path(compile_kit):
    return compile_kit(CODE)


@pytest.fixture
def pool(path):
    return Pool(path)


class Pool:
    """The library above."""

    def __init__(self, path):
        self.backend = native.load(path, "pool")
        self.set_threads = self.backend.threads
        library = native.open_library(path)
        self.two_meet = native.function(library, "two_meet", "int32_t")
        self.all_are_done = native.function(library, "all_are_done", "int32_t")
        self.more_than_promised = native.function(library, "more_than_promised", "int32_t")
        self.use_scratch = native.function(library, "use_scratch", "int32_t", "int64_t")

    def check(self, count, times=1):
        """Run the kernel and check what it writes."""
        x, out = np.arange(count, dtype=np.float32), np.empty(count, np.float32)
        call = self.backend.kernels["silu"]({"out": out, "x": x, "count": count})
        for _ in range(times):
            out[:] = -1
            call()
            np.testing.assert_array_equal(out, 2 * x)


@pytest.mark.parametrize("threads", [-1, 0, 1, 2, 3, 8, 64, 2**31 - 1])
def test_every_piece_is_done_once(pool, threads):
    pool.set_threads(threads)
    for count in (0, 1, 2, 3, 7, 64, 1000):
        pool.check(count)


def test_two_threads_work_at_the_same_time(pool):
    pool.set_threads(2)
    assert all(pool.two_meet() for _ in range(20))
    pool.set_threads(1)
    assert not pool.two_meet()


@pytest.mark.parametrize("threads", [2, 8])
def test_a_loop_ends_with_its_last_piece(pool, threads):
    pool.set_threads(threads)
    assert [pool.all_are_done() for _ in range(5)] == [4] * 5


def test_a_kernel_gets_no_more_workers_than_it_was_promised(pool):
    assert pool.more_than_promised() == 0


def test_several_python_threads_may_call_while_the_number_of_threads_changes(pool):
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for threads in (2, 5, 1, 3):
                pool.set_threads(threads)
                time.sleep(0.0003)

    with ThreadPoolExecutor(4) as executor:
        changing = executor.submit(change)
        checks = [executor.submit(pool.check, count, 2000) for count in (2, 33, 500)]
        try:
            for check in checks:
                check.result()
        finally:
            stop.set()
        changing.result()


def test_threads_that_wait_cost_no_processor_time(pool):
    pool.set_threads(2)
    assert pool.two_meet()
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.02


@FORKING
def test_the_child_of_a_fork_has_threads_of_its_own(pool):
    pool.set_threads(2)
    pool.check(100)
    child = os.fork()
    if not child:
        pool.check(100, 100)
        os._exit(0 if pool.two_meet() else 1)
    pool.check(100, 100)
    assert os.waitpid(child, 0)[1] == 0


@FORKING
def test_a_fork_while_another_thread_is_in_a_kernel_leaves_nothing_locked(pool):
    pool.set_threads(2)
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            pool.check(50)

    with ThreadPoolExecutor(2) as executor:
        busy = [executor.submit(keep_busy) for _ in range(2)]
        try:
            for _ in range(20):
                child = os.fork()
                if not child:
                    os._exit(0 if pool.two_meet() else 1)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
        for one in busy:
            one.result()


def in_child(path, count):
    pool = Pool(path)
    pool.set_threads(2)
    pool.check(count, 10)
    return pool.two_meet()


@FORKING
def test_processes_of_multiprocessing_have_threads_of_their_own(pool, path):
    pool.set_threads(2)
    pool.check(100)
    with get_context("fork").Pool(2) as processes:
        assert all(processes.starmap(in_child, [(path, 10), (path, 1000)]))


NO_MORE_THREADS = """
import os, resource, sys
sys.path.append(sys.argv[2])
from test_threads import Pool, status
pool = Pool(sys.argv[1])
used = int(status()["VmSize"].split()[0]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (240 << 20),) * 2)
pool.set_threads(200)
pool.check(10_000, 20)
print(len(os.listdir("/proc/self/task")))
"""


@LINUX
def test_threads_that_cannot_be_started_are_done_without(path):
    """Each has a stack of 8 MiB, and there is room for 30."""
    threads = int(python(NO_MORE_THREADS, path, os.path.dirname(__file__)))
    assert 10 < threads < 40


def python(code, *arguments):
    """What the program prints; it prints nothing to standard error."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@LINUX
def test_signals_are_for_pythons_threads(compile_kit):
    pool = Pool(compile_kit(CODE))  # another one, without threads yet
    before = set(os.listdir("/proc/self/task"))
    pool.set_threads(5)
    pool.check(1000)
    ours = set(os.listdir("/proc/self/task")) - before
    assert len(ours) == 4
    for _ in range(100):  # until each has begun
        masks = [int(status(task)["SigBlk"], 16) for task in ours]
        if not any(blocks(mask, signal.SIGSEGV) for mask in masks):
            break
        time.sleep(0.05)
    assert all(blocks(mask, signal.SIGINT) for mask in masks)
    assert not any(blocks(mask, signal.SIGSEGV) for mask in masks)


def blocks(mask, number):
    return bool(mask >> (number - 1) & 1)


def status(task="self"):
    with open(f"/proc/self/task/{task}/status" if task != "self" else "/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


@LINUX
def test_scratch_memory_goes_with_its_thread(pool):
    def resident():
        return int(status()["VmRSS"].split()[0]) << 10

    def use():
        thread = threading.Thread(target=pool.use_scratch, args=(32 << 20,))
        thread.start()
        thread.join()

    use()
    before = resident()
    for _ in range(20):
        use()
    assert resident() - before < 64 << 20


@LINUX
def test_a_pool_larger_than_the_processors_that_may_be_used_does_its_work(pool):
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        pool.set_threads(4)
        pool.check(100, 200)
        assert pool.two_meet()
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("text", ["1", "2", "1000"])
def test_a_library_is_told_the_number_of_threads_when_it_is_loaded(path, monkeypatch, text):
    monkeypatch.setenv("LCM_THREADS", text)
    pool = Pool(path)
    assert pool.two_meet() == (text != "1")
    pool.check(2000, 5)


@pytest.mark.parametrize("text", ["0", "many"])
def test_a_wrong_number_of_threads_is_said_when_a_library_is_loaded(path, monkeypatch, text):
    monkeypatch.setenv("LCM_THREADS", text)
    with pytest.raises(UsageError, match="LCM_THREADS"):
        Pool(path)


@pytest.mark.parametrize("shape", [(100, 5000, 128), (100, 700, 1024), (200, 1300, 512)])
def test_a_deep_product_has_the_same_bits_with_any_number_of_threads(kit_library, shape):
    """However its columns are dealt out, sums are taken in the same steps."""
    rows, inputs, outputs = shape
    rng, backend = np.random.default_rng(0), native.load(kit_library, "kit")
    x = rng.standard_normal((rows, inputs), np.float32)
    weight = rng.standard_normal((outputs, inputs), np.float32)
    found = []
    for threads in (1, 2, 3, 8):
        backend.threads(threads)
        found.append(np.zeros((rows, outputs), np.float32))
        backend.kernels["linear"](
            {"x": x, "weight": weight, "bias": None, "out": found[-1]}
            | dict(zip(("rows", "inputs", "outputs"), shape, strict=True))
        )()
    assert all((found[0] == other).all() for other in found[1:])
