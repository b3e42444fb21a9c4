"""What happens around every request: its number, its line in the audit log, its count, its headers, and its unforeseen errors.

One layer, outside everything else, in plain ASGI: what was not foreseen further in is logged by the request's number with the
place where it happened and not with what it was about.
"""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hat.errors import is_out_of_memory

from .api_error import ApiError, error_response

if TYPE_CHECKING:
    from .audit import AuditLog
    from .keys import ApiKey
    from .service import Service


logger = logging.getLogger("hat.serve")

_CLIENT_GONE = 499
"""Nobody reads this status; it is nginx's in logs and metrics."""

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(slots=True)
class RequestContext:
    """One request and its answer, as the audit log and the metrics see them.

    Attributes:
        request_id: Number that the answer and the log share.
        action: What was asked for, by the name of the route's function: ``"search"``, ``"remove_person"``.
        caller: Who asked; None before that is known.
        gallery: Of which gallery.
        counts: How many images, results, records.
        status: Of the answer; 0 before there is one.
        started_s: When it began, `time.perf_counter`.
    """

    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    action: str = "other"
    caller: ApiKey | None = None
    gallery: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    status: int = 0
    started_s: float = field(default_factory=time.perf_counter)

    def audit_line(self) -> dict[str, Any]:
        """Return what the audit log keeps."""
        key, name = (self.caller.id, self.caller.name) if self.caller is not None else (None, None)
        who = {"request_id": self.request_id, "key": key, "name": name}
        return {**who, "action": self.action, "gallery": self.gallery, "status": self.status, **self.counts}


class _AuditError(Exception):
    """The answer cannot be put on record."""


class RequestContextMiddleware:
    """The outermost layer.

    Args:
        app: What answers.
        service: Its metrics, its audit log and its admission.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        context = scope["hat_context"] = RequestContext()
        response = ResponseWrapper(scope, send, self.service.audit if scope["path"].startswith("/v1") else None)
        try:
            try:
                if self.service.admission.is_full and _has_body(scope):
                    await self.service.admission.wait_for_room()  # refused here already, where it costs the least
                await self.app(scope, receive, response.send)
            except ClientDisconnect:
                context.status = context.status or _CLIENT_GONE
                response.write_audit_line()  # what was begun for a client that did not wait is on record as well
            except ApiError as error:
                await error_response(scope, error)(scope, receive, response.send)
            except Exception as error:
                if context.status:
                    raise
                _log_failure(context, error)
                await error_response(scope, _unforeseen(context, error))(scope, receive, response.send)
        except _AuditError:
            detail = "the audit log cannot be written, and nothing is answered without it"
            response.audit = None
            await error_response(scope, ApiError(503, detail, retry_after_s=10))(scope, receive, response.send)
        except Exception as error:  # noqa: BLE001 - the answer has begun, and only the log can tell
            _log_failure(context, error)
        finally:
            self.service.metrics.count_request(context.action, context.status, time.perf_counter() - context.started_s)


class ResponseWrapper:
    """The channel of an answer, with what is added to it.

    Args:
        scope: The request.
        send: Where its answer goes.
        audit: Where it is put on record first; None keeps no record.
    """

    def __init__(self, scope: Scope, send: Send, audit: AuditLog | None) -> None:
        self.audit = audit
        self._scope = scope
        self._send = send

    async def send(self, message: Message) -> None:
        """Send a part of the answer, its beginning with the headers that all answers have, once it is on record.

        Raises:
            _AuditError: The audit log cannot be written; nothing was sent.
        """
        if message["type"] == "http.response.start":
            context: RequestContext = self._scope["hat_context"]
            context.status = message["status"]
            self.write_audit_line()
            headers = [*message.get("headers", ()), *_HEADERS, (b"x-request-id", context.request_id.encode())]
            if context.status == 408 or any(name == b"expect" for name, _ in self._scope["headers"]):
                headers.append((b"connection", b"close"))  # the body will not come, or need not
            message = {**message, "headers": headers}
        await self._send(message)

    def write_audit_line(self) -> None:
        """Put the request on record, where a record is kept.

        Raises:
            _AuditError: The audit log cannot be written.
        """
        try:
            if self.audit is not None:
                self.audit.write(self._scope["hat_context"].audit_line())
        except OSError as error:
            logger.error("the audit log cannot be written: %s", error.strerror or error)
            raise _AuditError from None


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in scope["headers"])


def _unforeseen(context: RequestContext, error: Exception) -> ApiError:
    if is_out_of_memory(error):
        return ApiError(503, "the service ran out of memory: send fewer or smaller images at once", retry_after_s=5)
    return ApiError(500, f"the service failed; its log has the reason under {context.request_id}")


def _log_failure(context: RequestContext, error: BaseException) -> None:
    """Log where a request failed and with what kind of error, without its words: they may quote what was sent."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request %s (%s) failed: %s\n%s", context.request_id, context.action, type(error).__name__, where)
