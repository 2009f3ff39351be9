"""Packages of Debian's for another architecture or of another release: fetched, unpacked, not installed."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@contextmanager
def fetched(*packages: str, architecture: str = "", release: str = "") -> Iterator[list[Path]]:
    """The packages, with all that they depend on; of a release, if one is named, the packages alone.

    apt does it with a state of its own: signatures are checked as always, and no rights are needed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        state = Path(temporary)
        for inside in ("lists/partial", "cache/archives/partial"):
            (state / inside).mkdir(parents=True)
        (state / "status").touch()
        options = {
            "Dir::State": state, "Dir::State::lists": state / "lists",
            "Dir::State::status": state / "status", "Dir::Cache": state / "cache",
            "Acquire::Languages": "none", "APT::Install-Recommends": "0",
            "APT::Sandbox::User": "", "Debug::NoLocking": "1",
        }  # fmt: skip
        if architecture:
            options |= {"APT::Architecture": architecture, "APT::Architectures": architecture}
        if release:
            source = state / "source.list"
            source.write_text(f"deb [signed-by={KEYRING}] {mirror()} {release} main\n")
            options |= {"Dir::Etc::sourcelist": source, "Dir::Etc::sourceparts": "/dev/null"}
        apt = ["apt-get", "-qq", "-y", *(f"-o{name}={value}" for name, value in options.items())]
        how = ["download"] if release else ["--download-only", "install"]
        for command in ["update"], [*how, *packages]:
            subprocess.run([*apt, *command], check=True, stdout=subprocess.DEVNULL, cwd=state)
        yield sorted(state.rglob("*.deb"))


def mirror() -> str:
    """Where this machine's packages come from."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return said.split()[0]


def unpack(package: Path, root: Path, *only: str) -> None:
    """Put the package's files, or some of them, under a folder, documentation left out."""
    taken = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", package], check=True, stdout=subprocess.PIPE
    ).stdout
    options = ["--keep-directory-symlink", "--exclude=./usr/share/*", "--exclude=*/gconv/*"]
    subprocess.run(["tar", "-x", "-C", root, *options, *only], check=True, input=taken)
