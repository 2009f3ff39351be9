"""The plugins made of the kit, as built: what their libraries export and need, and whom they are for."""

import hashlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from elf import Elf
from packaging.requirements import Requirement

import lcm
from lcm import formats, no_grad, ops
from lcm.backend import discovery, dispatch, plugins
from lcm.host import FEATURES, current
from lcm.ops import CATALOGUE
from lcm.tensor import Tensor

ROOT = Path(__file__).parent.parent
NAMES = sorted(p.parent.name.removeprefix("lcm-") for p in ROOT.glob("plugins/*/vec.h"))
EVERY_KERNEL = {f"lcm_{symbol}" for op in CATALOGUE.values() for symbol in op.signature.kernels}
# What measures the machine, for those who ask: no kernels, and not in the header.
MEASURES = re.compile(r"lcm_(limit|ladder)_\w+")

elf = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF, the libraries of Linux")


def test_there_are_such_plugins():
    assert {"avx2", "avx512", "neon", "sve"} <= set(NAMES)


@pytest.fixture(params=NAMES)
def plugin(request):
    found = next((one for one in plugins.installed() if one.name == request.param), None)
    if found is None:
        pytest.skip(f"lcm-{request.param} cannot be built here: it is not installed")
    assert found.manifest, found.problem
    return found


def missing(plugin):
    """What this processor lacks for the plugin, as the verdict says it; empty if nothing."""
    manifest, has = plugin.manifest, current().has
    if lacking := [name for name in manifest.features if not has(name)]:
        return " ".join(lacking)
    return "" if manifest.library_for(has) else " or ".join(manifest.least_features())


@pytest.fixture
def fitting(plugin):
    """A plugin that this processor has all instructions for."""
    if needed := missing(plugin):
        pytest.skip(f"{plugin.name} needs {needed}")
    return plugin


@pytest.fixture
def libraries(plugin):
    return [Elf(plugin.folder / library) for library in plugin.manifest.libraries]


@elf
def test_it_exports_kernels_and_what_the_header_declares_beside_them(libraries):
    header = Path(lcm.include_dir(), "lcm", "ops.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"\b(lcm_\w+)\(", header))
    for exported in (library.exports() for library in libraries):
        assert {"lcm_abi"} < exported
        assert not {name for name in exported - declared if not MEASURES.fullmatch(name)}


@elf
def test_it_runs_nothing_when_it_is_loaded(libraries, tmp_path):
    """Compilers put in something of their own, as into an empty library; it needs no instruction set."""
    source, empty = tmp_path / "empty.c", tmp_path / "empty.so"
    source.touch()
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    subprocess.run([*compiler, "-shared", "-fPIC", "-o", empty, source], check=True)
    for library in libraries:
        assert library.constructors() <= Elf(empty).constructors()


@elf
def test_it_needs_the_c_library_alone(libraries):
    known = re.compile(r"(libc|libm|libpthread|ld-linux[-\w]*)\.so\.\d+|libc\.musl-\w+\.so\.1")
    for library in libraries:
        assert not {name for name in library.needs() if not known.fullmatch(name)}


def test_a_variants_features_are_some_that_the_host_can_tell(plugin):
    assert {name for needed in plugin.manifest.variants.values() for name in needed} <= FEATURES


def test_a_variant_runs_where_its_features_are_and_the_library_where_one_is_masked(fitting):
    opened = Path(discovery.open_backend(fitting.name).library).name
    assert opened == fitting.manifest.library_for(current().has)
    code = (
        "from lcm.backend import discovery\n"
        f"(found,) = [one for one in discovery.verdicts() if one.name == {fitting.name!r}]\n"
        "print(discovery.open_backend(found.name).library if found.state == 'ready' else None)"
    )
    for masked in {needed[0] for needed in fitting.manifest.variants.values()}:
        left = fitting.manifest.library_for((current().features.value - {masked}).__contains__)
        printed = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "LCM_ISA_MASK": masked},
            check=True,
            capture_output=True,
            text=True,
        )
        assert Path(printed.stdout.strip()).name == str(left), masked


def test_it_is_ready_where_the_processor_has_what_it_needs_and_else_says_what_is_missing(plugin):
    (found,) = [verdict for verdict in discovery.verdicts() if verdict.name == plugin.name]
    if not missing(plugin):
        assert (found.state, found.reason) == ("ready", "passed its self-test")
        return
    assert found.state == "ineligible" and found.reason.startswith(f"needs {missing(plugin)}, ")
    pytest.skip(f"{plugin.name} {found.reason}")


def test_it_passes_its_self_test_where_the_user_wants_it_too(fitting, lcm, tmp_path):
    variables = {"LCM_BACKEND": fitting.name, "LCM_CACHE_DIR": str(tmp_path / "cache")}
    table = lcm("backends", cwd=tmp_path, **variables).stdout
    assert re.search(rf"^{fitting.name} +\S+ +ready +passed its self-test", table, re.M), table


@elf
def test_all_of_them_have_the_same_kernels():
    """Each kernel is written once, for all of them."""
    found = [p for p in plugins.installed() if p.name in NAMES and p.manifest]
    exports = {
        f"{p.name} {library}": Elf(p.folder / library).exports() & EVERY_KERNEL
        for p in found
        for library in p.manifest.libraries
    }
    assert all(exports.values()) and len(set(map(frozenset, exports.values()))) <= 1, exports


@pytest.mark.parametrize("format", ["mxfp4", "mxfp4_x16"])
def test_every_exponent_of_mxfp4_is_a_power_of_two(fitting, format):
    """Also the two that are not normal numbers; the products have few bits, so they are exact."""
    rng = np.random.default_rng(0)
    whole = rng.integers(-126, 127, 32)
    whole[0] = 127  # so that x is rounded to these
    blocks = rng.integers(0, 256, (256, 17), np.uint8)
    blocks[:, 0] = exponents = np.arange(256)
    codes = np.concatenate([blocks[:, 1:] & 15, blocks[:, 1:] >> 4], axis=1)
    doubled = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])[codes]
    wanted = np.ldexp((doubled @ whole).astype(np.float64), exponents - 128 - 20)
    weight = blocks.view(formats.FORMATS["mxfp4"].storage)
    stored = weight if format == "mxfp4" else formats.interleave(weight, format)
    x = Tensor(np.ldexp(np.float32(1), -20) * whole[None].astype(np.float32))
    with dispatch.use_backend(fitting.name), no_grad():
        found = ops.linear_int8(x, Tensor(stored, format)).numpy()[0]
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


# Of the results below, on every processor: sums of whole numbers are exact, and each strip's is added by one
# multiply-add, in the order of the strips.
SAME_BITS = {"q8_0": "dc7d019e14babd3b", "q4_0": "36dafd5c666f0200"}


@pytest.mark.parametrize("format", SAME_BITS)
def test_products_of_bytes_have_the_same_bits_on_every_processor(fitting, format):
    rng = np.random.default_rng(7)
    storage = formats.FORMATS[format].storage
    blocks = rng.integers(0, 256, (32, 6, storage.itemsize), np.uint8)
    scales = rng.integers(1 << 10, 1 << 14, (32, 6, 1)).astype("<u2")  # f16 from 2^-14 to 2^-1
    blocks[:, :, :2] = scales.view(np.uint8)
    stored = blocks.reshape(32, -1).view(storage)
    weights = {format: stored[:19], f"{format}_x16": formats.interleave(stored, f"{format}_x16")}
    x = rng.integers(-(1 << 20), 1 << 20, (37, 6 * 32)).astype(np.float32) / 4096

    def product(name, rows):
        return ops.linear_int8(Tensor(x[:rows]), Tensor(weights[name], name)).numpy()

    with dispatch.use_backend(fitting.name), no_grad():
        whole = product(f"{format}_x16", 37)
        for name, rows in itertools.product(weights, (1, 2, 9, 37)):
            found = product(name, rows)
            np.testing.assert_array_equal(found, whole[:rows, : found.shape[1]])
    assert hashlib.sha256(whole.tobytes()).hexdigest()[:16] == SAME_BITS[format]


# The extras: what `pip install 'lcm[cpu]'` brings, and where.

HOSTS = {
    "Linux on x86-64": (
        {"platform_machine": "x86_64", "sys_platform": "linux"},
        {"avx2", "avx512", "openblas"},
    ),
    "macOS on x86-64": (
        {"platform_machine": "x86_64", "sys_platform": "darwin"},
        {"avx2", "avx512", "openblas"},
    ),
    "Linux on Arm": (
        {"platform_machine": "aarch64", "sys_platform": "linux"},
        {"neon", "sve", "openblas"},
    ),
    "macOS on Arm": ({"platform_machine": "arm64", "sys_platform": "darwin"}, {"neon", "openblas"}),
    "Windows": ({"platform_machine": "AMD64", "sys_platform": "win32"}, {"openblas"}),
}


def brought(extra, environment):
    """The distributions that an extra of lcm brings, through lcm's other extras."""
    for requirement in map(Requirement, metadata.requires("lcm")):
        if requirement.marker and requirement.marker.evaluate({**environment, "extra": extra}):
            if requirement.name == "lcm":
                for inner in requirement.extras:
                    yield from brought(inner, environment)
            elif requirement.name.startswith("lcm-"):
                yield requirement.name.removeprefix("lcm-")


@pytest.mark.parametrize("host", HOSTS)
def test_the_extra_cpu_brings_what_fits_the_processor(host):
    environment, expected = HOSTS[host]
    assert set(brought("cpu", environment)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_one_has_an_extra_of_its_name_for_the_processors_of_its_manifest(name):
    text = (ROOT / f"plugins/lcm-{name}/src/lcm_{name}/lcm_backend.toml").read_text(
        encoding="utf-8"
    )
    arch = re.search(r"arch = \[(.*)\]", text)[1]
    for machine in ("x86_64", "aarch64", "ppc64le"):
        assert list(brought(name, {"platform_machine": machine})) == [name] * (
            f'"{machine}"' in arch
        )
