"""Runs emulated: some calls of each kernel of a library, each between two marks of counter.c.

    python counted.py 3 kernels.so linear '{"rows": 256, …}' attention '{…}' …

The first marks are around nothing.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

from lcm.backend import measure, native

MARK = 7777

turns, library, *asked = sys.argv[1:]
mark = ctypes.CDLL(None).syscall
backend = native.load(Path(library), "counted")
backend.threads(1)
calls = [lambda: None]
for symbol, sizes in zip(asked[::2], map(json.loads, asked[1::2]), strict=True):
    calls.append(measure.call_on(symbol, measure.arguments_of(symbol, sizes), backend))
gc.disable()
for call in calls:
    for _ in range(int(turns)):
        mark(MARK)
        call()
        mark(MARK)
