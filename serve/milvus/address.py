"""Address of a Milvus gallery: ``milvus://host:port/name``, its credentials, and the connection."""

from __future__ import annotations

import logging
import os
import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from hat.errors import MissingExtraError, UsageError, WorkError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_UNREADABLE = (
    "the address of a Milvus gallery cannot be read: expected milvus://HOST:PORT/NAME, and where needed "
    "milvus://USER:PASSWORD@HOST:PORT/NAME?db=DATABASE&tls=true"
)
_HOW_TO_SIGN_IN = (
    "give user and password in the address or in HAT_MILVUS_USER and HAT_MILVUS_PASSWORD, a token in HAT_MILVUS_TOKEN"
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")  # of a collection or a database, as Milvus takes it
_DEFAULT_PORT = 19530


@dataclass(frozen=True, kw_only=True)
class MilvusAddress:
    """Address of a gallery, the collection ``name``, with its credentials: secrets are in no text that is made of it."""

    host: str
    port: int
    name: str
    tls: bool
    login: dict[str, str] = field(repr=False)  # as MilvusClient takes it; empty for what the server does not ask for

    @property
    def server(self) -> str:
        """Host and port, as messages name them."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __str__(self) -> str:
        database = self.login["db_name"]
        return f"milvus://{self.server}/{self.name}{f'?db={database}' if database else ''}"


def parse_address(location: str) -> MilvusAddress:
    """Read ``milvus://[USER[:PASSWORD]@]HOST[:PORT]/NAME``, and ``db=``, ``tls=true``, ``token=`` after a question mark.

    User and password are percent-encoded where they hold any of ``:/?#@%``. What is left out is looked up in HAT_MILVUS_USER,
    HAT_MILVUS_PASSWORD, HAT_MILVUS_TOKEN and HAT_MILVUS_DB; secrets are better kept there: other users see a command line. A
    `UsageError` never repeats the address, for it may hold a password.
    """
    try:
        parts = urlsplit(location)
        host, port = parts.hostname, parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise UsageError(_UNREADABLE) from None
    if parts.scheme != "milvus" or not host or port == 0 or parts.fragment:
        raise UsageError(_UNREADABLE)
    if unknown := sorted(options.keys() - {"db", "tls", "token"}):
        raise UsageError(f"the address of a Milvus gallery knows db, tls and token after the question mark, got {unknown[0]!r}")
    tls = options.get("tls", "false").lower()
    if tls not in ("true", "false"):
        raise UsageError("tls is true or false in the address of a Milvus gallery")
    given = {"user": unquote(parts.username or ""), "password": unquote(parts.password or ""), **options}
    keys = ("user", "password", "token", "db")
    user, password, token, database = (given.get(key) or os.environ.get(f"HAT_MILVUS_{key.upper()}", "") for key in keys)
    name = unquote(parts.path.removeprefix("/"))
    for what, text in (("gallery in", name), ("database of", database or "default")):  # as Milvus calls the one that it has
        if not _NAME.fullmatch(text):
            raise UsageError(f"a {what} Milvus is named by letters, digits and _, not by a digit first, got {text!r}")
    login = {"user": user, "password": password, "token": token, "db_name": database}
    return MilvusAddress(host=host, port=port or _DEFAULT_PORT, name=name, tls=tls == "true", login=login)


def connect(address: MilvusAddress, timeout_s: float) -> MilvusClient:
    """Connect to the server of a gallery within ``timeout_s``; a `HatError` says what is wrong and how to sign in."""
    try:
        import grpc
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise MissingExtraError("pymilvus", "milvus", "galleries in Milvus") from None
    # Every failure is raised and becomes one sentence; pymilvus would print it too, with a traceback and with what was sent.
    for logger in ("pymilvus", "pymilvus.milvus_client"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:  # pymilvus itself waits for a server that is not there until its time is up
        socket.create_connection((address.host, address.port), timeout=min(timeout_s, 5.0)).close()
    except OSError as error:
        raise WorkError(
            f"{address}: no Milvus server answers at {address.server} ({error.strerror or error}): start it, or correct the "
            f"address; the port is that of gRPC, usually {_DEFAULT_PORT}"
        ) from None
    try:
        uri = f"{'https' if address.tls else 'http'}://{address.server}"
        client = MilvusClient(uri=uri, timeout=timeout_s, **address.login)
        client.list_collections(timeout=timeout_s)  # the first call that needs the user and the database
    except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
        text = reason(error)
        if any(word in text.lower() for word in ("auth", "permission", "privilege")):
            raise UsageError(f"{address}: the server refuses the user: {text}; {_HOW_TO_SIGN_IN}") from None
        if "database not found" in text:
            raise UsageError(f"{address}: the server has no database {address.login['db_name']!r}") from None
        raise WorkError(
            f"{address}: what answers at {address.server} lets nobody in as Milvus would ({text}): it is something else, not "
            f"ready yet, or wants a user and a password; {_HOW_TO_SIGN_IN}"
        ) from None
    return client


def reason(error: BaseException) -> str:
    """Return what Milvus or gRPC says of it, on one line."""
    details = getattr(error, "details", None)  # a call that failed below Milvus; all of what it says would be a page
    text = details() if callable(details) else getattr(error, "message", None) or error
    return " ".join(str(text or type(error).__name__).split())[:400]
