"""Folders of images, on disk or inside a zip file, looked at in one way by every reader."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hat.data.archives import list_members
from hat.data.images import IMAGE_SUFFIXES
from hat.data.labels import plain_name
from hat.errors import DataError

_MAX_ARCHIVES_IN_FOLDER = 64
_MAX_DEPTH = 64  # of folders in an archive; a hostile name could have thirty thousand

# By `plain_name`: what systems and network drives put into folders.
_SYSTEM_FOLDERS = frozenset(
    {"eadir", "recyclebin", "recycle", "systemvolumeinformation", "lostfound", "macosx", "snapshot", "pycache"}
)
_SIDECARS = re.compile(r"\..*|.*\.(txt|md|json|csv|mat|xml|ya?ml|html|pdf|db|ini|zip|npy)", re.IGNORECASE | re.DOTALL)


@dataclass
class Content:
    """Direct content of a folder: sub-folders, names of files, and of broken links, pipes and the like."""

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
        """Return the direct content of the folder; a `DataError` where it cannot be listed."""
        raise NotImplementedError

    def child(self, name: str) -> ImageTree:
        """Return the sub-folder of a name that `folders` gave."""
        raise NotImplementedError

    def folders(self) -> list[str]:
        """Return names of the sub-folders, sorted; hidden ones and those of systems are left out."""
        shown = (name for name in self.content.folders if not name.startswith("."))
        return sorted(name for name in shown if plain_name(name) not in _SYSTEM_FOLDERS)

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
        """Return the direct content of the folder, listed once."""
        content = Content()
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    try:
                        is_folder, is_file = entry.is_dir(), entry.is_file()
                    except OSError:  # a link that leads to itself
                        is_folder = is_file = False
                    if is_folder:
                        content.folders[entry.name] = Content()
                    else:
                        (content.files if is_file else content.broken).append(entry.name)
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
        node = top
        for folder in folders:
            node = node.folders.setdefault(folder, Content())
        node.files.append(name)
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
    for _ in range(2):
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
