"""Folders that appear whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hat.errors import UsageError, WorkError

from .atomic_output import flush_to_disk

FACTS_FILE = "hat_reid.json"
"""Every folder that is exported has this file, with the facts about itself: what has none was made by somebody else."""


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Fill a folder beside its place, and move it there when it is complete.

    When the body raises nothing appears at the place, and what was there stays. When the process is killed between taking the
    old folder away and putting the new one, the place is empty.

    Args:
        path: The folder's final place.
        overwrite: Replace a folder that is there, if it was exported by this package. Any other is never touched.

    Yields:
        An empty folder of the same name.

    Raises:
        UsageError: Something is there that is not to be replaced, or the folder around it is not there.
        WorkError: It cannot be written: no permission, or a full disk.
    """
    if path.exists() or path.is_symlink():
        if not overwrite:
            raise UsageError(f"{path} is there already: give another name, or --force to replace it")
        if path.is_symlink() or not (path / FACTS_FILE).is_file():
            raise UsageError(f"{path} was not made by hat export and is never replaced: give another name")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder: make it first")
    try:
        around = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror or error}") from None
    try:
        folder = around / path.name
        folder.mkdir()
        yield folder
        if not (folder / FACTS_FILE).is_file():
            raise WorkError(f"{path}: nothing was written")
        for file in folder.rglob("*"):
            flush_to_disk(file)
        if path.exists():
            path.rename(around / "replaced")
        folder.rename(path)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(around, ignore_errors=True)
