"""The application around one `Service`, and the HTTP server that runs it: its socket, its signals and its end."""

import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from hat.errors import UsageError, WorkError

from .api_error import EXCEPTION_HANDLERS
from .ingress import RequestContextMiddleware, SameOriginMiddleware
from .routes import galleries, model, search
from .schemas import Problem
from .service import Service

_BACKLOG = 1024
_SHUTDOWN_S = 60
_ERRORS = (400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 500, 503, 504)  # that any route may answer with


def create_app(service: Service) -> FastAPI:
    """Make the ASGI application of a service. Its lifespan ends with the service being closed."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="hat-reid",
        version=version("hat-reid"),
        description="Person re-identification: embeddings of images, and galleries ranked by similarity.",
        # The usual pages of documentation load their scripts from elsewhere: /openapi.json is there for any viewer.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={status: {"model": Problem} for status in _ERRORS},
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[
            Middleware(RequestContextMiddleware, service=service),
            Middleware(SameOriginMiddleware, hosts=service.settings.hosts),
        ],
    )
    app.state.service = service
    for part in (model, search, galleries):
        app.include_router(part.router)
    return app


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address of this machine, or a name of one; port 0 takes any that is free.

    An address that there is not is a `UsageError`, a port that is taken or may not be used a `WorkError`.
    """
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host}: there is no such address") from None
    family, _, _, _, address = addresses[0]
    is_dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=is_dual)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise WorkError(f"{host}:{port} cannot be listened on: {reason}; give another --port") from None


def shown_address(listener: socket.socket, *, tls: bool) -> str:
    """Return where a socket can be reached, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def run_server(app: FastAPI, listener: socket.socket, *, certificate: Path | None = None, key: Path | None = None) -> None:
    """Serve until SIGINT or SIGTERM; then nothing new is taken, and what is in work is finished and answered.

    The socket is closed at the end. A certificate chain and its private key, both PEM, are for TLS.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=_SHUTDOWN_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except OSError as error:  # what ssl raises is an OSError too
        raise UsageError(f"--tls-cert {certificate}, --tls-key {key}: cannot be used: {error.strerror or error}") from None
    server = uvicorn.Server(config)
    # The server raises the signal again once it has ended. It has done all there was to do: the exit code is 0.
    ended = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in ended.items():
            signal.signal(number, handler)
        listener.close()
    if not server.started:
        raise WorkError("the server could not be started; what is above says why")
