"""How many instructions a call of a kernel is, which an emulator counts while it executes the plugins' libraries."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import arm64
from arm.cores import LIBRARIES

HERE = Path(__file__).parent
QEMU = arm64.OLDER  # of Debian's, the newer one takes no plugins
CPU = "max,sme=off,sve{}=on"
LARGEST = 256  # size of a shape, enough for what a call itself costs not to show; where another is enough:
ENOUGH = {"count": 1 << 16, "batch": 4, "heads": 4, "kv_heads": 2}
TURNS = 3  # of a call, of which the least counts: Python does something of its own now and then
KERNEL = re.compile(r"EXPORT int32_t lcm_(\w+)\(")
BLOCKS = ("q8_0", "q4_0", "q4_k")  # 32 numbers with a scale, half as many bits, 256 with many scales


class Case(NamedTuple):
    """A kernel at some sizes."""

    symbol: str
    sizes: Mapping[str, int]
    name: str


def cases() -> Iterator[Case]:
    """All kernels for f32, and the products with weights in other formats."""
    import lcm
    from lcm.ops import CATALOGUE

    kit = sorted(Path(lcm.include_dir(), "lcm", "simd").glob("*.h"))
    kernels = {name for path in kit for name in KERNEL.findall(path.read_text(encoding="utf-8"))}
    for op in CATALOGUE.values():
        for symbol in op.signature.kernels:
            if "__" not in symbol and symbol in kernels:
                yield Case(symbol, _sizes(symbol), symbol)
    for format in ("f16", "bf16", "q4_k"):
        yield Case(f"linear__{format}", _sizes(f"linear__{format}"), f"linear {format}")
    for format in BLOCKS:
        symbol = f"linear_int8__{format}_x16"
        for rows in (1, LARGEST):
            sizes = {"rows": rows, "inputs": 1024, "outputs": 256}
            yield Case(symbol, sizes, f"linear_int8 {format}, rows={rows}")
    yield Case("linear", {"rows": 1, "inputs": 1024, "outputs": 256}, "linear, rows=1")
    yield Case("attention", _sizes("attention") | {"rows": 1}, "attention, rows=1")


def _sizes(symbol: str) -> dict[str, int]:
    from lcm.backend import measure

    # Sinks change little, but the tables know no shape for them.
    large = measure.large("attention" if symbol == "attention_with_sinks" else symbol)
    return {name: min(size, ENOUGH.get(name, LARGEST)) for name, size in large.items()}


def count(folder: Path) -> dict[str, dict[str, int]]:
    """The instructions of each case, by name and library."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        with arm64.locked(folder):
            environment = arm64.prepare(folder, Path(temporary))
        counter = Path(temporary, "counter.so")
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        options = ["-O2", "-shared", "-fPIC", "-o", str(counter), str(HERE / "counter.c")]
        subprocess.run([*compiler, *options], check=True)
        found = {name: _count(folder, counter, environment, name) for name in LIBRARIES}
    return {case.name: {name: one[case.name] for name, one in found.items()} for case in cases()}


def _count(
    folder: Path, counter: Path, environment: Mapping[str, str], name: str
) -> dict[str, int]:
    plugin, variant, bits = LIBRARIES[name]
    marks = counter.with_name("marks")
    site = environment["PYTHONPATH"].split(":")[0]
    library = Path(site, f"lcm_{plugin}", variant)
    asked = list(cases())
    own = {
        "ARM64_QEMU": shutil.which(QEMU) or QEMU, "ARM64_CPU": CPU.format(bits),
        "QEMU_PLUGIN": f"{counter},out={marks}", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
        "LCM_CACHE_DIR": str(counter.with_name("cache")), "LCM_TUNE": "off", "LCM_THREADS": "1",
    }  # fmt: skip
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("LCM_", "PYTHON", "QEMU"))}
    python = str(folder / "root" / arm64.PYTHON)
    command = [python, "-P", str(HERE / "counted.py"), str(TURNS), str(library)]
    for case in asked:
        command += [case.symbol, json.dumps(dict(case.sizes))]
    subprocess.run(command, check=True, env={**kept, **environment, **own})
    numbers = [int(line) for line in marks.read_text().split()]
    spans = [after - before for before, after in zip(numbers[::2], numbers[1::2], strict=True)]
    nothing, *found = (min(spans[i : i + TURNS]) for i in range(0, len(spans), TURNS))
    return {case.name: one - nothing for case, one in zip(asked, found, strict=True)}
