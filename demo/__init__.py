"""The demo: search, compare and look inside, in the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
    from .app_state import SharedEmbedder, Workbench
    from .launching import Address, private_environment, serve_page
    from .pages.page import build_page

__all__ = ["Address", "SharedEmbedder", "Workbench", "build_page", "private_environment", "serve_page"]

_HOMES = {
    "Address": "hat.demo.launching",
    "SharedEmbedder": "hat.demo.app_state",
    "Workbench": "hat.demo.app_state",
    "build_page": "hat.demo.pages.page",
    "private_environment": "hat.demo.launching",
    "serve_page": "hat.demo.launching",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
