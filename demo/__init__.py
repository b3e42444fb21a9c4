"""The demo: search, compare and look inside, in the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
    from .app_state import AppState, SharedEmbedder
    from .launching import Address, private_environment, serve_page
    from .pages.page import build_page

__all__ = ["Address", "AppState", "SharedEmbedder", "build_page", "private_environment", "serve_page"]

_HOMES = {
    "Address": ".launching",
    "AppState": ".app_state",
    "SharedEmbedder": ".app_state",
    "build_page": ".pages.page",
    "private_environment": ".launching",
    "serve_page": ".launching",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
