"""How long from the command to the first token: `lcm complete` in a fresh process, the median of several.

    python benchmarks/first_token.py --model runs/mine

The process is asked for one token, so it ends with it: starting Python, imports, finding the backend,
loading the model and running the prompt are all in the time. Files are in the system's cache after the
first run, which is not timed.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import record

PROMPT = "def read_lines(path):\n    "


def seconds(model: str) -> float:
    lcm = shutil.which("lcm", path=str(Path(sys.executable).parent)) or "lcm"
    command = [lcm, "complete", PROMPT, "--model", model, "-n", "1", "--whole"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder, a run or the name of a model")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--note", default="", help="recorded with the result, such as: busy machine")
    options = parser.parse_args()
    seconds(options.model)
    found = sorted(seconds(options.model) for _ in range(options.runs))
    record.append("first_token", {"seconds": found, "median": statistics.median(found), "note": options.note})
    print(record.table(
        ("runs", "median, ms", "range, ms"),
        (options.runs, f"{1000 * statistics.median(found):.0f}",
         f"{1000 * found[0]:.0f} … {1000 * found[-1]:.0f}"),
    ))  # fmt: skip


if __name__ == "__main__":
    main()
