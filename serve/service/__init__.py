"""The HTTP service: embeddings and ranked galleries for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
    from .application import create_app
    from .audit import AuditLog
    from .keys import KeyFile, KeyRing
    from .service import Service
    from .settings import ServiceSettings
    from .shelf import Shelf

__all__ = ["AuditLog", "KeyFile", "KeyRing", "Service", "ServiceSettings", "Shelf", "create_app"]

_HOMES = {
    "AuditLog": "hat.serve.service.audit",
    "KeyFile": "hat.serve.service.keys",
    "KeyRing": "hat.serve.service.keys",
    "Service": "hat.serve.service.service",
    "ServiceSettings": "hat.serve.service.settings",
    "Shelf": "hat.serve.service.shelf",
    "create_app": "hat.serve.service.application",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
