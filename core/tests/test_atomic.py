"""Saving survives kills at any moment and full disks."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lcm.errors import FileError
from lcm.files.atomic import recover_folder, write_atomically, write_folder_atomically

# Saves on and on; a save is whole when its files are full of one and the same digit.
SAVER = """
import itertools, sys
from pathlib import Path
from lcm.files.atomic import write_atomically, write_folder_atomically

def fill(folder, digit):
    (folder / "inner").mkdir()
    for name in ("weights", "state", "inner/note"):
        (folder / name).write_bytes(digit * 20000)

target = Path(sys.argv[1])
for n in itertools.count():
    digit = b"%d" % (n % 10)
    if target.name == "file":
        write_atomically(target, lambda file: [file.write(digit * 10000) for _ in range(6)])
    else:
        write_folder_atomically(target, lambda folder: fill(folder, digit))
    print(n, flush=True)
"""


def start_saver(target: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", SAVER, str(target)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline()  # the first save is done
    return child


def content(target: Path) -> bytes:
    if target.is_file():
        return target.read_bytes()
    return b"".join((target / name).read_bytes() for name in ("weights", "state", "inner/note"))


@pytest.mark.parametrize("name", ["file", "folder"])
def test_a_save_killed_at_any_moment_leaves_the_old_or_the_new_whole(tmp_path, name):
    target = tmp_path / name
    chance = random.Random(0)
    for _ in range(12):
        child = start_saver(target)
        time.sleep(chance.uniform(0, 0.01))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        recover_folder(target)
        found = content(target)
        assert len(found) == 60000
        assert len(set(found)) == 1
    if name == "file":
        write_atomically(target, lambda file: file.write(b"last"))
    else:
        write_folder_atomically(target, lambda folder: (folder / "state").touch())
    assert os.listdir(tmp_path) == [name]


def test_a_kill_between_the_two_renames_is_undone_by_recover_and_by_the_next_save(tmp_path):
    target = tmp_path / "folder"
    aside = tmp_path / ".folder.lcm-old"
    for recover in (recover_folder, lambda path: write_folder_atomically(path, fill_with("new"))):
        aside.mkdir()
        (aside / "state").write_text("old")
        (tmp_path / ".folder.0123abcd.lcm-new").mkdir()
        recover(target)
        assert (target / "state").read_text() == ("old" if recover is recover_folder else "new")
        write_folder_atomically(target, fill_with("newer"))
        assert os.listdir(tmp_path) == ["folder"]
        (target / "state").unlink()
        target.rmdir()


def fill_with(text):
    return lambda folder: (folder / "state").write_text(text)


def test_a_kill_after_the_second_rename_leaves_nothing_for_long(tmp_path):
    for name in ("folder", ".folder.lcm-old"):
        write_folder_atomically(tmp_path / name, fill_with(name))
    assert (recover_folder(tmp_path / "folder") / "state").read_text() == "folder"
    write_folder_atomically(tmp_path / "folder", fill_with("new"))
    assert os.listdir(tmp_path) == ["folder"]
    assert (tmp_path / "folder/state").read_text() == "new"


def test_a_failing_writer_leaves_the_old_and_no_trace(tmp_path):
    write_atomically(tmp_path / "file", lambda file: file.write(b"old"))
    write_folder_atomically(tmp_path / "folder", fill_with("old"))

    def fail(target):
        if isinstance(target, Path):
            (target / "state").write_text("new")
        else:
            target.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", fail)
    with pytest.raises(KeyboardInterrupt):
        write_folder_atomically(tmp_path / "folder", fail)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/state").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_save_that_still_runs_is_no_leftover(tmp_path):
    def outer(file):
        write_atomically(tmp_path / "file", lambda inner: inner.write(b"inner"))
        assert (tmp_path / "file").read_text() == "inner"
        file.write(b"outer")

    write_atomically(tmp_path / "file", outer)
    assert (tmp_path / "file").read_text() == "outer"


def test_a_folder_can_be_filled_with_files_that_are_themselves_saved_atomically(tmp_path):
    def fill(folder):
        write_atomically(folder / "state", lambda file: file.write(b"new"))
        write_folder_atomically(folder / "inner", fill_with("inner"))
        write_atomically(folder / "inner/more", lambda file: file.write(b"more"))

    for _ in range(2):
        write_folder_atomically(tmp_path / "folder", fill)
    assert (tmp_path / "folder/state").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "folder/inner")) == ["more", "state"]


def test_somebody_elses_folder_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").touch()
    with pytest.raises(FileError, match="holds other things"):
        write_folder_atomically(tmp_path / "photos", fill_with("new"))
    assert os.listdir(tmp_path / "photos") == ["holiday.jpg"]
    with pytest.raises(FileError, match="is a file"):
        write_folder_atomically(tmp_path / "photos/holiday.jpg", fill_with("new"))


def test_an_error_of_the_system_is_one_line_that_names_the_target(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file/x: cannot be written: Not a directory|File exists"):
        write_atomically(tmp_path / "file/x", lambda file: None)


@pytest.fixture
def small_disk():
    """No file may grow over 64 KiB; what is over raises EFBIG, where a full disk raises ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_one_line_and_leaves_the_old(tmp_path):
    write_atomically(tmp_path / "file", lambda file: file.write(b"old"))
    write_folder_atomically(tmp_path / "folder", fill_with("old"))
    with pytest.raises(FileError, match=r"^\S+file: no space left"):
        write_atomically(tmp_path / "file", lambda file: file.write(bytes(1 << 17)))
    with pytest.raises(FileError, match=r"^\S+folder: no space left"):
        write_folder_atomically(tmp_path / "folder", fill_with("x" * (1 << 17)))
    with pytest.raises(FileError, match=r"^\S+/folder: no space left"):
        write_folder_atomically(
            tmp_path / "folder",
            lambda new: write_atomically(new / "state", lambda file: file.write(bytes(1 << 17))),
        )
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/state").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
