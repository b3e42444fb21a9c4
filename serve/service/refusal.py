"""Answers that are not the one that was hoped for: a status, one sentence, and nothing of the machine it comes from.

What a client reads was written in this package for clients, or is an error of ours about what the client sent. Errors of
libraries and of the machine are logged by the number of the request and answered in general words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson
from starlette.responses import Response

__all__ = ["ClientGoneError", "RefusalError", "as_sentence", "problem", "without_paths"]

_ANY_PATH = re.compile(r"(?:(?<![\w.:/])(?:/|~/|\.{1,2}/)|[A-Za-z]:\\|file:)[^\s'\",;()]+|\b[\w.+-]+://[^\s'\",;()]+")


class RefusalError(Exception):
    """A request is not met.

    Args:
        status: HTTP status.
        detail: What is wrong and what to do, for the client to read.
        retry_after_s: After how long it may work.
        headers: Further headers of the answer.
    """

    def __init__(
        self, status: int, detail: str, *, retry_after_s: float | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, min(60, round(retry_after_s + 0.5))))


class ClientGoneError(Exception):
    """The client closed its connection before it had an answer."""


def problem(status: int, detail: str, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """The body of every answer that is an error."""
    content = orjson.dumps({"detail": detail, "request_id": request_id})
    return Response(content, status, headers, media_type="application/json")


def without_paths(message: str) -> str:
    """A message of ours with anything that could be a path or a URI left out."""
    return _ANY_PATH.sub("(left out)", message)


def as_sentence(message: str, location: str, name: str) -> str:
    """An error of a gallery for a client: the gallery by its name and not by its place, and no other path either."""
    return without_paths(message.replace(location, name) if location else message)
