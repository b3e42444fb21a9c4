"""The application: routes, errors and OpenAPI around one `Service`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from .exchange import ExchangeMiddleware, exchange_of
from .forms import described
from .refusal import RefusalError, problem
from .routes import embed as embed_route
from .routes import galleries as gallery_routes
from .routes import health as health_routes
from .routes import records as record_routes
from .routes import search as search_route
from .schemas import Problem
from .service import Service
from .store_threads import StoreError

__all__ = ["create_app"]

logger = logging.getLogger("hat.serve")

_REFUSALS = {
    400: "The request is broken.",
    401: "An API key is needed.",
    403: "The key may not do this, or the request came from another site's page.",
    404: "There is no such gallery or record.",
    405: "The path has no such method.",
    408: "The body did not arrive in time.",
    409: "The gallery's name is taken.",
    413: "The body, or the number of images, is over a limit.",
    415: "The body is of a kind that is not taken, or compressed.",
    421: "The Host header names another service.",
    422: "An image or a field cannot be used.",
    429: "The key has used up its rate.",
    500: "The service failed.",
    503: "The service is busy: try again after the time in Retry-After.",
    504: "It took too long and was dropped.",
}


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service. Its lifespan ends with the service being closed.

    Args:
        service: What answers.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": description} for status, description in _REFUSALS.items()
    }
    app = FastAPI(
        title="hat-reid",
        version=version("hat-reid"),
        description="Person re-identification: embeddings of images, and galleries ranked by similarity.",
        # The usual pages of documentation load their scripts from elsewhere: /openapi.json is there for any viewer.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=responses,
    )
    app.state.service = service
    for part in (embed_route, search_route, gallery_routes, record_routes, health_routes):
        app.include_router(part.router)
    app.add_middleware(ExchangeMiddleware, service=service)
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    if service.access.keys is not None:
        _demand_keys(app)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    exchange = exchange_of(request)
    if isinstance(error, StoreError):
        logger.error("request %s (%s): %s", exchange.request_id, exchange.action, error.reason)
    return problem(error.status, error.detail, exchange.request_id, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem(422, described(error.errors()), exchange_of(request).request_id)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), exchange_of(request).request_id, error.headers)


def _demand_keys(app: FastAPI) -> None:
    """Say in OpenAPI that every route but the two for health needs a key."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        schema.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                operation["security"] = [] if path in ("/healthz", "/readyz") else [{"key": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
