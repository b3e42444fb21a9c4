"""What happens around every request: its number, its line in the audit log, its count, its headers, and its errors.

One layer, outside everything else, in plain ASGI: whatever is raised further in ends here as an answer in our own form, and
what was not foreseen is logged by the request's number with the place where it happened and not with what it was about.
"""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .guard import check_head
from .refusal import ClientGoneError, RefusalError, problem

if TYPE_CHECKING:
    from .access import Caller
    from .service import Service

__all__ = ["Exchange", "ExchangeMiddleware", "exchange_of", "log_failure"]

logger = logging.getLogger("hat.serve")

_CLIENT_GONE = 499
"""Nobody reads this status; it is nginx's in logs and metrics."""

_DRAINED_BYTES = 2**20
_DRAINED_S = 1.0

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(slots=True)
class Exchange:
    """One request and its answer, as the audit log and the metrics see them.

    Attributes:
        request_id: Number that the answer and the log share.
        action: What was asked for, by the name of the route's function: ``"search"``, ``"remove_person"``.
        caller: Who asked; None before that is known.
        gallery: Of which gallery.
        counts: How many images, results, records.
        status: Of the answer; 0 before there is one.
        began: When it began, `time.perf_counter`.
    """

    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    action: str = "other"
    caller: Caller | None = None
    gallery: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    status: int = 0
    began: float = field(default_factory=time.perf_counter)

    def facts(self) -> dict[str, Any]:
        """The line of the audit log."""
        who = {"key": self.caller.id, "name": self.caller.name} if self.caller is not None else {"key": None, "name": None}
        return {
            "request_id": self.request_id,
            **who,
            "action": self.action,
            "gallery": self.gallery,
            "status": self.status,
            **self.counts,
        }


def exchange_of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    exchange: Exchange = request.scope["hat_exchange"]
    return exchange


class ExchangeMiddleware:
    """The outermost layer.

    Args:
        app: What answers.
        service: Its settings, metrics and audit log.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        turn = _Turn(self.service, scope, receive, send)
        scope["hat_exchange"] = turn.exchange
        try:
            try:
                has_body = check_head(scope, self.service.settings)
                if has_body and self.service.admission.is_full:
                    raise self.service.admission.overloaded()  # here already, where it costs the least
                await self.app(scope, turn.receive, turn.send)
            except RefusalError as refusal:
                if turn.exchange.status:
                    raise
                answer = problem(refusal.status, refusal.detail, turn.exchange.request_id, refusal.headers)
                await answer(scope, receive, turn.send)
        except ClientGoneError:
            turn.exchange.status = turn.exchange.status or _CLIENT_GONE
            turn.is_audited()  # what was begun for a client that did not wait is on record as well
        except Exception as error:  # noqa: BLE001 - the last place where an error can become an answer
            log_failure(turn.exchange, error)
            if not turn.exchange.status:
                await failure(turn.exchange)(scope, receive, turn.send)
        finally:
            exchange = turn.exchange
            self.service.metrics.count_request(exchange.action, exchange.status, time.perf_counter() - exchange.began)


class _Turn:
    """One request's channels, with what is added to them."""

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        self.exchange = Exchange()
        self._service = service
        self._scope = scope
        self._receive, self._send = receive, send
        self._body_has_ended = False
        self._is_replaced = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._body_has_ended = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if self._is_replaced:
            return
        if message["type"] == "http.response.start":
            self.exchange.status = message["status"]
            if not self.is_audited():
                await self._replace()
                return
            await self._send(await self._completed(message))
        else:
            await self._send(message)

    def is_audited(self) -> bool:
        """Write the request's line, where it needs one."""
        if self._service.audit is None or not self._scope["path"].startswith("/v1"):
            return True
        try:
            self._service.audit.write(self.exchange.facts())
        except OSError as error:
            logger.error("the audit log cannot be written: %s", error.strerror or error)
            return False
        return True

    async def _replace(self) -> None:
        """Give an error instead of an answer that is on no record."""
        self._is_replaced = True
        self.exchange.status = 503
        detail = "the audit log cannot be written, and nothing is answered without it"
        answer = problem(503, detail, self.exchange.request_id, {"Retry-After": "10"})

        async def send(message: Message) -> None:
            await self._send(await self._completed(message) if message["type"] == "http.response.start" else message)

        await answer(self._scope, self._receive, send)

    async def _completed(self, message: Message) -> Message:
        headers = [*message.get("headers", ()), *_HEADERS, (b"x-request-id", self.exchange.request_id.encode())]
        if not self._body_has_ended and message["status"] >= 400 and not await self._drained():
            headers.append((b"connection", b"close"))
        return {**message, "headers": headers}

    async def _drained(self) -> bool:
        """Let the rest of a small body come in and throw it away: its sender reads the answer only once it has sent it."""
        names = {name for name, _ in self._scope["headers"]}
        if not names & {b"content-length", b"transfer-encoding"}:
            return True
        if b"expect" in names:
            return False
        received = 0
        with anyio.move_on_after(_DRAINED_S):
            while received <= _DRAINED_BYTES:
                message = await self._receive()
                received += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
        return False


def failure(exchange: Exchange) -> ASGIApp:
    """The answer to a request that failed in a way that nobody foresaw."""
    detail = f"the service failed; its log has the reason under {exchange.request_id}"
    return problem(500, detail, exchange.request_id)


def log_failure(exchange: Exchange, error: BaseException) -> None:
    """Log where a request failed and with what kind of error, without its words: they may quote what was sent."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request %s (%s) failed: %s\n%s", exchange.request_id, exchange.action, type(error).__name__, where)
