"""Files and folders that appear whole or not at all, whatever happens while they are written.

A file is written beside its target, under a name that nobody reads, made durable, and renamed.
A folder is filled the same way; where an old one stands, that is first renamed aside. For this one
instant the old one lies under its aside name, and `recover_folder` puts it back after a kill there.

Whoever writes holds a lock on what it writes, so the next save can tell a leftover from a save that
is still running, and removes only the leftover.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lcm.errors import FileError

NEW = ".lcm-new"  # a file or folder that is being written
OLD = ".lcm-old"  # a folder that is being replaced
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(
    path: str | Path, writer: Callable[[BinaryIO], object], *, flush: bool = True
) -> None:
    """Make `writer` write the file `path`; on any error the file from before stays as it was.

    Without `flush` it may be lost or damaged when the machine stops before it is on the disk.
    """
    path = Path(os.path.abspath(path))
    with _one_line_errors(path), _claimed(path, Path.touch) as new:
        with new.open("wb") as file:
            writer(file)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        new.rename(path)
        if flush:
            _sync(path.parent)


def write_folder_atomically(path: str | Path, fill: Callable[[Path], object]) -> None:
    """Make `fill` fill a new folder, and put it in the place of `path` and of all that is there.

    A folder that shares no name with the new one is somebody else's, and is refused.
    """
    path = Path(os.path.abspath(path))
    with _one_line_errors(path), _claimed(path, Path.mkdir) as new:
        fill(new)
        _check_replaceable(path, new)
        _sync_tree(new)
        _swap(new, path)


def recover_folder(path: str | Path) -> Path:
    """Undo a swap that a kill cut in two; call this before reading a folder saved this way."""
    path = Path(path)
    aside = _aside(path)
    if not path.exists() and aside.exists():
        with _one_line_errors(path), _locked(path.parent):
            if not path.exists() and aside.exists():  # not if we waited for a living save
                aside.rename(path)
                _sync(path.parent)
    return path


def remove_abandoned(folder: Path) -> None:
    """Remove the files there that processes were writing when they were killed."""
    with _one_line_errors(folder), _locked(folder):
        _remove_leftovers(folder, ".")


@contextmanager
def _claimed(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """A new file or folder beside `path`, locked while it is written, gone at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _new_name(path)
    with _locked(path.parent):  # a save that starts now must not see it before it is locked
        _remove_leftovers(path.parent, f".{path.name}.")
        create(new)
        descriptor = os.open(new, os.O_RDONLY)
        _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield new
    finally:
        _remove(new)
        os.close(descriptor)


def _swap(new: Path, path: Path) -> None:
    aside = _aside(path)
    with _locked(path.parent):
        if path.exists():
            _discard(aside, path)
            path.rename(aside)
        new.rename(path)
        _sync(path.parent)
        _discard(aside, path)


def _check_replaceable(path: Path, new: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise FileError(f"{path}: is a file, and a folder should be written there; move it away")
    old = set(os.listdir(path))
    if old and not old & set(os.listdir(new)):
        raise FileError(f"{path}: holds other things ({min(old)}, …); choose a new or empty folder")


# Names -------------------------------------------------------------------------------------------


def _new_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{NEW}")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{OLD}")


def _remove_leftovers(folder: Path, prefix: str) -> None:
    for name in os.listdir(folder):
        if name.startswith(prefix) and name.endswith(NEW):
            leftover = folder / name
            with suppress(OSError):  # gone meanwhile, or not ours to remove
                if _is_abandoned(leftover):
                    _remove(leftover)


def _is_abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _discard(aside: Path, path: Path) -> None:
    """Remove the old folder, first from its name: half of it must never be put back."""
    if aside.exists():
        rubbish = aside.rename(_new_name(path))
        _remove(rubbish)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# Locks, durability, errors -----------------------------------------------------------------------


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if folder.name.endswith(NEW):  # is being filled by this very save, which holds its lock
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True


def take_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False if another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_SPACE:
            raise _refusal(path, error.__cause__) from error.__cause__  # of a file in this folder
        raise
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> FileError:
    reason = error.strerror or str(error)
    if error.errno in NO_SPACE:
        return FileError(
            f"{path}: no space left ({reason}); what was there before is untouched; "
            f"free some space or choose another folder"
        )
    where = "" if error.filename in (None, str(path)) else f" ({error.filename})"
    return FileError(f"{path}: cannot be written: {reason}{where}")
