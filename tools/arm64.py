"""Run the tests for 64-bit Arm on a processor that is not here, by qemu, with the wheels for Linux installed.

    python tools/arm64.py .tox/arm64 v1                on a Neoverse V1
    python tools/arm64.py .tox/arm64 v1 -k tokens      what follows goes to pytest
    python tools/arm64.py --check                      whether this machine can; if not, why

In the folder, which all processors share, is what takes long to get: a Python for arm64 with what lcm needs,
unpacked from Debian's packages; a newer qemu; the wheels, built anew when a source has changed; and what the
reference computes on this machine, which the tests compare with. No rights are needed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from debian import fetched, unpack

ROOT = Path(__file__).resolve().parent.parent
OLDER, NEWER = "qemu-aarch64", "qemu/qemu-aarch64"  # the newer one has more, and takes twice as long
# Of the conformance kit, what tells most for its time: all that is looked into with LCM_ARM64_CLAIMS=most.
MOST = (
    "arm64 or same_bits or results_are_right or beside_the_results or number_of_a_result or stay_as_they_are"
    " or behind_the_end or up_to_their_size or whole_numbers or in_a_program or tiny_model"
)


class Processor(NamedTuple):
    """What qemu is to emulate, which qemu, and whose kit is run."""

    cpu: str
    qemu: str
    kits: tuple[str, ...] = ()


PROCESSORS = {
    "n1": Processor("neoverse-n1", OLDER, ("neon",)),
    "v1": Processor("neoverse-v1", NEWER, ("sve",)),  # of neon, max has the same library
    "n2": Processor("neoverse-n2", NEWER, ("sve",)),
    "a72": Processor("cortex-a72", OLDER, ("neon",)),
    "a64fx": Processor("a64fx", OLDER, ("sve",)),  # of neon, a72 has the same library
    "max": Processor("max,sme=off,sve-default-vector-length=-1", OLDER, ("neon",)),
}
SAME_BITS = "test_products_of_bytes_have_the_same_bits_on_every_processor"
TAG = "manylinux_2_17_aarch64"
PLATFORM = (
    "--only-binary=:all:", "--implementation=cp", "--python-version=3.11",
    f"--platform={TAG}", "--platform=manylinux_2_28_aarch64",
)  # fmt: skip
PYTHON = "usr/bin/python3.11"
# Its own name leads to the emulator, so that its children are emulated too.
WRAPPER = '#!/bin/sh\nexec "$ARM64_QEMU" -cpu "$ARM64_CPU" -L {root} -0 "$0" {root}/{python}.real "$@"\n'
# Of Debian's, what Python's packages depend on for installing them.
UNUSED = ("dpkg_", "tar_", "perl")


def main() -> None:
    """Get ready, then run the tests."""
    if sys.argv[1:] == ["--check"]:
        sys.exit(missing() or 0)
    place, name, *given = sys.argv[1:]
    name = name.removeprefix("arm64-")  # as tox calls it
    if name not in PROCESSORS:
        sys.exit(f"no processor {name!r}; there are: {', '.join(PROCESSORS)}")
    if reason := missing():
        sys.exit(f"not here: {reason}")
    folder = Path(place).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        with locked(folder):
            environment = prepare(folder, Path(temporary))
        print(f"{name}: ready after {time.monotonic() - began:.0f} s", flush=True)
        sys.exit(run_tests(folder, Path(temporary), name, environment, given))


def missing() -> str:
    """What this machine lacks, in words; empty if nothing."""
    release = Path("/etc/os-release")
    text = release.read_text() if release.exists() else ""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "it emulates 64-bit Arm on Linux on x86-64"
    if "VERSION_CODENAME=bookworm" not in text:
        return "the Python to be emulated is from Debian 12, and this is another system"
    if sys.version_info[:2] != (3, 11):
        return "Python 3.11 is needed, which is the one of Debian 12"
    if not shutil.which(OLDER):
        return f"there is no {OLDER}; in Debian it is in qemu-user"
    return ""


def prepare(folder: Path, temporary: Path) -> dict[str, str]:
    """All that there has to be, and where it is: the variables for the emulated Python."""
    once(folder / "root", lambda path: unpack_python(path, folder / "root"))
    once(folder / "qemu", unpack_qemu)
    once(folder / "host", make_host)
    table = tomllib.loads((ROOT / "core/pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = sorted([*table["dependencies"], *table["optional-dependencies"]["testing"]])
    site = folder / f"site-{digest(*(text.encode() for text in wanted))}"
    once(site, lambda path: install(path, *wanted))
    wheels = folder / f"wheels-{sources()}"
    once(wheels, lambda path: build_wheels(path, folder / "host"))
    install(temporary / "site", "--no-deps", *map(str, wheels.glob("*.whl")))
    expected = shutil.copy(wheels / "expected.json", temporary)  # the folder goes with its sources
    return {"PYTHONPATH": f"{temporary / 'site'}:{site}", "ARM64_EXPECTED": str(expected)}


def run_tests(
    folder: Path, temporary: Path, name: str, environment: dict[str, str], given: list[str]
) -> int:
    """pytest's exit code."""
    processor = PROCESSORS[name]
    qemu = folder / processor.qemu if "/" in processor.qemu else shutil.which(processor.qemu)
    own = {
        "ARM64": name, "ARM64_CPU": processor.cpu, "ARM64_QEMU": str(qemu),
        "LCM_CACHE_DIR": str(temporary / "cache"), "XDG_CONFIG_HOME": str(temporary / "config"),
        "LCM_TUNE": "off", "LCM_THREADS": "2", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("LCM_", "PYTHON"))}
    python = folder / "root" / PYTHON
    claims = ["-k", MOST] if os.environ.get("LCM_ARM64_CLAIMS") == "most" else []
    kits = (f"plugins/lcm-{name}/tests" for name in processor.kits)
    tests = ["tests/arm64", "tests/test_kit_plugins.py::" + SAME_BITS, *kits]
    command = [str(python), "-P", "-m", "pytest", "-p", "no:cacheprovider", "--lcm-level", "smoke"]
    done = subprocess.run(
        [*command, "--durations=8", *claims, *tests, *given],
        cwd=ROOT, env=kept | environment | own, check=False,
    )  # fmt: skip
    return done.returncode


def unpack_python(path: Path, final: Path) -> None:
    """A root for the emulator: Debian's Python for arm64, and the libraries that it and numpy need."""
    for name in ("lib", "bin", "sbin"):
        (path / "usr" / name).mkdir(parents=True)
        (path / name).symlink_to(f"usr/{name}")
    with fetched("python3.11", "libstdc++6", "libgomp1", architecture="arm64") as packages:
        for package in packages:
            if not package.name.startswith(UNUSED):
                unpack(package, path)
    python = path / PYTHON
    python.rename(f"{python}.real")
    python.write_text(WRAPPER.format(root=final, python=PYTHON))
    python.chmod(0o755)
    compile_all(path / "usr/lib/python3.11")


def unpack_qemu(path: Path) -> None:
    """A qemu that has the processors of 2021 and after; it is one static file."""
    with fetched("qemu-user", release="bookworm-backports") as packages:
        unpack(packages[0], path, "./usr/bin/qemu-aarch64")
    (path / "usr/bin/qemu-aarch64").rename(path / "qemu-aarch64")


def make_host(path: Path) -> None:
    """A Python of this machine's with the compiler, which also computes what is expected."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    pip("--python", str(path / "bin/python"), "install", "pip", "ziglang==0.17.1")


def build_wheels(path: Path, host: Path) -> None:
    """The wheels, and beside them what their code computes here by the definitions of the ops."""
    python = host / "bin/python"
    subprocess.run([python, ROOT / "tools/cross.py", path, "--platform", TAG], check=True)
    for_any = [str(wheel) for wheel in path.glob("*-any.whl")]
    pip("--python", str(python), "install", "--force-reinstall", "--no-deps", *for_any)
    pip("--python", str(python), "install", *for_any)
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("LCM_", "PYTHON"))}
    with tempfile.TemporaryDirectory() as cache:
        said = subprocess.run(
            [python, ROOT / "tests/arm64/computed.py", "reference"], check=True,
            env=clean | {"LCM_CACHE_DIR": cache, "LCM_TUNE": "off"}, stdout=subprocess.PIPE,
        ).stdout  # fmt: skip
    (path / "expected.json").write_text(json.dumps(json.loads(said)))
    for older in path.parent.glob("wheels-*"):
        if older != path:
            shutil.rmtree(older)


def once(path: Path, make: Callable[[Path], None]) -> None:
    """Make the folder unless it is there; what is left half made is made anew."""
    if not path.exists():
        fresh = path.with_name(f"new-{path.name}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        make(fresh)
        fresh.rename(path)


def install(folder: Path, *what: str) -> None:
    """Put distributions for the emulated Python into a folder."""
    pip("install", "--no-compile", "--target", str(folder), *PLATFORM, *what)
    compile_all(folder)


def compile_all(folder: Path) -> None:
    """Here, where it is fast: the bytecode of the same version is the same."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=False)


def pip(*arguments: str) -> None:
    """Let this Python's pip do it."""
    own = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], check=True, env=own)


def sources() -> str:
    """Of all that wheels are made of, and of how."""
    tools = [ROOT / "tools" / name for name in ("build.py", "cross.py", "zigcc.py")]
    folders = (ROOT / name for name in ("core/src", "plugins", "models"))
    paths = [*tools, ROOT / "tests/arm64/computed.py", ROOT / "core/pyproject.toml"]
    paths += [p for f in folders for p in sorted(f.rglob("*")) if p.is_file()]
    paths = [p for p in paths if p.suffix not in (".pyc", ".so")]
    return digest(*(part for p in paths for part in (str(p).encode(), p.read_bytes())))


def digest(*parts: bytes) -> str:
    """A short name for these bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8) + part)
    return found.hexdigest()[:12]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
