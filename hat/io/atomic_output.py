"""Files and folders that appear whole or not at all."""

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hat.errors import UsageError, WorkError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make an error of the system, while a path is written, a `WorkError` that names it."""
    try:
        yield
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextmanager
def encodable(path: Path) -> Iterator[None]:
    """Make a name that no text can hold, since names on disk may be any bytes, a `WorkError` while a text is written."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise WorkError(f"{path}: cannot be written: {error.object!r:.200} is no valid Unicode: rename it") from None


@contextmanager
def atomic_output(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a file under a temporary folder beside its place, and move it there when it is complete.

    The body writes to the path that is yielded. Whatever else it puts beside that (external data, sidecars) is moved along
    under its own name, the named file last. When it raises, or the process is killed, nothing appears at the place; the next
    call for the same place clears what a killed one left. A file that is there and not to be replaced, or a folder that is not
    there, is a `UsageError`; no permission or a full disk a `WorkError`.
    """
    check_output(path, overwrite=overwrite)
    with _temporary_folder(path) as folder:
        yield folder / path.name
        check_output(path, overwrite=overwrite)  # again: somebody else may have been first
        produced = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        if folder / path.name not in produced:
            raise WorkError(f"{path}: nothing was written")
        for file in produced:
            flush_to_disk(file)
            file.replace(path.with_name(file.name))


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse, before the work, a file that could not be written after it: there already, or in no folder (`UsageError`)."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already: give another name, or --force to replace it")
    check_parent(path)


def check_parent(path: Path) -> None:
    """Refuse a file that would be in no folder (`UsageError`)."""
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder: make it first")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file, or replace one, as `atomic_output` does."""
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_bytes(content)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside a place, in which what belongs there is written first, and remove it at the end."""
    check_parent(path)
    clear_leftovers(path)
    with writing(path):
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        lock = _lock(folder)
        try:
            yield folder
        finally:
            if lock is not None:
                os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> int | None:
    """Hold a temporary folder, so that others see that its process lives; the system releases it however the process ends.

    Returned is the descriptor that holds it; None where another process or user does, or where the system has no such locks.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def clear_leftovers(path: Path) -> None:
    """Remove temporary folders for the same place whose process is gone."""
    random = "[!.]" * 8  # what mkdtemp puts between; the folder of a longer name has a dot there
    for folder in path.parent.glob(f".{glob.escape(path.name)}.{random}.part"):
        if folder.is_symlink() or not folder.is_dir() or (lock := _lock(folder)) is None:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def flush_to_disk(path: Path) -> None:
    """Make sure that a file's content is on the disk before its name is; what is no file is left alone."""
    if path.is_file():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


METADATA_FILE = "hat_reid.json"
"""Metadata file of every exported folder; a folder without it was not made by this package."""


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False, marker: str = METADATA_FILE, flush: bool = True) -> Iterator[Path]:
    """Fill an empty folder, which is yielded, beside its place, and move it there when it is complete.

    When the body raises nothing appears at the place, and what was there stays. When the process is killed (SIGKILL) between
    taking the old folder away and putting the new one, the place is empty. ``overwrite`` replaces a folder that is empty or was
    made by this package, which its ``marker`` shows; any other is never touched. Errors are those of `atomic_output`. Thousands
    of small files are written sooner without ``flush``, which waits for the disk after each.
    """
    _check_folder(path, overwrite, marker)
    with _temporary_folder(path) as around:
        folder, replaced = around / path.name, around / "replaced"
        folder.mkdir()
        yield folder
        if not (folder / marker).is_file():
            raise WorkError(f"{path}: nothing was written")
        for file in folder.rglob("*") if flush else ():
            flush_to_disk(file)
        _check_folder(path, overwrite, marker)  # again: somebody else may have been first
        try:
            if path.exists():
                path.rename(replaced)
            folder.rename(path)
        except BaseException:
            if replaced.exists() and not path.exists():
                replaced.rename(path)
            raise


def _check_folder(path: Path, overwrite: bool, marker: str) -> None:
    if path.exists() or path.is_symlink():
        if not overwrite:
            raise UsageError(f"{path} is there already: give another name, or --force to replace it")
        if path.is_symlink() or not path.is_dir() or (any(path.iterdir()) and not (path / marker).is_file()):
            raise UsageError(f"{path} was not made by this package and is never replaced: give another name")
