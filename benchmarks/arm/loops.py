"""The loop of a function where it multiplies most, found in the machine code of a compiled library."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

OBJDUMP, NM = "llvm-objdump-19", "llvm-nm-19"
# What multiplies and adds, and how many times for each 32 bits of a vector.
MULTIPLIES = {
    "f32": {"fmla": 1, "fmad": 1},
    "int8": {"sdot": 4, "smmla": 8},
}
# What multiplies in each, by its name in loops.c.
LOOPS = {
    "tile": "f32", "tile_in_place": "f32",
    "attention_scores": "f32", "attention_mix": "f32", "attention_spread": "f32", "attention_row_mix": "f32",
    "rows_q8_0": "int8", "rows_q4_k": "int8", "rows_q6_k": "int8",
    "row_q8_0": "int8", "row_q4_0": "int8", "row_q4_k": "int8",
}  # fmt: skip
BRANCH = re.compile(r"b|b\.\w+|cbn?z|tbn?z")


class Instruction(NamedTuple):
    """One of a function's; the target of a branch is an address."""

    address: int
    name: str
    operands: str
    target: int = -1

    def multiplies(self, kind: str, bits: int) -> int:
        """How many multiply-adds it is, where a vector of SVE has so many bits."""
        wide = bits if self.operands.startswith("z") else 128
        return MULTIPLIES[kind].get(self.name, 0) * wide // 32


def hot_loop(library: Path, function: str, kind: str) -> list[Instruction]:
    """The instructions of the loop, of those without another in them, that multiplies most."""
    body = instructions(library, function)
    place = {one.address: i for i, one in enumerate(body)}
    found = [
        body[place[one.target] : i + 1]
        for i, one in enumerate(body)
        if place.get(one.target, i + 1) <= i
    ]
    inner = [loop for loop in found if all(one.target < 0 for one in loop[:-1])]
    best = max(inner, key=lambda loop: sum(one.multiplies(kind, 128) for one in loop), default=[])
    if not any(one.multiplies(kind, 128) for one in best):
        raise LookupError(f"{library.name}: no loop of {function} multiplies {kind}")
    return best


def instructions(library: Path, function: str) -> list[Instruction]:
    """All of a function that the library exports, and of no other: those behind it may have no names."""
    start, size = extent(library, function)
    command = [OBJDUMP, "-d", "--no-show-raw-insn", "--mattr=+all"]
    within = [f"--start-address={start}", f"--stop-address={start + size}"]
    said = output(*command, *within, str(library))
    return [one for line in said.splitlines() if (one := parsed(line))]


def extent(library: Path, function: str) -> tuple[int, int]:
    """Where an exported function begins, and its bytes."""
    for line in output(NM, "-D", "--print-size", "--defined-only", str(library)).splitlines():
        start, size, _, name = line.split()
        if name == function:
            return int(start, 16), int(size, 16)
    raise LookupError(f"{library.name} exports no {function}")


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def parsed(line: str) -> Instruction | None:
    """A line of the disassembly, `  1f40: b.ne 0x1f00 <name+0x10>`; None if it has no instruction."""
    if not (found := re.fullmatch(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*?)\s*(//.*)?", line)):
        return None
    address, name, operands = int(found[1], 16), found[2], found[3]
    target = re.search(r"0x([0-9a-f]+) <", operands) if BRANCH.fullmatch(name) else None
    return Instruction(address, name, operands, int(target[1], 16) if target else -1)
