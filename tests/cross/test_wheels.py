"""The plugins' wheels for every platform, as tools/cross.py builds them: tags, libraries, instructions."""

import ast
import os
import re
import struct
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest
import zigcc
from elf import Elf
from macho import MachO

ROOT = Path(__file__).parent.parent.parent
TAGS = ("manylinux_2_17_x86_64", "manylinux_2_17_aarch64", "macosx_11_0_arm64")
BUILT = {
    "avx2": TAGS[:1], "avx512": TAGS[:1], "neon": TAGS[1:], "sve": TAGS[1:2],
}  # fmt: skip
WHEELS = [(name, tag) for name, tags in BUILT.items() for tag in tags]
on_linux = pytest.mark.parametrize(("name", "tag"), [w for w in WHEELS if "linux" in w[1]])
on_arm = pytest.mark.parametrize(("name", "tag"), [w for w in WHEELS if "aarch64" in w[1]])
on_macos = pytest.mark.parametrize(("name", "tag"), [w for w in WHEELS if "macosx" in w[1]])
everywhere = pytest.mark.parametrize(("name", "tag"), WHEELS)
# What measures the machine, for those who ask: no kernels, and not in the header.
MEASURES = re.compile(r"lcm_(limit|ladder)_\w+")
C_LIBRARY = {"libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2"}
# What the compiler puts into each library of macOS.
LINKERS = {"__dso_handle", "_mh_dylib_header"}
# In code for aarch64, every instruction of a kind: the bits that are looked at, and what they are.
INSTRUCTIONS = {
    "atomics": ((0x3FA07C00, 0x08A07C00), (0x3F200C00, 0x38200000)),  # cas; ldadd, swp …
    "asimddp": ((0x9FE0FC00, 0x0E809400), (0x9FC0F400, 0x0F80E000)),  # sdot, udot; by a lane
    "i8mm": ((0xBFE0F400, 0x2E80A400), (0xBFE0F400, 0x0E80A400)),  # ummla, smmla, usmmla
    "svei8mm": ((0xFF20FC00, 0x45009800),),  # the same of SVE
    "sve": ((0x1E000000, 0x04000000),),
}


@pytest.fixture(scope="session")
def folder():
    folder = Path(os.environ["LCM_WHEELS"])
    assert sorted(folder.glob("*.whl")), "tools/cross.py builds them"
    return folder


@pytest.fixture
def wheel(folder, name, tag):
    """The wheel, whose name says the tag."""
    (wheel,) = folder.glob(f"lcm_{name}-*-py3-none-{tag}.whl")
    return wheel


@cache
def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def manifest(wheel):
    (text,) = (t for n, t in files(wheel).items() if n.endswith("/lcm_backend.toml"))
    return tomllib.loads(text.decode())


def libraries(wheel):
    """By name, those in the wheel, which are those that the manifest names."""
    found = {Path(n).name: data for n, data in files(wheel).items() if n.endswith(".so")}
    needed = manifest(wheel)
    named = {*needed.get("variants", {}), *([needed["library"]] if "library" in needed else [])}
    assert set(found) == named
    return found


def declared():
    header = (ROOT / "core/src/lcm/include/lcm/ops.h").read_text(encoding="utf-8")
    return set(re.findall(r"\b(lcm_\w+)\(", header))


def test_every_plugin_with_kernels_is_here_and_nothing_else(folder):
    kits = {p.parent.name.removeprefix("lcm-") for p in ROOT.glob("plugins/*/vec.h")}
    assert set(BUILT) == kits
    found = {(w.name.split("-")[0][4:], w.stem.split("-")[-1]) for w in folder.glob("lcm_*.whl")}
    assert {(n, t) for n, t in found if t != "any"} == set(WHEELS)


@everywhere
def test_a_wheel_says_that_it_is_for_its_platform_and_any_python(wheel, name, tag):
    (text,) = (t for n, t in files(wheel).items() if n.endswith(".dist-info/WHEEL"))
    lines = text.decode().splitlines()
    assert [line for line in lines if line.startswith("Tag: ")] == [f"Tag: py3-none-{tag}"]
    assert "Root-Is-Purelib: false" in lines
    assert any(n.endswith("/licenses/LICENSE") for n in files(wheel))


@on_linux
def test_auditwheel_finds_the_same_tag(wheel, name, tag):
    command = [sys.executable, "-m", "auditwheel", "show", wheel]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert f'consistent with the following platform tag: "{tag}"' in " ".join(said.split())


@everywhere
def test_it_exports_kernels_and_what_the_header_declares_beside_them(wheel, name, tag):
    read = MachO if "macosx" in tag else Elf
    same = set()
    for library, data in libraries(wheel).items():
        exported = read(data).exports() - (LINKERS if read is MachO else set())
        assert {"lcm_abi", "lcm_linear", "lcm_adamw_step"} < exported, library
        assert not {n for n in exported - declared() if not MEASURES.fullmatch(n)}, library
        same.add(frozenset(exported & declared()))
    assert len(same) == 1, "each kernel is written once, for all of them"


@on_linux
def test_on_linux_it_needs_the_c_library_alone_and_runs_nothing_when_loaded(wheel, name, tag):
    for library, data in libraries(wheel).items():
        elf = Elf(data)
        assert tag.endswith(elf.machine())
        assert elf.needs() <= C_LIBRARY, library
        assert not elf.constructors(), library


@on_macos
def test_on_macos_it_is_for_11_0_signed_needs_the_system_alone_and_runs_nothing_when_loaded(
    wheel, name, tag
):
    for library, data in libraries(wheel).items():
        macho = MachO(data)
        assert macho.oldest() == (1, "11.0")
        assert macho.needs() == {"/usr/lib/libSystem.B.dylib"}, library
        assert not macho.constructors(), library
        assert macho.signed_ad_hoc(), f"{library}: macOS would end the process"


def test_a_signature_fits_one_content_only(folder):
    wheel = next(folder.glob("lcm_neon-*macosx*.whl"))
    data = bytearray(libraries(wheel)["kernels.so"])
    data[len(data) // 2] ^= 1
    assert not MachO(bytes(data)).signed_ad_hoc()


@on_arm
def test_the_code_uses_what_the_manifest_asks_for_and_nothing_else(wheel, name, tag):
    needs = manifest(wheel)
    for library, data in libraries(wheel).items():
        asked = {*needs["features"], *needs.get("variants", {}).get(library, ())}
        words = struct.unpack(f"<{len(code := Elf(data).code()) // 4}I", code[: len(code) & ~3])
        used = {
            feature
            for feature, kinds in INSTRUCTIONS.items()
            if any(word & mask == value for word in words for mask, value in kinds)
        }
        assert used <= asked, library
        # A feature that nothing uses is asked for in vain, but of these atomics are a matter of the code.
        assert asked & {"asimddp", "i8mm", "svei8mm", "sve"} <= used, library


def test_gccs_names_of_processors_become_zigs():
    """Of the options that the plugins give, each is one that zig has, or is translated."""
    given = {
        node.value
        for path in ROOT.glob("plugins/*/setup.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and str(node.value).startswith("-march=")
    }
    assert given
    for option in given:
        (said,) = zigcc.option(option)
        assert re.fullmatch(r"-mcpu=generic\+v\d(_\d)?a(\+\w+)*", said), option
    assert zigcc.option("-mtune=neoverse-n2")[1::2] == ["-tune-cpu", "neoverse-n2"]
    assert zigcc.option("-O3") == ["-O3"]
