"""Galleries that last, ranking in them, and a service that answers over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
    from .binding import Binding, VerifiedSibling, binding_of
    from .enrolling import Enrolment, Item, enroll
    from .gallery import Gallery, StoredType
    from .milvus_gallery import MilvusGallery
    from .records import Filter, GalleryCounts, Neighbours, NewRecord, Record
    from .searching import Match, person_embedding, search_gallery
    from .sqlite_gallery import SqliteGallery
    from .thresholds import Calibration, calibrate

__all__ = [
    "Binding",
    "Calibration",
    "Enrolment",
    "Filter",
    "Gallery",
    "GalleryCounts",
    "Item",
    "Match",
    "MilvusGallery",
    "Neighbours",
    "NewRecord",
    "Record",
    "SqliteGallery",
    "StoredType",
    "VerifiedSibling",
    "binding_of",
    "calibrate",
    "enroll",
    "person_embedding",
    "search_gallery",
]

_HOMES = {
    "Binding": "hat.serve.binding",
    "Calibration": "hat.serve.thresholds",
    "Enrolment": "hat.serve.enrolling",
    "Filter": "hat.serve.records",
    "Gallery": "hat.serve.gallery",
    "GalleryCounts": "hat.serve.records",
    "Item": "hat.serve.enrolling",
    "Match": "hat.serve.searching",
    "MilvusGallery": "hat.serve.milvus_gallery",
    "Neighbours": "hat.serve.records",
    "NewRecord": "hat.serve.records",
    "Record": "hat.serve.records",
    "SqliteGallery": "hat.serve.sqlite_gallery",
    "StoredType": "hat.serve.gallery",
    "VerifiedSibling": "hat.serve.binding",
    "binding_of": "hat.serve.binding",
    "calibrate": "hat.serve.thresholds",
    "enroll": "hat.serve.enrolling",
    "person_embedding": "hat.serve.searching",
    "search_gallery": "hat.serve.searching",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
