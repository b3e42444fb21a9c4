"""The HTTP server around the application: its socket, its signals and its end."""

import signal
import socket
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from hat.errors import UsageError, WorkError

_BACKLOG = 1024
_SHUTDOWN_S = 60


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: An address of this machine, or a name of one.
        port: The port; 0 takes any that is free.

    Raises:
        UsageError: There is no such address.
        WorkError: The port is taken, or may not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host}: there is no such address") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # A service that is started again must not wait for the last one's connections to be forgotten.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise WorkError(f"{host}:{port} cannot be listened on: {error.strerror}; give another --port") from None
    return listener


def shown_address(listener: socket.socket, *, tls: bool) -> str:
    """Return where a socket can be reached, as a URL."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def run_server(app: FastAPI, listener: socket.socket, *, certificate: Path | None = None, key: Path | None = None) -> None:
    """Serve until SIGINT or SIGTERM; then nothing new is taken, and what is in work is finished and answered.

    Args:
        app: The application.
        listener: Where it listens; closed at the end.
        certificate: Certificate chain for TLS, PEM; None serves without.
        key: Its private key, PEM.

    Raises:
        UsageError: The certificate or its key cannot be used.
        WorkError: The server could not start.
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
    ended = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in ended.items():
            signal.signal(number, handler)
        listener.close()
    if not server.started:
        raise WorkError("the server could not be started; what is above says why")


def _ignore(number: int, frame: FrameType | None) -> None:
    """Nothing is left to be done for a signal."""
