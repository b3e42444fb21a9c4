"""Images inside zip files: ``archive.zip!member/inside.jpg`` names one, and it is read without unpacking.

Each process opens an archive once and its threads share the handle. Members are only ever read into memory, never written, so a
hostile name such as ``../x`` leads nowhere.
"""

import lzma
import os
import re
import threading
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from hat.errors import DataError, ImageError

_MAX_OPEN_ARCHIVES = 8
_BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError, ValueError)


@dataclass
class _OpenArchive:
    """A zip file that is open, with what the file looked like when it was opened."""

    handle: zipfile.ZipFile
    stamp: tuple[int, int, int]
    # Nothing promises that one ZipFile may be read by several threads at once; unpacking is a small part of reading an image.
    lock: threading.Lock = field(default_factory=threading.Lock)


_archives: OrderedDict[str, _OpenArchive] = OrderedDict()
_archives_lock = threading.Lock()


def _forget_archives() -> None:
    """Start again in a forked child, which shares file offsets with its parent and may inherit a lock that nobody releases."""
    global _archives, _archives_lock  # noqa: PLW0603
    _archives = OrderedDict()
    _archives_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_archives)


def split_location(location: str) -> tuple[str, str] | None:
    """Split ``archive.zip!member`` into the archive's path and the member's name.

    Returns:
        ``(archive, member)``, or None for the path of an ordinary file. A path with several ``.zip!`` is split where the left
        part is a file; where none is, at the first.
    """
    parts = [(location[: m.end() - 1], location[m.end() :]) for m in re.finditer(r"\.zip!", location, re.IGNORECASE)]
    return next((split for split in parts if Path(split[0]).is_file()), parts[0] if parts else None)


def list_members(archive: Path) -> list[str]:
    """Return names of the files in a zip file, sorted; folders are left out.

    Raises:
        DataError: The archive cannot be read.
    """
    return sorted(name for name, info in _list(str(archive)).items() if not info.is_dir())


def member_checksum(archive: str, member: str) -> str:
    """Return what tells a member's content from others, as the archive's directory says it; nothing is unpacked.

    Raises:
        DataError: The archive cannot be read or has no such member.
    """
    info = _list(archive).get(member)
    if info is None:
        raise DataError(f"{archive}!{member}: the archive has no such member")
    return f"{info.file_size} {info.CRC:08x}"


def _list(archive: str) -> dict[str, zipfile.ZipInfo]:
    try:
        return _open_archive(archive).handle.NameToInfo
    except (OSError, *_BROKEN_ARCHIVE) as error:
        raise DataError(f"{archive}: cannot be read as a zip file ({error})") from None


def read_member(archive: str, member: str, *, max_bytes: int) -> bytes:
    """Read one member of a zip file into memory.

    Returns:
        The unpacked bytes, at most ``max_bytes`` of them, whose checksum is right.

    Raises:
        ImageError: The archive or the member is missing, broken, encrypted, or larger than ``max_bytes``.
    """
    location = f"{archive}!{member}"
    try:
        opened = _open_archive(archive)
        info = opened.handle.NameToInfo.get(member)
        if info is None:
            raise ImageError(f"{location}: the archive has no such member")
        if info.flag_bits & 0x1:
            raise ImageError(f"{location}: encrypted; unpack the archive first")
        with opened.lock, opened.handle.open(info) as stream:
            # The size in the directory is only a claim, so the stream itself is held to the limit.
            data = stream.read(max_bytes + 1)
    except FileNotFoundError:
        raise ImageError(f"{location}: there is no such archive") from None
    except (OSError, *_BROKEN_ARCHIVE) as error:
        raise ImageError(f"{location}: cannot be unpacked ({error})") from None
    if len(data) > max_bytes:
        raise ImageError(f"{location}: larger than the limit of {max_bytes:,} bytes")
    return data


def _open_archive(path: str) -> _OpenArchive:
    status = Path(path).stat()
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    with _archives_lock:
        opened = _archives.get(path)
        if opened is None or opened.stamp != stamp:
            # A replaced or evicted handle is dropped, not closed: another thread may be reading from it, and the last one
            # closes it.
            opened = _archives[path] = _OpenArchive(zipfile.ZipFile(path), stamp)
            while len(_archives) > _MAX_OPEN_ARCHIVES:
                _archives.popitem(last=False)
        _archives.move_to_end(path)
        return opened
