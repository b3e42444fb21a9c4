"""Files that a list names: which of them exist, and names that must not be followed."""

from __future__ import annotations

import os
from pathlib import Path

from hat.errors import DataError

__all__ = ["ListedFiles"]


class ListedFiles:
    """Looks up the files of a list below one folder, and remembers those that are missing.

    Folders are listed once each: asking for every file of a hundred thousand by itself takes minutes on a network disk.

    Args:
        folder: The folder that the names are relative to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []
        self._names: dict[str, frozenset[str]] = {}

    def find(self, relative: str, where: str) -> str | None:
        """The path of a file, or None where it is missing.

        Args:
            relative: Its path in the list, with forward slashes.
            where: The place in the list, for the error message.

        Raises:
            DataError: The name is absolute or climbs out of the folder.
        """
        parts = relative.split("/")
        if "\\" in relative or "\0" in relative or any(part in ("", ".", "..") for part in parts):
            raise DataError(f"{where}: {relative!r} leads out of {self.folder}")
        parent = "/".join(parts[:-1])
        if parent not in self._names:
            self._names[parent] = _list_names(self.folder / parent)
        if parts[-1] in self._names[parent]:
            return str(self.folder / relative)
        self.missing.append(relative)
        return None

    def note(self) -> tuple[str, ...]:
        """A note on the missing files, or nothing."""
        if not self.missing:
            return ()
        return (f"{len(self.missing):,} listed images are not in {self.folder}, the first is {self.missing[0]}",)


def _list_names(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be listed ({error.strerror})") from None
