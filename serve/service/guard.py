"""What a request's head must be before anything else looks at it.

A browser can be made to send requests to a service on its own machine. Another site's name that resolves to 127.0.0.1 is told
by the Host header, and another site's page by the Origin header that every browser adds; no page is let in from elsewhere, and
there are no CORS headers at all.
"""

from __future__ import annotations

import re

from starlette.types import Scope

from .refusal import RefusalError
from .settings import ServiceSettings

__all__ = ["LOOPBACK_HOSTS", "check_head"]

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""What the Host header may name where the service listens on loopback."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\s]+)(?::\d*)?")


def check_head(scope: Scope, settings: ServiceSettings) -> bool:
    """Look at a request's head.

    Returns:
        Whether a body follows.

    Raises:
        RefusalError: Its Host or Origin is not the service's, or its body is compressed, too large or of no clear length.
    """
    # ASGI gives names of headers in lower case. Of a header that is there twice, none may be an unwanted one.
    host: bytes | None = None
    has_body = False
    for name, value in scope["headers"]:
        if name == b"host":
            if host is not None and host != value:
                raise RefusalError(400, "the request has two Host headers")
            host = value
            if settings.hosts is not None and _name(value) not in settings.hosts:
                raise RefusalError(421, "the Host header names another service; see --allow-host")
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise RefusalError(415, "compressed bodies are not taken: send images as they are")
        elif name == b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise RefusalError(400, "the Content-Length header is no number")
            if int(value) > settings.max_body_bytes:
                raise RefusalError(413, f"the body has more than {settings.max_body_bytes:,} bytes")
            has_body = has_body or int(value) > 0
        elif name == b"transfer-encoding":
            has_body = True
    if host is None and settings.hosts is not None:
        raise RefusalError(400, "the request has no Host header")
    for name, value in scope["headers"]:
        if name == b"origin" and value.partition(b"://")[2] != host:
            raise RefusalError(403, "requests of other sites' pages are not taken")
    return has_body


def _name(host: bytes) -> str:
    """The name in a Host header, without its port; empty where it has no such form."""
    match = _HOST.fullmatch(host.decode("latin-1").strip().lower())
    return match[1] if match else ""
