"""What a backend's setup.py needs: C sources become a plain shared library inside the package.

    from setuptools import setup
    from lcm.building import kernels

    setup(**kernels("lcm_neon", "kernels.c", flags=["-march=armv8.2-a+dotprod"]))

The libraries' names, and the processors that they are for, are those of the package's `lcm_backend.toml`.
`pip install`, `pip install --editable` and `python -m build` do the rest; in a checkout,
`python setup.py build_kernels --inplace` compiles anew. CC and CFLAGS are respected.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from setuptools import Command, Distribution
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import CompileError, PlatformError, SetupError

import lcm
from lcm.backend.manifest import Manifest, parse
from lcm.errors import FileError
from lcm.host.record import architecture

# a * b + c may be one instruction, and sqrtf one too; all else, NaN and the order of sums, is as C has it.
FLAGS = (
    "-std=gnu11", "-O3", "-Wall", "-Wextra", "-fno-math-errno", "-ffp-contract=fast",
    "-fPIC", "-shared", "-fvisibility=hidden", "-pthread",
)  # fmt: skip


def kernels(
    package: str, *sources: str, flags: Sequence[str] = (),
    variants: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Arguments for `setup`: building compiles the sources, with flags of their own, into the package.

    Each of the manifest's `variants` is the same sources, with these flags added.
    """
    options = {
        "package": package, "sources": sources, "flags": tuple(flags),
        "variants": {library: tuple(more) for library, more in (variants or {}).items()},
    }  # fmt: skip
    command = type("build_kernels", (BuildKernels,), options)
    commands = {"build": BuildAll, "build_kernels": command, "bdist_wheel": WheelForAnyPython}
    return {"cmdclass": commands, "distclass": ForOnePlatform}


def compile_library(library: Path, sources: Sequence[str], flags: Sequence[str]) -> None:
    """Put the new library in the place of an old one, at one stroke: a process may have that loaded."""
    compiler = _compiler()
    fresh = library.with_name(library.name + ".new")
    options = [*FLAGS, f"-I{lcm.include_dir()}", *shlex.split(os.environ.get("CFLAGS", ""))]
    command = [*compiler, *options, *flags, "-o", str(fresh), *sources, "-lm"]
    print(shlex.join(command), flush=True)
    if subprocess.run(command, check=False).returncode:
        raise CompileError(f"{' '.join(sources)}: does not compile; the compiler's reason is above")
    os.replace(fresh, library)


def check_compiler(architectures: Sequence[str]) -> None:
    """`cannot be built here: …`, unless the compiler makes code for one of these; for none is for any."""
    command = [*_compiler(), "-dumpmachine"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        reason = f"no C compiler {command[0]!r}; install one, or set CC"
        raise PlatformError(f"cannot be built here: {reason}") from None
    machine = done.stdout.strip()
    if architectures and architecture(machine.split("-")[0], bits=64) not in architectures:
        needed, found = " or ".join(architectures), machine or "nothing"
        reason = f"needs a C compiler for {needed}, {command[0]!r} is one for {found}"
        raise PlatformError(f"cannot be built here: {reason}")


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


class BuildKernels(Command):
    """Compile the sources into the libraries that the package's manifest names."""

    description = "compile the kernels into the package"
    user_options: ClassVar = [("inplace", "i", "put the libraries beside the Python files")]
    boolean_options: ClassVar = ["inplace"]

    package: str
    sources: tuple[str, ...]
    flags: tuple[str, ...]
    variants: Mapping[str, tuple[str, ...]]

    editable_mode = False  # setuptools sets it for an editable installation

    def initialize_options(self) -> None:
        self.inplace = False
        self.build_lib: Any = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        check_compiler(self._manifest().arch)
        for name, (built, beside) in self._places().items():
            library = beside if self.inplace or self.editable_mode else built
            library.parent.mkdir(parents=True, exist_ok=True)
            compile_library(library, self.sources, [*self.flags, *self.variants.get(name, ())])

    def get_source_files(self) -> list[str]:
        """The sources, and the headers beside them."""
        folders = sorted({Path(source).parent for source in self.sources})
        return [*self.sources, *(str(path) for f in folders for path in sorted(f.glob("*.h")))]

    def get_outputs(self) -> list[str]:
        return [str(built) for built, _ in self._places().values()]

    def get_output_mapping(self) -> dict[str, str]:
        places = self._places().values() if self.editable_mode else ()
        return {str(built): str(beside) for built, beside in places}

    def _places(self) -> dict[str, tuple[Path, Path]]:
        """Where each library is built for a wheel, and where in the source tree."""
        built, beside = Path(self.build_lib, *self.package.split(".")), self._folder()
        return {name: (built / name, beside / name) for name in self._manifest().libraries}

    def _manifest(self) -> Manifest:
        path = self._folder() / "lcm_backend.toml"
        try:
            manifest = parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, FileError) as error:
            raise SetupError(str(error)) from None
        if not manifest.libraries:
            raise SetupError(f"{path}: names no 'library' for the kernels")
        if set(manifest.variants) != set(self.variants):
            raise SetupError(f"{path}: its variants are not those of setup.py, {[*self.variants]}")
        return manifest

    def _folder(self) -> Path:
        return Path(self.get_finalized_command("build_py").get_package_dir(self.package))


class BuildAll(build):
    """What setuptools builds, and the kernels."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_kernels", None)]


class ForOnePlatform(Distribution):
    """A distribution that is not the same everywhere."""

    def has_ext_modules(self) -> bool:
        return True  # which is how setuptools asks


class WheelForAnyPython(bdist_wheel):
    """The library is for one platform, but for every Python: it knows nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]
