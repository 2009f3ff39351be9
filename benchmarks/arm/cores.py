"""What a loop costs on an Arm core, as llvm-mca's model of that core has it."""

import json
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from arm.loops import Instruction

MCA = "llvm-mca-19"
ITERATIONS = 1000  # enough for what happens once, when a loop begins, not to show

# Libraries that a core can run: the plugin, its variant, and the bits of a vector of SVE.
LIBRARIES = {
    "neon dotprod": ("neon", "kernels_dotprod.so", 128),
    "neon i8mm": ("neon", "kernels_i8mm.so", 128),
    "sve128 i8mm": ("sve", "kernels_128_i8mm.so", 128),
    "sve256 i8mm": ("sve", "kernels_256_i8mm.so", 256),
}
CORES = {
    "neoverse-n1": ("neon dotprod",),
    "neoverse-v1": ("neon i8mm", "sve256 i8mm"),
    "neoverse-v2": ("neon i8mm", "sve128 i8mm"),
    "apple-m1": ("neon dotprod",),
}
# Instructions that a core takes in a cycle, by "Dispatch constraints" in Arm's guides to optimising for it; llvm-mca's
# models have about twice as many (llvm/llvm-project#136374). That of apple-m1 is one of Cyclone, a core of 2013.
WIDTHS = {"neoverse-n1": 4, "neoverse-v1": 8, "neoverse-v2": 8}


def cost(loop: Sequence[Instruction], kind: str, core: str, bits: int) -> dict[str, Any]:
    """What a turn of the loop is, its cycles, and the share of what the core can issue that it reaches.

    What it can issue is what the multiplying instructions alone are limited to by the core's units.
    """
    work = [one for one in loop if one.multiplies(kind, bits)]
    multiplies = sum(one.multiplies(kind, bits) for one in loop)
    cycles = _summary(loop, core)["TotalCycles"] / ITERATIONS
    least = _summary(work, core)["BlockRThroughput"]
    return {
        "instructions": len(loop),
        "multiplying": len(work),
        "multiply-adds": multiplies,
        "cycles": round(cycles, 2),
        "share": round(least / cycles, 3),
    }


def _summary(instructions: Sequence[Instruction], core: str) -> dict[str, Any]:
    text = "".join(f"{one.name} {_operands(one)}\n" for one in instructions)
    width = f"-dispatch={WIDTHS.get(core, 0)}"  # 0: the model's own
    command = [
        MCA,
        "-mtriple=aarch64",
        f"-mcpu={core}",
        width,
        f"-iterations={ITERATIONS}",
        "--json",
    ]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{core} cannot run this loop:\n{done.stderr}")
    summary: dict[str, Any] = json.loads(done.stdout)["CodeRegions"][0]["SummaryView"]
    return summary


def _operands(one: Instruction) -> str:
    """As an assembler reads them: a branch goes to itself, wherever it went."""
    return re.sub(r"0x[0-9a-f]+ <.*", ".", one.operands) if one.target >= 0 else one.operands
