"""Images inside zip files: ``archive.zip!member/inside.jpg`` names one, and it is read without unpacking.

Each process opens an archive once and its threads share the handle. Members are only ever read into memory, never written, so a
hostile name such as ``../x`` leads nowhere.
"""

import functools
import lzma
import os
import re
import threading
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

from hat.errors import DataError, ImageError

_BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError, ValueError)


def split_location(location: str) -> tuple[str, str] | None:
    """Split ``archive.zip!member`` into the archive's path and the member's name; None for the path of an ordinary file.

    A path with several ``.zip!`` is split where the left part is a file; where none is, at the first.
    """
    parts = [(location[: m.end() - 1], location[m.end() :]) for m in re.finditer(r"\.zip!", location, re.IGNORECASE)]
    return next((split for split in parts if Path(split[0]).is_file()), parts[0] if parts else None)


def location_exists(location: str) -> bool:
    """Return whether a file, or an archive and a file in it, is there; a `DataError` where the archive cannot be read."""
    member = split_location(location)
    if member is None:
        with suppress(OSError, ValueError):  # a name that is too long for any file, or that none can have
            return Path(location).is_file()
        return False
    archive, name = member
    return Path(archive).is_file() and name in _directory(archive) and not name.endswith("/")


def list_members(archive: Path) -> list[str]:
    """Return names of the files in a zip file, sorted, folders left out; a `DataError` where it cannot be read."""
    return sorted(name for name, info in _directory(str(archive)).items() if not info.is_dir())


def member_checksum(archive: str, member: str) -> str:
    """Return what tells a member's content from others, as the archive's directory says it; a `DataError` without it."""
    info = _directory(archive).get(member)
    if info is None:
        raise DataError(f"{archive}!{member}: the archive has no such member")
    return f"{info.file_size} {info.CRC:08x}"


def _directory(archive: str) -> dict[str, zipfile.ZipInfo]:
    try:
        return _open_archive(archive)[0].NameToInfo
    except (OSError, *_BROKEN_ARCHIVE) as error:
        raise DataError(f"{archive}: cannot be read as a zip file ({error})") from None


def read_member(archive: str, member: str, *, max_bytes: int) -> bytes:
    """Return one member of a zip file, unpacked, with a checksum that is right.

    An `ImageError` where the archive or the member is missing, broken, encrypted, or larger than ``max_bytes``.
    """
    location = f"{archive}!{member}"
    try:
        handle, lock = _open_archive(archive)
        info = handle.NameToInfo.get(member)
        if info is None:
            raise ImageError(f"{location}: the archive has no such member")
        if info.flag_bits & 0x1:
            raise ImageError(f"{location}: encrypted; unpack the archive first")
        with lock, handle.open(info) as stream:
            # The size in the directory is only a claim, so the stream itself is held to the limit.
            data = stream.read(max_bytes + 1)
    except FileNotFoundError:
        raise ImageError(f"{location}: there is no such archive") from None
    except (OSError, *_BROKEN_ARCHIVE) as error:
        raise ImageError(f"{location}: cannot be unpacked ({error})") from None
    if len(data) > max_bytes:
        raise ImageError(f"{location}: larger than the limit of {max_bytes:,} bytes")
    return data


def _open_archive(path: str) -> tuple[zipfile.ZipFile, threading.Lock]:
    status = Path(path).stat()
    return _opened(path, status.st_mtime_ns, status.st_size, status.st_ino)


@functools.lru_cache(maxsize=8)
def _opened(path: str, *stamp: int) -> tuple[zipfile.ZipFile, threading.Lock]:
    """Open an archive, again where its stamp says that the file was replaced.

    Nothing promises that one ZipFile may be read by several threads at once, hence the lock: unpacking is a small part of
    reading an image. A handle that leaves the cache is not closed, since another thread may be reading from it.
    """
    return zipfile.ZipFile(path), threading.Lock()


# A forked child shares file offsets with its parent and may inherit a lock that nobody releases: it opens its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_opened.cache_clear)
