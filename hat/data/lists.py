"""Lists that stand beside a benchmark's images: MATLAB files, lines of text, and the files that they name."""

import math
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hat.data.image_trees import FolderTree, leads_out
from hat.errors import DataError, MissingExtraError

_MAX_LIST_BYTES = 64 * 2**20
_MAX_MAT_ENTRIES = 4_000_000
_BROKEN_MAT = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, zlib.error)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text; a `DataError` where it is not there, too large or not UTF-8."""
    try:
        _check_size(path)
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list cannot be read ({error})") from None


def load_mat(path: Path, names: Collection[str], *, max_entries: int = _MAX_MAT_ENTRIES) -> dict[str, Any]:
    """Return variables of a MATLAB file as arrays, bounded by what the file claims of them before any is taken in.

    A `DataError` where the file is not there, broken or too large, or a variable is missing or has more than ``max_entries``.
    """
    try:
        from scipy.io import loadmat, whosmat
        from scipy.io.matlab import MatReadError
    except ImportError:
        raise MissingExtraError("scipy", "cuhk03", "the .mat files of CUHK03 and MARS") from None
    try:
        _check_size(path)
        sizes = {name: math.prod(shape) for name, shape, _ in whosmat(str(path))}
        missing = [name for name in names if name not in sizes]
        if missing:
            raise DataError(f"{path}: expected the variables {', '.join(names)}; {', '.join(missing)} missing")
        if any(sizes[name] > max_entries for name in names):
            raise DataError(f"{path}: a variable has over {max_entries:,} entries, so this is no list of a data set")
        return dict(loadmat(str(path), variable_names=list(names)))
    except (MatReadError, *_BROKEN_MAT) as error:
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error})") from None


def _check_size(path: Path) -> None:
    if path.stat().st_size > _MAX_LIST_BYTES:
        raise DataError(f"{path}: larger than {_MAX_LIST_BYTES:,} bytes, so no list of a data set")


class ListedFiles:
    """The files of a list below one folder, looked up; ``missing`` are those that are not there.

    Folders are listed once each: asking for every file of a hundred thousand by itself takes minutes on a network disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []
        self._names: dict[str, frozenset[str]] = {}

    def find(self, relative: str, where: str) -> str | None:
        """Return the path of a file, or None where it is missing.

        A `DataError`, which begins with ``where`` in the list it stands, if its name is absolute or climbs out of the folder.
        """
        if leads_out(relative):
            raise DataError(f"{where}: {relative!r} leads out of {self.folder}")
        parent, _, name = relative.rpartition("/")
        if parent not in self._names:
            folder = self.folder / parent
            self._names[parent] = frozenset(FolderTree(folder).content.files if folder.exists() else ())
        if name in self._names[parent]:
            return str(self.folder / relative)
        self.missing.append(relative)
        return None

    def note(self) -> tuple[str, ...]:
        """Return a note on the missing files, or nothing."""
        if not self.missing:
            return ()
        return (f"{len(self.missing):,} listed images are not in {self.folder}, the first is {self.missing[0]}",)
