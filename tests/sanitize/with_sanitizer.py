"""Run Python with a sanitizer's runtime loaded before all else; fail on any report, whoever it came from.

    SANITIZER=address python tests/sanitize/with_sanitizer.py -m pytest tests/sanitize/check_sanitizer.py

The libraries that it loads are compiled with -fsanitize=$SANITIZER. A child process reports too: the first
attempt with a backend is made in one, and its end would be no more than a verdict.
"""

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

# For each sanitizer: its runtime, the variable with its options, and the options.
SANITIZERS = {
    # Python keeps much until it ends. What is allocated before the fork of a child process is not lost.
    "address": ("libasan.so", "ASAN_OPTIONS", "detect_leaks=0"),
    "undefined": ("libubsan.so", "UBSAN_OPTIONS", "print_stacktrace=1"),
    # Python and numpy are not instrumented: what they do with each other cannot be judged.
    "thread": ("libtsan.so", "TSAN_OPTIONS", "ignore_noninstrumented_modules=1:exitcode=66"),
}


def runtime(name: str) -> str:
    """The path of a sanitizer's runtime, as the compiler knows it."""
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    command = [*compiler, f"-print-file-name={name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(found):
        sys.exit(f"{compiler[0]} has no {name}: gcc brings it, on most systems")
    return found


def environment(sanitizer: str, reports: Path) -> dict[str, str]:
    """The variables under which a process is watched and its reports go to files of that name."""
    library, variable, options = SANITIZERS[sanitizer]
    return {
        "LD_PRELOAD": runtime(library),
        variable: f"{options}:log_path={reports}",
        "PYTHONMALLOC": "malloc",  # so that every block of memory has its edges watched
        "OPENBLAS_NUM_THREADS": "1",
    }


def without_randomness() -> list[str]:
    """ThreadSanitizer needs its own places in memory: no random addresses, where that can be had."""
    command = ["setarch", platform.machine(), "--addr-no-randomize"]
    try:
        allowed = not subprocess.run(
            [*command, "true"], capture_output=True, check=False
        ).returncode
    except OSError:
        allowed = False
    return command if allowed else []


def main(sanitizer: str, *arguments: str) -> int:
    """Python with these arguments; its exit code, or 1 if there is a report."""
    with tempfile.TemporaryDirectory(prefix="sanitizer-") as folder:
        variables = os.environ | environment(sanitizer, Path(folder, "report"))
        command = [*without_randomness(), sys.executable, *arguments]
        code = subprocess.run(command, env=variables, check=False).returncode
        reports = [path.read_text(errors="replace") for path in sorted(Path(folder).iterdir())]
    print("\n".join(reports), f"{len(reports)} reports of the {sanitizer} sanitizer", sep="\n")
    return code or (1 if reports else 0)


if __name__ == "__main__":
    sys.exit(main(os.environ["SANITIZER"], *sys.argv[1:]))
