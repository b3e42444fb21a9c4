"""The HTTP service: embeddings and ranked galleries for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
    from .application import create_app
    from .audit import AuditLog
    from .gallery_registry import GalleryRegistry
    from .ingress import SameOriginMiddleware, allowed_hosts
    from .keys import KeyFile, KeyRing
    from .service import Service
    from .settings import ServiceSettings

__all__ = [
    "AuditLog",
    "GalleryRegistry",
    "KeyFile",
    "KeyRing",
    "SameOriginMiddleware",
    "Service",
    "ServiceSettings",
    "allowed_hosts",
    "create_app",
]

_HOMES = {
    "AuditLog": "hat.serve.service.audit",
    "GalleryRegistry": "hat.serve.service.gallery_registry",
    "KeyFile": "hat.serve.service.keys",
    "KeyRing": "hat.serve.service.keys",
    "SameOriginMiddleware": "hat.serve.service.ingress",
    "Service": "hat.serve.service.service",
    "ServiceSettings": "hat.serve.service.settings",
    "allowed_hosts": "hat.serve.service.ingress",
    "create_app": "hat.serve.service.application",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
