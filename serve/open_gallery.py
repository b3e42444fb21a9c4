"""Which store a gallery's location means."""

from __future__ import annotations

import os

from hat.errors import UsageError

from .gallery.binding import Binding
from .gallery.gallery import Gallery, StoredType

__all__ = ["open_gallery"]


def open_gallery(
    location: str | os.PathLike[str],
    *,
    binding: Binding | None = None,
    create: bool = False,
    stored_type: StoredType = "float32",
    read_only: bool = False,
) -> Gallery:
    """Open a gallery by its location; `Gallery.open` says what the arguments mean and what is raised."""
    scheme, separator, _ = os.fspath(location).partition("://") if isinstance(location, str) else ("", "", "")
    if separator and scheme == "milvus":
        from .milvus.gallery import MilvusGallery

        return MilvusGallery.open(str(location), binding=binding, create=create, stored_type=stored_type, read_only=read_only)
    if separator and scheme.isalnum():
        raise UsageError(f"{location}: nothing is known by {scheme}://: expected a file's path, or milvus://host:port/name")

    from .sqlite.gallery import SqliteGallery

    return SqliteGallery.open(location, binding=binding, create=create, stored_type=stored_type, read_only=read_only)
