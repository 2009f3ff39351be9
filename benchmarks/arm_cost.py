"""What kernels cost on 64-bit Arm, with no such machine: the cycles of their loops, the instructions of their calls.

    python benchmarks/arm_cost.py                     the tables of README.md, from what is recorded
    python benchmarks/arm_cost.py --record FOLDER     measure anew, and record it in results/arm_cost.json
    python benchmarks/arm_cost.py --check FOLDER      measure anew; fails where something costs 3 % more than recorded
    python benchmarks/arm_cost.py --missing           whether this machine can measure; if not, why

FOLDER is the one of tools/arm64.py, with an emulated Python and the wheels; what is not there is made. Besides what
that needs, llvm-mca-19, llvm-objdump-19 and llvm-nm-19, Debian's llvm-19, and the package ziglang, whose compiler makes the wheels.
"""

import argparse
import datetime
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
sys.path.insert(0, str(Path(__file__).parent.parent / "core" / "src"))

import arm64
from arm import cores, counts, loops, recorded, tables

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--record", type=Path, metavar="FOLDER")
    what.add_argument("--check", type=Path, metavar="FOLDER")
    what.add_argument("--missing", action="store_true")
    given = parser.parse_args()
    if given.missing:
        sys.exit(missing() or 0)
    folder = given.record or given.check
    if folder and (reason := missing()):
        sys.exit(f"not here: {reason}")
    if given.record:
        recorded.write(measured(folder.resolve(), twice=True))
    if given.check:
        lines = recorded.report(recorded.read(), measured(folder.resolve(), twice=False))
        sys.exit("\n".join(lines) or 0)
    print(tables.all_of(recorded.read()), end="")


def missing() -> str:
    """What this machine lacks, in words; empty if nothing."""
    for tool in (cores.MCA, loops.OBJDUMP, loops.NM):
        if not shutil.which(tool):
            return f"there is no {tool}; in Debian it is in llvm-19"
    return arm64.missing()


def measured(folder: Path, *, twice: bool) -> dict[str, Any]:
    """Everything; calls are counted `twice`, to see whether that gives the same."""
    folder.mkdir(parents=True, exist_ok=True)
    found, calls = cycles(), counts.count(folder)
    if twice and (others := recorded.differing(calls, counts.count(folder))):
        sys.exit("\n".join(["not the same when counted again:", *others]))
    return {"circumstances": circumstances(), "loops": found, "calls": calls}


def cycles() -> dict[str, dict[str, dict[str, Any]]]:
    """Each loop on each core, by each library that the core can run."""
    from arm import plugins  # needs setuptools

    found: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        compiled = {}
        for name, (plugin, variant, _) in cores.LIBRARIES.items():
            compiled[name] = Path(temporary, f"{variant.removesuffix('.so')}-{plugin}.so")
            source = ROOT / "benchmarks/arm/loops.c"
            plugins.compile_with(ROOT / f"plugins/lcm-{plugin}", variant, source, compiled[name])
        for loop, kind in loops.LOOPS.items():
            for core, names in cores.CORES.items():
                for name in names:
                    body = loops.hot_loop(compiled[name], f"loop_{loop}", kind)
                    cost = cores.cost(body, kind, core, bits=cores.LIBRARIES[name][2])
                    found.setdefault(loop, {})[f"{core}, {name}"] = cost
    return found


def circumstances() -> dict[str, str]:
    """The day, and what the numbers depend on."""
    said = {tool: _says(tool, "--version") for tool in (cores.MCA, counts.QEMU)}
    return {
        "command": "python benchmarks/arm_cost.py --record FOLDER",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "zig": _says(sys.executable, "-m", "ziglang", "version"),
        **{tool: re.search(r"version (\S+)", text)[1] for tool, text in said.items()},  # type: ignore[index]
    }


def _says(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
