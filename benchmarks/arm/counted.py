"""Runs emulated: one call of each kernel of a library, between two marks of counter.c.

    python counted.py kernels.so linear '{"rows": 256, …}' attention '{…}' …

The first pair of marks is around nothing.
"""

import ctypes
import json
import sys
from pathlib import Path

from lcm.backend import measure, native

MARK = 7777

library, *asked = sys.argv[1:]
mark = ctypes.CDLL(None).syscall
backend = native.load(Path(library), "counted")
backend.threads(1)
calls = [lambda: None]
for symbol, sizes in zip(asked[::2], map(json.loads, asked[1::2]), strict=True):
    calls.append(measure.call_on(symbol, measure.arguments_of(symbol, sizes), backend))
for call in calls:
    call()
    mark(MARK)
    call()
    mark(MARK)
