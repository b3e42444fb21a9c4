"""Galleries that last, ranking in them, and a service that answers over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
    from .calibrate.thresholds import ThresholdCalibration, calibrate_thresholds
    from .enroll.enrolling import Enrollment, Item, enroll_images
    from .gallery.binding import Binding, VerifiedSibling, binding_of
    from .gallery.gallery import Gallery, StoredType
    from .gallery.records import Filter, GalleryCounts, Neighbors, NewRecord, Record, RecordLabels, RecordPage
    from .milvus.gallery import MilvusGallery
    from .search.searching import Match, person_embedding, search_gallery
    from .sqlite.gallery import SqliteGallery

__all__ = [
    "Binding",
    "Enrollment",
    "Filter",
    "Gallery",
    "GalleryCounts",
    "Item",
    "Match",
    "MilvusGallery",
    "Neighbors",
    "NewRecord",
    "Record",
    "RecordLabels",
    "RecordPage",
    "SqliteGallery",
    "StoredType",
    "ThresholdCalibration",
    "VerifiedSibling",
    "binding_of",
    "calibrate_thresholds",
    "enroll_images",
    "person_embedding",
    "search_gallery",
]

_HOMES = {
    "Binding": "hat.serve.gallery.binding",
    "ThresholdCalibration": "hat.serve.calibrate.thresholds",
    "Enrollment": "hat.serve.enroll.enrolling",
    "Filter": "hat.serve.gallery.records",
    "Gallery": "hat.serve.gallery.gallery",
    "GalleryCounts": "hat.serve.gallery.records",
    "Item": "hat.serve.enroll.enrolling",
    "Match": "hat.serve.search.searching",
    "MilvusGallery": "hat.serve.milvus.gallery",
    "Neighbors": "hat.serve.gallery.records",
    "NewRecord": "hat.serve.gallery.records",
    "Record": "hat.serve.gallery.records",
    "RecordLabels": "hat.serve.gallery.records",
    "RecordPage": "hat.serve.gallery.records",
    "SqliteGallery": "hat.serve.sqlite.gallery",
    "StoredType": "hat.serve.gallery.gallery",
    "VerifiedSibling": "hat.serve.gallery.binding",
    "binding_of": "hat.serve.gallery.binding",
    "calibrate_thresholds": "hat.serve.calibrate.thresholds",
    "enroll_images": "hat.serve.enroll.enrolling",
    "person_embedding": "hat.serve.search.searching",
    "search_gallery": "hat.serve.search.searching",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
