"""Compile the kernels into a plain shared library, inside the package; the rest is in pyproject.toml."""

import os
import shlex
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

import lcm


class BuildWithKernels(build_py):
    """Copy the Python files, then put the library beside them."""

    def run(self):
        super().run()
        compile_kernels(Path(self.build_lib, "lcm_example", "kernels.so"))


class PlatformWheel(bdist_wheel):
    """The library is for one platform, but for every Python: it knows nothing of Python."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


def compile_kernels(library):
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = [
        "-std=c11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
    ]
    command = [*compiler, *flags, f"-I{lcm.include_dir()}", "-o", library, "kernels.c", "-lm"]
    try:
        subprocess.run(command, check=True)
    except OSError:
        name = compiler[0]
        raise SystemExit(
            f"cannot be built here: no C compiler {name!r}; install one, or set CC"
        ) from None
    except subprocess.CalledProcessError:
        raise SystemExit("kernels.c does not compile; the compiler's reason is above") from None


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel})
