"""Folders of images, on disk or inside a zip file, and files that a list names, looked up in one way by every reader."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from hat.data.archives import list_members
from hat.data.images import IMAGE_SUFFIXES
from hat.errors import DataError

_MAX_ARCHIVES_IN_FOLDER = 64
_MAX_WRAPPERS = 2

# By `plain_name`: what systems and network drives put into folders.
_SYSTEM_FOLDERS = frozenset(
    {"eadir", "recyclebin", "recycle", "systemvolumeinformation", "lostfound", "macosx", "snapshot", "pycache"}
)
_SIDECAR_SUFFIXES = (
    ".txt",
    ".md",
    ".json",
    ".csv",
    ".mat",
    ".xml",
    ".yaml",
    ".yml",
    ".html",
    ".pdf",
    ".db",
    ".ini",
    ".zip",
    ".npy",
)


class ImageTree(Protocol):
    """A folder with sub-folders and image files."""

    @property
    def where(self) -> str:
        """The folder's path or location, for messages."""
        ...

    @property
    def name(self) -> str:
        """The folder's own name."""
        ...

    def folders(self) -> list[str]:
        """Return names of the sub-folders, sorted."""
        ...

    def child(self, name: str) -> ImageTree:
        """Return the sub-folder of a name that `folders` gave."""
        ...

    def images(self) -> list[tuple[str, str]]:
        """(file name, location) of the images directly in this folder, sorted by name."""
        ...

    def unread(self) -> list[str]:
        """Return names of files here that are neither images nor texts, and of links that lead nowhere, sorted."""
        ...


class FolderTree:
    """A folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def where(self) -> str:
        """The folder's path."""
        return str(self.path)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name or self.path.resolve().name

    def folders(self) -> list[str]:
        """Return names of the sub-folders, sorted; hidden ones are left out."""
        return sorted(entry.name for entry in self._scan() if not _is_system_name(entry.name) and entry.is_dir())

    def child(self, name: str) -> FolderTree:
        """Return the sub-folder of that name."""
        return FolderTree(self.path / name)

    def images(self) -> list[tuple[str, str]]:
        """(file name, path) of the images directly in this folder, sorted by name."""
        names = sorted(entry.name for entry in self._scan() if is_image_name(entry.name) and entry.is_file())
        return [(name, str(self.path / name)) for name in names]

    def unread(self) -> list[str]:
        """Return names of files here that are neither images nor texts, and of links that lead nowhere, sorted."""
        return sorted(
            entry.name
            for entry in self._scan()
            if not entry.is_dir() and not (is_image_name(entry.name) and entry.is_file()) and not _is_sidecar(entry.name)
        )

    def archives(self) -> list[Path]:
        """Return the zip files directly in this folder, sorted by name."""
        names = sorted(entry.name for entry in self._scan() if entry.name.lower().endswith(".zip") and entry.is_file())
        return [self.path / name for name in names[:_MAX_ARCHIVES_IN_FOLDER]]

    def _scan(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.path) as entries:
                return list(entries)
        except OSError as error:
            raise DataError(f"{self.path}: the folder cannot be listed ({error.strerror})") from None


class ZipTree:
    """A folder inside a zip file.

    Args:
        archive: The zip file.
        files: File names by folder; None lists the archive.
        prefix: The folder inside the archive, without a slash at its ends; empty for the top.

    Raises:
        DataError: The archive cannot be read.
    """

    def __init__(self, archive: Path, files: dict[str, list[str]] | None = None, prefix: str = "") -> None:
        self.archive = archive
        self.prefix = prefix
        self._files = _files_by_folder(list_members(archive)) if files is None else files

    @property
    def where(self) -> str:
        """``archive.zip!folder``, or the archive's path for its top."""
        return f"{self.archive}!{self.prefix}" if self.prefix else str(self.archive)

    @property
    def name(self) -> str:
        """The folder's own name; the archive's without its ending for the top."""
        return self.prefix.rpartition("/")[2] if self.prefix else self.archive.stem

    def folders(self) -> list[str]:
        """Return names of the sub-folders, sorted; hidden ones are left out."""
        start = f"{self.prefix}/" if self.prefix else ""
        below = {folder[len(start) :].partition("/")[0] for folder in self._files if folder.startswith(start)}
        return sorted(name for name in below if name and not _is_system_name(name))

    def child(self, name: str) -> ZipTree:
        """Return the sub-folder of that name."""
        return ZipTree(self.archive, self._files, f"{self.prefix}/{name}" if self.prefix else name)

    def images(self) -> list[tuple[str, str]]:
        """(file name, location) of the images directly in this folder, sorted by name."""
        start = f"{self.archive}!{self.prefix}/" if self.prefix else f"{self.archive}!"
        return [(name, start + name) for name in sorted(self._files.get(self.prefix, [])) if is_image_name(name)]

    def unread(self) -> list[str]:
        """Return names of files directly in this folder that are neither images nor texts, sorted."""
        names = self._files.get(self.prefix, [])
        return sorted(name for name in names if not is_image_name(name) and not _is_sidecar(name))


def is_image_name(name: str) -> bool:
    """Return whether a file name is taken for an image's: by its ending, and not hidden (``._x.jpg`` is a Mac's side file)."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def _is_system_name(name: str) -> bool:
    return name.startswith(".") or plain_name(name) in _SYSTEM_FOLDERS


def _is_sidecar(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(_SIDECAR_SUFFIXES)


def find_child(tree: ImageTree, names: Collection[str]) -> ImageTree | None:
    """Return the sub-folder with the first of these names that is there, written in any case; None where none is."""
    by_name = {name.lower(): name for name in reversed(tree.folders())}
    return next((tree.child(by_name[name]) for name in names if name in by_name), None)


def unwrap(tree: ImageTree) -> ImageTree:
    """Return the folder inside folders that hold nothing else, as unpacked archives do, at most `_MAX_WRAPPERS` levels down.

    An only folder that holds images itself is no wrapper.
    """
    for _ in range(_MAX_WRAPPERS):
        names = tree.folders()
        if len(names) != 1 or tree.images() or tree.child(names[0]).images():
            break
        tree = tree.child(names[0])
    return tree


def describe_unread(trees: Iterable[ImageTree]) -> tuple[str, ...]:
    """Return a note on the files that are not read in these folders, by ending, or nothing."""
    names = [name for tree in trees for name in tree.unread()]
    if not names:
        return ()
    endings = Counter(Path(name).suffix.lower() or "no ending" for name in names)
    counts = ", ".join(
        f"{count:,} {'broken link to ' if ending in IMAGE_SUFFIXES else ''}{ending}" for ending, count in endings.most_common(5)
    )
    return (f"{len(names):,} files are not read ({counts}), such as {names[0]}",)


def plain_name(name: str) -> str:
    """Return a name as it is compared: lower case, letters and digits alone, so that ``CUHK03-NP`` is ``cuhk03_np``."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def has_name(tree: ImageTree, official: Collection[str]) -> bool:
    """Return whether a folder's own name is one of these, given as `plain_name` gives them."""
    return plain_name(tree.name) in official


def open_tree(root: Path) -> FolderTree | ZipTree:
    """Return a folder or a zip file as a tree.

    Raises:
        DataError: There is neither a folder nor a zip file.
    """
    if root.is_dir():
        return FolderTree(root)
    if root.is_file() and root.name.lower().endswith(".zip"):
        return ZipTree(root)
    if root.exists():
        raise DataError(f"{root}: neither a folder nor a zip file")
    raise DataError(f"{root}: there is no such folder")


def find_trees(root: Path, official: Collection[str]) -> Iterator[ImageTree]:
    """Yield the folders in which a data set may lie, the likeliest first.

    Those are ``root`` itself; folders of an official name up to two levels below it; and, where ``root`` is a folder, folders
    of an official name inside the zip files that it holds.

    Args:
        root: What the user named: a folder or a zip file.
        official: Names of the data set's own folder, as `plain_name` gives them.

    Raises:
        DataError: ``root`` is neither a folder nor a zip file.
    """
    tree = open_tree(root)
    yield tree
    yield from _named_below(tree, official)
    if isinstance(tree, FolderTree):
        for archive in tree.archives():
            yield from _named_below(ZipTree(archive), official)


def _named_below(tree: ImageTree, official: Collection[str]) -> Iterator[ImageTree]:
    for name in tree.folders():
        child = tree.child(name)
        if has_name(child, official):
            yield child
            yield from (child.child(inner) for inner in child.folders() if plain_name(inner) in official)


def _files_by_folder(members: list[str]) -> dict[str, list[str]]:
    """Group members by folder; absolute, climbing and backslashed names are no part of any data set and are left out."""
    grouped: dict[str, list[str]] = {}
    for member in members:
        parts = member.split("/")
        if "\\" in member or any(part in ("", ".", "..") for part in parts):
            continue
        grouped.setdefault("/".join(parts[:-1]), []).append(parts[-1])
    return grouped


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
        """Return the path of a file, or None where it is missing.

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
        """Return a note on the missing files, or nothing."""
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
