"""The application: middleware, routes, errors and OpenAPI around one `Service`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from .api_error import EXCEPTION_HANDLERS
from .ingress import SameOriginMiddleware
from .request_context import RequestContextMiddleware
from .routes import embed, galleries, health, records, search
from .schemas import Problem
from .service import Service

_ERRORS = {
    400: "The request is broken.",
    401: "An API key is needed.",
    403: "The key may not do this, or the request came from another site's page.",
    404: "There is no such gallery or record.",
    405: "The path has no such method.",
    408: "The body did not arrive in time.",
    409: "The gallery's name is taken, or records were removed meanwhile.",
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
    """Make the ASGI application of a service. Its lifespan ends with the service being closed.

    Args:
        service: What answers.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": description} for status, description in _ERRORS.items()
    }
    app = FastAPI(
        title="hat-reid",
        version=version("hat-reid"),
        description="Person re-identification: embeddings of images, and galleries ranked by similarity.",
        # The usual pages of documentation load their scripts from elsewhere: /openapi.json is there for any viewer.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=errors,
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[
            Middleware(RequestContextMiddleware, service=service),
            Middleware(SameOriginMiddleware, hosts=service.settings.hosts),
        ],
    )
    app.state.service = service
    for part in (embed, search, galleries, records, health):
        app.include_router(part.router)
    return app
