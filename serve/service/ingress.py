"""The two layers around every request, in plain ASGI, before anything else looks at it.

`SameOriginMiddleware` is for browsers, which can be made to send requests to a program on their own machine: another site's
name that resolves to 127.0.0.1 (DNS rebinding) is recognized by the Host header, another site's page by the Origin header.
Starlette's TrustedHostMiddleware looks at the first alone, and only at the first of two Host headers.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
import traceback
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hat.errors import is_out_of_memory

from .api_error import ApiError, error_response
from .keys import is_loopback

if TYPE_CHECKING:
    from .audit import AuditLog
    from .keys import ApiKey
    from .service import Service

logger = logging.getLogger("hat.serve")

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")  # that the Host header may name where a program listens on loopback
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\s]+)(?::\d*)?")
_CLIENT_GONE = 499  # nobody reads this status; it is nginx's in logs and metrics
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(slots=True)
class RequestContext:
    """One request and its answer, as the audit log and the metrics see them."""

    audit: AuditLog | None
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))  # which the answer and the log share
    action: str = "other"  # by the name of the route's function: "search", "remove_person"
    caller: ApiKey | None = None
    gallery: str | None = None
    counts: dict[str, int] = field(default_factory=dict)  # images, results, records
    status: int = 0

    def write_audit_line(self) -> None:
        """Put the request on record, where a record is kept, or raise `_AuditError`."""
        if self.audit is None:
            return
        who = {"key": self.caller.id, "name": self.caller.name} if self.caller is not None else {"key": None, "name": None}
        what = {"action": self.action, "gallery": self.gallery, "status": self.status}
        try:
            self.audit.write({"request_id": self.request_id, **who, **what, **self.counts})
        except OSError as error:
            logger.error("the audit log cannot be written: %s", error.strerror or error)
            raise _AuditError from None


class _AuditError(Exception):
    """The answer cannot be put on record."""


class RequestContextMiddleware:
    """The outermost layer; it needs a service's metrics, its audit log and its admission."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        context = scope["hat_context"] = RequestContext(self.service.audit if scope["path"].startswith("/v1") else None)

        async def send_recorded(message: Message) -> None:
            """Send a part of the answer, its beginning with the headers that all answers have, once it is on record."""
            if message["type"] == "http.response.start":
                context.status = message["status"]
                context.write_audit_line()
                headers = [*message.get("headers", ()), *_HEADERS, (b"x-request-id", context.request_id.encode())]
                if context.status == 408 or any(name == b"expect" for name, _ in scope["headers"]):
                    headers.append((b"connection", b"close"))  # the body will not come, or need not
                message = {**message, "headers": headers}
            await send(message)

        try:
            try:
                if self.service.admission.is_full and _has_body(scope):
                    await self.service.admission.wait_for_room()  # refused here already, where it costs the least
                await self.app(scope, receive, send_recorded)
            except ClientDisconnect:
                context.status = context.status or _CLIENT_GONE
                context.write_audit_line()  # what was begun for a client that did not wait is on record as well
            except Exception as error:
                if context.status:
                    raise
                answer = error if isinstance(error, ApiError) else _unforeseen(context, error)
                await error_response(scope, answer)(scope, receive, send_recorded)
        except _AuditError:
            context.audit = None
            detail = "the audit log cannot be written, and nothing is answered without it"
            await error_response(scope, ApiError(503, detail, retry_after_s=10))(scope, receive, send_recorded)
        except Exception as error:  # noqa: BLE001 - the answer has begun, and only the log can tell
            _log_failure(context, error)
        finally:
            self.service.metrics.count_request(context.action, context.status, time.perf_counter() - began)


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in scope["headers"])


def _unforeseen(context: RequestContext, error: Exception) -> ApiError:
    _log_failure(context, error)
    if is_out_of_memory(error):
        return ApiError(503, "the service ran out of memory: send fewer or smaller images at once", retry_after_s=5)
    return ApiError(500, f"the service failed; its log has the reason under {context.request_id}")


def _log_failure(context: RequestContext, error: BaseException) -> None:
    """Log where a request failed and with what kind of error, without its words: they may quote what was sent."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request %s (%s) failed: %s\n%s", context.request_id, context.action, type(error).__name__, where)


class SameOriginMiddleware:
    """Refuse requests that call the program by another name or come from another site's page, HTTP and WebSocket alike.

    ``hosts`` are the names that the Host header may have, in lower case, see `allowed_hosts`; None is any.
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

    On loopback its usual names are allowed, and ``names`` too; elsewhere those alone, or anything where there are none.
    """
    further = tuple(name.lower() for name in names)
    own = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return (*LOOPBACK_HOSTS, own, *further) if is_loopback(host) else further or None
