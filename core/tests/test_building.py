"""lcm.building: one C file becomes a library in a package, for wheels and in place; or it is said why not."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lcm.backend import native

MANIFEST = 'name = "tiny"\nabi = 1\nsummary = "One kernel"\nlibrary = "lib/kernels.so"\n'
SETUP = (
    "from setuptools import setup\n"
    "from lcm.building import kernels\n"
    'setup(name="tiny", version="1", package_dir={"": "src"}, packages=["tiny"],\n'
    '      **kernels("tiny", "kernels.c", flags=["-DTWICE"]))\n'
)
KERNELS = """\
#include <lcm/ops.h>
#include "vec.h"
__attribute__((visibility("default"))) int32_t lcm_abi(void) { return LCM_ABI; }
__attribute__((visibility("default"))) int32_t lcm_silu(const lcm_silu_args *a) {
#ifdef TWICE
  for (int64_t i = 0; i < a->count; i++) a->out[i] = twice(a->x[i]);
#endif
  return LCM_OK;
}
"""
# A compiler that says only what it makes code for.
FOREIGN = "#!/bin/sh\necho sparc64-linux-gnu\n"


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "tiny-1"
    (folder / "src" / "tiny").mkdir(parents=True)
    (folder / "src" / "tiny" / "__init__.py").touch()
    (folder / "src" / "tiny" / "lcm_backend.toml").write_text(MANIFEST)
    (folder / "setup.py").write_text(SETUP)
    (folder / "kernels.c").write_text(KERNELS)
    (folder / "vec.h").write_text("static float twice(float x) { return 2 * x; }\n")
    return folder


def run(project, *arguments, **variables):
    """setup.py as a build tool runs it; what it says is in `stderr`."""
    command = [sys.executable, "-W", "ignore", "setup.py", *arguments]
    environment = {n: v for n, v in os.environ.items() if n not in ("CC", "CFLAGS")} | variables
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def test_a_wheel_has_the_library_and_is_for_any_python_on_one_platform(project, tmp_path):
    done = run(project, "bdist_wheel", "--dist-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("tiny-1-py3-none-") and not wheel.stem.endswith("-any")
    with zipfile.ZipFile(wheel) as archive:
        library = Path(archive.extract("tiny/lib/kernels.so", tmp_path))
    assert set(native.load(library, "tiny").kernels) == {"silu"}


def test_every_variant_is_built_of_the_same_sources_with_flags_of_its_own(project):
    manifest = f'{MANIFEST}[variants]\n"lib/thrice.so" = ["avx2"]\n'
    (project / "src/tiny/lcm_backend.toml").write_text(manifest)
    flags = 'flags=["-DTWICE"]'
    variants = '{"lib/thrice.so": ["-DFACTOR=3"]}'
    (project / "setup.py").write_text(SETUP.replace(flags, f"{flags}, variants={variants}"))
    lines = ("#ifndef FACTOR", "#define FACTOR 2", "#endif")
    function = "static float twice(float x) { return FACTOR * x; }\n"
    (project / "vec.h").write_text("\n".join([*lines, function]))
    done = run(project, "build_kernels", "--inplace")
    assert done.returncode == 0, done.stderr
    for library, factor in (("kernels.so", 2), ("thrice.so", 3)):
        out = np.zeros(1, np.float32)
        kernel = native.load(project / "src/tiny/lib" / library, "tiny").kernels["silu"]
        kernel({"x": np.ones(1, np.float32), "out": out, "count": 1})()
        assert out == factor


def test_setup_py_and_the_manifest_name_the_same_variants(project):
    (project / "src/tiny/lcm_backend.toml").write_text(f'{MANIFEST}[variants]\n"b.so" = ["avx2"]\n')
    assert "its variants are not those of setup.py, []" in run(project, "build_kernels").stderr


def test_in_place_the_library_lies_where_the_manifest_says(project):
    done = run(project, "build_kernels", "--inplace")
    assert done.returncode == 0, done.stderr
    assert (project / "src/tiny/lib/kernels.so").is_file()
    assert not list(project.rglob("*.new"))


def test_an_editable_installation_finds_the_library_beside_the_python_files(project, tmp_path):
    site = tmp_path / "site"
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site))
    command = [sys.executable, "-m", "pip", "install", *options, "--editable", str(project)]
    subprocess.run(command, check=True, capture_output=True)
    assert (project / "src/tiny/lib/kernels.so").is_file()
    assert not list(site.rglob("*.so"))


def test_a_source_distribution_has_the_headers_too(project, tmp_path):
    done = run(project, "sdist", "--dist-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        assert {"tiny-1/kernels.c", "tiny-1/vec.h"} <= set(archive.getnames())


@pytest.mark.parametrize("compiler", ["gcc", "clang", "cc -m64"])
def test_any_of_the_usual_compilers_will_do(project, compiler):
    if not shutil.which(compiler.split()[0]):
        pytest.skip(f"there is no {compiler} here")
    done = run(project, "build_kernels", "--inplace", CC=compiler)
    assert done.returncode == 0 and done.stdout.count(f"{compiler} -std=") == 1, done.stderr


def test_cflags_come_after_ours_and_before_the_plugins_own(project):
    done = run(project, "build_kernels", "--inplace", CFLAGS="-O1 -UTWICE")
    command = done.stdout.splitlines()[-1].split()
    assert command.index("-O3") < command.index("-O1") < command.index("-DTWICE")


def refusal(done):
    """The one line that a person sees, above which only the compiler may have spoken."""
    assert done.returncode
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and done.stderr.rstrip().endswith(lines[0]), done.stderr
    return lines[0]


def test_a_missing_compiler_is_one_line(project):
    said = refusal(run(project, "build_kernels", CC="no-such-compiler"))
    reason = "no C compiler 'no-such-compiler'; install one, or set CC"
    assert said == f"error: cannot be built here: {reason}"


def test_a_compiler_for_other_processors_is_one_line(project, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.write_text(FOREIGN)
    foreign.chmod(0o755)
    manifest = project / "src/tiny/lcm_backend.toml"
    manifest.write_text(MANIFEST + 'arch = ["x86_64", "aarch64"]\n')
    said = refusal(run(project, "build_kernels", CC=str(foreign)))
    assert said == (
        "error: cannot be built here: needs a C compiler for x86_64 or aarch64, "
        f"{str(foreign)!r} is one for sparc64-linux-gnu"
    )


def test_a_source_that_does_not_compile_leaves_the_old_library_and_one_line(project):
    run(project, "build_kernels", "--inplace")
    library = project / "src/tiny/lib/kernels.so"
    before = library.read_bytes()
    (project / "kernels.c").write_text("#error not today\n")
    done = run(project, "build_kernels", "--inplace")
    assert refusal(done) == ("error: kernels.c: does not compile; the compiler's reason is above")
    assert "not today" in done.stderr and library.read_bytes() == before


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (MANIFEST.replace("abi = 1\n", ""), "'abi' is missing"),
        (MANIFEST.replace("library", "module").replace("lib/kernels.so", "tiny"), "no 'library'"),
        (None, "No such file"),
    ],
)
def test_a_manifest_that_names_no_library_is_one_line(project, manifest, said):
    path = project / "src/tiny/lcm_backend.toml"
    path.unlink() if manifest is None else path.write_text(manifest)
    assert said in refusal(run(project, "build_kernels"))
