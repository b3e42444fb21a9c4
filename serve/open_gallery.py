"""Which store a gallery's location means."""

import importlib
import os
from typing import Any

from hat.errors import UsageError

_STORES = {"": "hat.serve.sqlite.gallery:SqliteGallery", "milvus": "hat.serve.milvus.gallery:MilvusGallery"}
"""Scheme of a location -> the class that keeps galleries there, imported when one is opened."""


def store_class(location: str | os.PathLike[str]) -> Any:
    """Return the class whose ``open`` takes a location.

    Raises:
        UsageError: It begins with a scheme that no store has.
    """
    scheme, separator, _ = location.partition("://") if isinstance(location, str) else ("", "", "")
    if not separator or not scheme.isalnum():
        scheme = ""
    if scheme not in _STORES:
        raise UsageError(f"{location}: nothing is known by {scheme}://: expected a file's path, or milvus://host:port/name")
    module, _, name = _STORES[scheme].partition(":")
    return getattr(importlib.import_module(module), name)
