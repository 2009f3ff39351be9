"""Fuzzing every reader of files with atheris: `python tests/fuzz/fuzz.py`, for LCM_FUZZ_SECONDS.

It ends with an error at the first file that breaks the law (law.py), and leaves in the current folder the
decisions that made it; `python tests/fuzz/fuzz.py crash-…` makes that file again.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lcm.files", "lcm.models", "lcm.text"]):
    import law
    from choices import Choices

if __name__ == "__main__":
    seconds = os.environ.get("LCM_FUZZ_SECONDS", "60")
    laws = law.Laws(Path(tempfile.mkdtemp()))
    limits = ("-max_len=600", "-len_control=0", "-rss_limit_mb=4096", "-timeout=60")
    atheris.Setup([*sys.argv, f"-max_total_time={seconds}", *limits], lambda data: laws.check(Choices(data)))
    atheris.Fuzz()
