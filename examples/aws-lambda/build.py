"""Build what AWS Lambda runs on arm64: a folder for a container's image, and the same as a zip.

    python tools/cross.py wheels --platform manylinux_2_17_aarch64    our wheels, with kernels
    python examples/aws-lambda/build.py wheels     build/package and build/function.zip, beside this file

Dependencies come as wheels for aarch64, whatever machine this is; nothing of them is run. The model is the
one in the box, or any other that `lcm quantize` takes, in q8_0.
"""

import argparse
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MOST_UNZIPPED = 250 * 2**20  # of a function's code, Lambda takes no more
MOST_DIRECT = 50 * 2**20  # of a zip that is uploaded directly; a larger one goes through S3
GLIBC = range(17, 35)  # 2.17 to 2.34, which Amazon Linux 2023 has
PLUGINS = ("lcm_neon", "lcm_sve")
LEFT_OUT = ("tests", "__pycache__", "*.pyi", "bin", "direct_url.json")


def main() -> None:
    """Build the folder, then the zip; end with one line where it is too large."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("wheels", type=Path, help="a folder with lcm's wheel, and those of plugins")
    parser.add_argument("--out", type=Path, default=HERE / "build", help="where the results go")
    parser.add_argument("--model", default="tinycode", help="a model that lcm quantize takes")
    parser.add_argument("--python", default="3.12", help="the version of the function's runtime")
    given = parser.parse_args()
    package = given.out / "package"
    shutil.rmtree(package, ignore_errors=True)
    install(ours(given.wheels), package, given.python)
    quantize(given.model, package / "model.gguf")
    compile_modules(package, given.python)
    archive = given.out / "function.zip"
    unzipped = write_zip(package, archive)
    say(archive, unzipped)


def ours(folder: Path) -> list[Path]:
    """Our wheels that run on aarch64: the core and the kernels that are there."""
    core = sorted(folder.glob("lcm-*-none-any.whl"))
    if not core:
        sys.exit(f"{folder}: there is no wheel of lcm; make it: python tools/build.py {folder}")
    found = {name: sorted(folder.glob(f"{name}-*aarch64.whl")) for name in PLUGINS}
    if missing := [name for name, wheels in found.items() if not wheels]:
        print(
            f"{folder}: no wheel for aarch64 of {', '.join(missing)}: its kernels will not be there"
        )
    return [core[-1], *(wheels[-1] for wheels in found.values() if wheels)]


def install(wheels: list[Path], package: Path, python: str) -> None:
    """The wheels and what they need, for aarch64 and that version of Python."""
    tags = ("manylinux2014", "linux", *(f"manylinux_2_{minor}" for minor in GLIBC))
    platforms = [part for tag in tags for part in ("--platform", f"{tag}_aarch64")]
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--target", package, "--only-binary", ":all:", "--no-compile",
        "--implementation", "cp", "--python-version", python, *platforms, *wheels,
    )  # fmt: skip
    for pattern in LEFT_OUT:
        for path in sorted(package.rglob(pattern), reverse=True):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def quantize(model: str, to: Path) -> None:
    """The model in int8, by the lcm that is installed here."""
    lcm = shutil.which("lcm", path=str(Path(sys.executable).parent)) or "lcm"
    run(lcm, "quantize", model, to, "--format", "q8_0")


def compile_modules(package: Path, python: str) -> None:
    """Modules as the function's Python reads them: it cannot write them, and would compile at each start.

    They are not compared with their sources, whose times a zip does not keep.
    """
    here = "{}.{}".format(*sys.version_info[:2])
    name = sys.executable if here == python else f"python{python}"
    compiled = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(package))
    try:
        done = (
            subprocess.run([name, *compiled], stderr=subprocess.DEVNULL, check=False).returncode
            == 0
        )
    except OSError:
        done = False
    if not done:
        print(f"no python{python} here: modules are not compiled, and each start will take longer")


def write_zip(package: Path, archive: Path) -> int:
    """The folder as a zip, the same for the same files; the size of what is in it."""
    size = 0
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for path in sorted(path for path in package.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(package).as_posix())
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, path.read_bytes())
            size += path.stat().st_size
    return size


def say(archive: Path, unzipped: int) -> None:
    """Both sizes; an exit where Lambda would refuse them."""
    zipped = archive.stat().st_size
    way = "can be uploaded directly" if zipped <= MOST_DIRECT else "has to go through S3"
    print(f"{archive}: {zipped / 1e6:.1f} MB, {unzipped / 1e6:.1f} MB unzipped; {way}")
    if unzipped > MOST_UNZIPPED:
        sys.exit(
            f"{archive}: Lambda takes {MOST_UNZIPPED / 1e6:.0f} MB unzipped; use a container's image"
        )


def run(*command: object) -> None:
    """Run it; end with its exit code where it fails."""
    done = subprocess.run([str(part) for part in command], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
