"""What opening a file may take, however it was made: a second, and 64 MB beside its own size."""

import time
import tracemalloc
from contextlib import suppress

from lcm.errors import FileError

SECONDS = 1  # of the processor: what else it does must not fail a test
BYTES = 64 << 20  # beside the file's own
TRIES = 3  # of which the fastest counts: others share the processor's caches, too


def open_within_bounds(path, open):
    """What the function opens, or its `FileError`; within the bounds in either case."""
    assert any(seconds_of(path, open) < SECONDS for _ in range(TRIES))
    assert memory_of(path, open) < path.stat().st_size + BYTES
    return open(path)


def seconds_of(path, open):
    started = time.process_time()
    with suppress(FileError):
        open(path)
    return time.process_time() - started


def memory_of(path, open):
    tracemalloc.start()
    with suppress(FileError):
        open(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak
