"""Errors as answers: a status, one sentence, and nothing of the machine it comes from.

What a client reads was written in this package for clients; errors of libraries are logged and answered in general words.
"""

import logging
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from hat.errors import UsageError, WorkError

logger = logging.getLogger("hat.serve")

_ANY_PATH = re.compile(r"(?:(?<![\w.:/])(?:/|~/|\.{1,2}/)|[A-Za-z]:\\|file:)[^\s'\",;()]+|\b[\w.+-]+://[^\s'\",;()]+")
_MAX_FIELDS_NAMED = 5
_NO_FIELDS = ("body", "query", "path", "header")
_KIND = re.compile(r"\[|^(int|str|constrained-(int|str))$")


class ApiError(HTTPException):
    """A request that is not met, with what is wrong and what to do, for the client to read, and after how long it may work."""

    def __init__(
        self, status_code: int, detail: str, *, retry_after_s: float | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        retry = {} if retry_after_s is None else {"Retry-After": str(max(1, min(60, round(retry_after_s + 0.5))))}
        super().__init__(status_code, detail, {**(headers or {}), **retry})


def error_response(scope: Scope, error: HTTPException) -> Response:
    """Return the answer that every error is given as."""
    context = scope.get("hat_context")  # there is none where the demo checks a request's head
    content = {"detail": error.detail, "request_id": context.request_id if context is not None else None}
    return Response(orjson.dumps(content), error.status_code, error.headers, media_type="application/json")


def without_paths(message: str) -> str:
    """Return a message of ours with anything that could be a path or a URI left out."""
    return _ANY_PATH.sub("(left out)", message)


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    return error_response(request.scope, error)


async def _answer_invalid_request(request: Request, error: RequestValidationError) -> Response:
    """Name the fields that are wrong and what was expected, and quote nothing."""
    errors = error.errors()
    sentences = []
    for item in errors[:_MAX_FIELDS_NAMED]:
        # A location names the kinds of a union too, as "int" or "function-after[...]", behind the field's own name.
        name = ".".join(str(part) for part in item["loc"] if part not in _NO_FIELDS and not _KIND.search(str(part)))
        message = str(item["msg"]).removeprefix("Value error, ")
        sentences.append(f"{name[:100]}: {message}" if name else message)
    more = f"; and {len(errors) - _MAX_FIELDS_NAMED} more" if len(errors) > _MAX_FIELDS_NAMED else ""
    return error_response(request.scope, ApiError(422, "; ".join(sentences) + more))


async def _answer_usage_error(request: Request, error: UsageError) -> Response:
    """Repeat what was wrong with the request, the gallery by its name and not by its place."""
    message = request.app.state.service.galleries.hide_locations(str(error))
    return error_response(request.scope, ApiError(422, without_paths(message)))


async def _answer_work_error(request: Request, error: WorkError) -> Response:
    """Keep the reason for the log, since it may name places."""
    context = request.scope["hat_context"]
    logger.error("request %s (%s): %s", context.request_id, context.action, error)
    what = f"the gallery {context.gallery}" if context.gallery is not None else "the model"
    detail = f"{what} cannot be used at the moment: try again later"
    return error_response(request.scope, ApiError(503, detail, retry_after_s=5))


EXCEPTION_HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    HTTPException: _answer_http_error,
    RequestValidationError: _answer_invalid_request,
    UsageError: _answer_usage_error,
    WorkError: _answer_work_error,
}
