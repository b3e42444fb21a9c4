"""Ingress checks: whose name a request uses and which page sent it, before anything else looks at it.

A browser can be made to send requests to a program on its own machine. Another site's name that resolves to 127.0.0.1 (DNS
rebinding) is told by the Host header, and another site's page by the Origin header that every browser adds. Starlette's
TrustedHostMiddleware looks at the first of these alone.
"""

import ipaddress
import re
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from .api_error import ApiError, error_response

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""What the Host header may name where a program listens on loopback."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\s]+)(?::\d*)?")


class SameOriginMiddleware:
    """Refuse requests that call the program by another name or come from another site's page, HTTP and WebSocket alike.

    Args:
        app: What answers the others.
        hosts: Names that the Host header may have, in lower case, see `allowed_hosts`; None is any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        error = self._check(scope) if scope["type"] in ("http", "websocket") else None
        if error is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await error_response(scope, error)(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    def _check(self, scope: Scope) -> ApiError | None:
        # ASGI gives names of headers in lower case. Of a header that is there twice, none may be an unwanted one.
        hosts = {value for name, value in scope["headers"] if name == b"host"}
        if len(hosts) > 1:
            return ApiError(400, "the request has two Host headers")
        host = next(iter(hosts), None)
        if self.hosts is not None:
            if host is None:
                return ApiError(400, "the request has no Host header")
            match = _HOST.fullmatch(host.decode("latin-1").strip().lower())
            if match is None or match[1] not in self.hosts:
                return ApiError(421, "the Host header names another service; see --allow-host")
        for name, value in scope["headers"]:
            if name == b"origin" and value.partition(b"://")[2] != host:
                return ApiError(403, "requests of other sites' pages are not taken")
        return None


def allowed_hosts(host: str, names: Collection[str] = ()) -> tuple[str, ...] | None:
    """Return what the Host header may name for a program that listens on an address; None is anything.

    Args:
        host: The address. On loopback its usual names are allowed; elsewhere anything is unless there are ``names``.
        names: Further names, of ``--allow-host``.
    """
    further = tuple(name.lower() for name in names)
    own = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return (*LOOPBACK_HOSTS, own, *further) if is_loopback(host) else further or None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
