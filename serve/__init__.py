"""Galleries that last, ranking in them, and a service that answers over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
    from .binding import Binding, VerifiedSibling, binding_of
    from .gallery import Gallery, StoredType
    from .records import Filter, GalleryCounts, Neighbours, NewRecord, Record

__all__ = [
    "Binding",
    "Filter",
    "Gallery",
    "GalleryCounts",
    "Neighbours",
    "NewRecord",
    "Record",
    "StoredType",
    "VerifiedSibling",
    "binding_of",
]

_HOMES = {
    "Binding": "hat.serve.binding",
    "Filter": "hat.serve.records",
    "Gallery": "hat.serve.gallery",
    "GalleryCounts": "hat.serve.records",
    "Neighbours": "hat.serve.records",
    "NewRecord": "hat.serve.records",
    "Record": "hat.serve.records",
    "StoredType": "hat.serve.gallery",
    "VerifiedSibling": "hat.serve.binding",
    "binding_of": "hat.serve.binding",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
