"""Folders of images, on disk or inside a zip file, and the lists beside them, looked at in one way by every reader."""

from __future__ import annotations

import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hat.data.archives import list_members
from hat.data.images import IMAGE_SUFFIXES
from hat.errors import DataError, MissingExtraError

_MAX_ARCHIVES_IN_FOLDER = 64
_MAX_WRAPPERS = 2
_MAX_DEPTH = 64  # of folders in an archive; a hostile name could have thirty thousand
_MAX_LIST_BYTES = 64 * 2**20
_MAX_MAT_ENTRIES = 4_000_000
_BROKEN_MAT = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, zlib.error)

# By `plain_name`: what systems and network drives put into folders.
_SYSTEM_FOLDERS = frozenset(
    {"eadir", "recyclebin", "recycle", "systemvolumeinformation", "lostfound", "macosx", "snapshot", "pycache"}
)
_SIDECARS = re.compile(r"\..*|.*\.(txt|md|json|csv|mat|xml|ya?ml|html|pdf|db|ini|zip|npy)", re.IGNORECASE | re.DOTALL)


@dataclass
class Content:
    """What lies directly in a folder: sub-folders, names of files, and of links that lead nowhere, pipes and the like."""

    folders: dict[str, Content] = field(default_factory=dict)  # empty ones where a folder is listed only when it is asked for
    files: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class ImageTree:
    """A folder with sub-folders and image files: a `FolderTree` on disk, a `ZipTree` inside a zip file.

    ``where`` is its path, or ``archive.zip!folder``; ``name`` its own name; ``prefix`` what stands before a file's name in the
    file's location.
    """

    where: str
    name: str
    prefix: str

    @cached_property
    def content(self) -> Content:
        """What lies directly in the folder; a `DataError` where it cannot be listed."""
        raise NotImplementedError

    def child(self, name: str) -> ImageTree:
        """Return the sub-folder of a name that `folders` gave."""
        raise NotImplementedError

    def folders(self) -> list[str]:
        """Return names of the sub-folders, sorted; hidden ones and those of systems are left out."""
        names = self.content.folders
        return sorted(name for name in names if not name.startswith(".") and plain_name(name) not in _SYSTEM_FOLDERS)

    def images(self) -> list[tuple[str, str]]:
        """Return (file name, location) of the images directly in this folder, sorted by name."""
        return [(name, self.prefix + name) for name in sorted(self.content.files) if _is_image_name(name)]

    def unread(self) -> list[str]:
        """Return names of files here that are neither images nor texts, and of links that lead nowhere, sorted."""
        names = [name for name in self.content.files if not _is_image_name(name)] + self.content.broken
        return sorted(name for name in names if not _SIDECARS.fullmatch(name))


class FolderTree(ImageTree):
    """A folder on disk, listed when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where, self.prefix = str(path), str(path / "_")[:-1]
        self.name = path.name or path.resolve().name

    def child(self, name: str) -> FolderTree:
        """Return the sub-folder of that name, not listed yet."""
        return FolderTree(self.path / name)

    @cached_property
    def content(self) -> Content:
        """What lies directly in the folder, listed once."""
        content = Content()
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if entry.is_dir():
                        content.folders[entry.name] = Content()
                    else:
                        (content.files if entry.is_file() else content.broken).append(entry.name)
        except OSError as error:
            raise DataError(f"{self.path}: the folder cannot be listed ({error.strerror})") from None
        return content


class ZipTree(ImageTree):
    """A folder inside a zip file; its top to begin with."""

    def __init__(self, archive: Path, folder: str = "", content: Content | None = None) -> None:
        self.archive, self.folder = archive, folder
        self.where = f"{archive}!{folder}" if folder else str(archive)
        self.name = folder.rpartition("/")[2] or archive.stem
        self.prefix = f"{archive}!{folder}/" if folder else f"{archive}!"
        self.content = _group(list_members(archive)) if content is None else content

    def child(self, name: str) -> ZipTree:
        """Return the sub-folder of that name."""
        return ZipTree(self.archive, f"{self.folder}/{name}".lstrip("/"), self.content.folders[name])


def _group(members: list[str]) -> Content:
    """Group members by folder; absolute, climbing and backslashed names are no part of any data set and are left out."""
    top = Content()
    for member in members:
        *folders, name = member.split("/")
        if leads_out(member) or len(folders) > _MAX_DEPTH:
            continue
        place = top
        for folder in folders:
            place = place.folders.setdefault(folder, Content())
        place.files.append(name)
    return top


def leads_out(relative: str) -> bool:
    """Return whether a path with forward slashes is absolute, climbs out of its folder or is written in another way."""
    return "\\" in relative or "\0" in relative or any(part in ("", ".", "..") for part in relative.split("/"))


def _is_image_name(name: str) -> bool:
    """Return whether a name has an image's ending and is not hidden (``._x.jpg`` is a Mac's side file)."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def find_child(tree: ImageTree, names: Collection[str]) -> ImageTree | None:
    """Return the sub-folder with the first of these names that is there, written in any case; None where none is."""
    by_name = {name.lower(): name for name in reversed(tree.folders())}
    return next((tree.child(by_name[name]) for name in names if name in by_name), None)


def unwrap(tree: ImageTree) -> ImageTree:
    """Return the folder inside one or two that hold nothing else, as unpacked archives do, and no images themselves."""
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


def open_tree(root: Path) -> FolderTree | ZipTree:
    """Return a folder or a zip file as a tree; a `DataError` where there is neither."""
    if root.is_dir():
        return FolderTree(root)
    if root.is_file() and root.name.lower().endswith(".zip"):
        return ZipTree(root)
    raise DataError(f"{root}: neither a folder nor a zip file" if root.exists() else f"{root}: there is no such folder")


def find_trees(root: Path, official: Collection[str]) -> Iterator[ImageTree]:
    """Yield the folders in which a data set may lie, the likeliest first.

    Those are ``root`` itself, a folder or a zip file; folders of an ``official`` name (as `plain_name` gives it) up to two
    levels below it; and, where ``root`` is a folder, folders of an official name inside the zip files that it holds.
    """
    tree = open_tree(root)
    yield tree
    yield from _named_below(tree, official)
    if isinstance(tree, FolderTree):
        archives = sorted(name for name in tree.content.files if name.lower().endswith(".zip"))
        for name in archives[:_MAX_ARCHIVES_IN_FOLDER]:
            yield from _named_below(ZipTree(tree.path / name), official)


def _named_below(tree: ImageTree, official: Collection[str]) -> Iterator[ImageTree]:
    for name in tree.folders():
        if plain_name(name) in official:
            child = tree.child(name)
            yield child
            yield from (child.child(inner) for inner in child.folders() if plain_name(inner) in official)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text; a `DataError` where it is not there, too large or not UTF-8."""
    try:
        _check_size(path)
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list cannot be read ({error})") from None


def load_mat(path: Path, names: Collection[str], *, max_entries: int = _MAX_MAT_ENTRIES) -> dict[str, Any]:
    """Return variables of a MATLAB file as arrays, whose sizes are held to ``max_entries`` before any is taken in."""
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
    """The files of a list below one folder, looked up.

    Folders are listed once each: asking for every file of a hundred thousand by itself takes minutes on a network disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []
        self._names: dict[str, frozenset[str]] = {}

    def find(self, relative: str, where: str) -> str | None:
        """Return the path of a file, None where it is missing; ``where`` in the list it stands begins an error's message."""
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
