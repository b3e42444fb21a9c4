"""Serving the page: on this machine alone by default, without requests to any other server."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hat.errors import MissingExtraError, UsageError, WorkError
from hat.serve.service.keys import is_loopback

if TYPE_CHECKING:
    from .app_state import AppState


MAX_SESSIONS = 64
"""Visitors whose pages are remembered; the one who was away longest is forgotten for another one."""

_QUIET_LIBRARIES = ("httpx", "httpcore", "matplotlib")


@dataclass(frozen=True)
class Address:
    """Address of the page, and who may open it.

    Attributes:
        host: Address to listen on; any but this machine's own needs ``user`` and ``password`` to log in with.
        port: Port; None takes a free one from 7860 on.
        allowed_hosts: Further names that the Host header of a request may have, where the page is behind a proxy.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    user: str | None = None
    password: str | None = None
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise UsageError("a log-in needs both: --user NAME, and the password in the variable HAT_DEMO_PASSWORD")
        if self.user is not None and (not self.user or not self.password):
            raise UsageError("the user's name and the password must not be empty")
        if not is_loopback(self.host) and self.user is None:
            raise UsageError(
                f"on {self.host} others can reach the demo, and with it the gallery: give --user NAME, and a password in the "
                "variable HAT_DEMO_PASSWORD"
            )


def check_address(address: Address) -> None:
    """Make sure, before the model is opened, that the page can be served there."""
    try:
        from hat.serve.service.server import bind
    except ImportError:
        raise MissingExtraError("gradio", "demo", "the demo") from None
    bind(address.host, address.port or 0).close()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let what ends a program from outside end it as Ctrl+C does, so that nothing is left behind."""
    signals = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def private_environment() -> Iterator[Path]:
    """Make the settings that gradio needs before it is imported, and a private folder that is deleted in the end.

    Yields:
        The folder. Uploaded files go there until they are read, and galleries that last as long as the demo.
    """
    with tempfile.TemporaryDirectory(prefix="hat-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)  # only this user may enter it
        (folder / "uploads").mkdir()
        # Gradio asks itself whether it is up, which must not go through a proxy.
        asked = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
        no_proxy = ",".join(filter(None, (asked, "127.0.0.1", "localhost", "::1")))
        settings = {
            "GRADIO_SHARE": "False",
            "GRADIO_ALLOWED_PATHS": "",
            "GRADIO_MCP_SERVER": "False",
            "GRADIO_SSR_MODE": "False",
            "GRADIO_TEMP_DIR": str(folder / "uploads"),
            "HF_HUB_OFFLINE": "1",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }
        before = {key: os.environ.get(key) for key in settings}
        os.environ.update(settings)
        try:
            yield folder
        finally:
            for key, value in before.items():
                del os.environ[key]
                if value is not None:
                    os.environ[key] = value


def serve_page(state: AppState, address: Address, *, opens_browser: bool = False) -> tuple[Any, str]:
    """Build the page and serve it, in threads of its own.

    Returns:
        The application, to be closed by its ``close``, and the page's address.

    Raises:
        MissingExtraError: Gradio is not installed.
        WorkError: The port is in use, or there is no such address.
    """
    try:
        import gradio  # noqa: F401 - what is checked is that it is there
    except ImportError:
        raise MissingExtraError("gradio", "demo", "the demo") from None
    from starlette.middleware import Middleware

    from hat.serve.service.ingress import SameOriginMiddleware, allowed_hosts

    from .pages.page import build_page
    from .view.blocks import PAGE_HEAD, STYLE_SHEET, page_theme

    for library in _QUIET_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
    page = build_page(state)
    auth = None if address.user is None else (address.user, address.password)
    try:
        _, url, _ = page.launch(
            server_name=address.host,
            server_port=address.port,
            auth=auth,
            auth_message="HAT, person search",
            share=False,
            inbrowser=opens_browser,
            quiet=True,
            prevent_thread_lock=True,
            show_error=False,
            footer_links=[],
            run_history=False,
            max_file_size=state.limits.file_bytes,
            max_threads=16,
            state_session_capacity=MAX_SESSIONS,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            strict_cors=True,
            # Other sites' pages, and other sites' names for this machine (DNS rebinding), are refused as the service does it.
            app_kwargs={
                "middleware": [Middleware(SameOriginMiddleware, hosts=allowed_hosts(address.host, address.allowed_hosts))]
            },
            theme=page_theme(),
            css=STYLE_SHEET,
            head=PAGE_HEAD,
        )
    except OSError:
        # The library's own message names its own parameters, which nobody here can give.
        if address.port is None:
            raise WorkError(f"{address.host}: no port that is tried, from 7860 on, can be listened on: give a --port") from None
        raise WorkError(f"{address.host}:{address.port} cannot be listened on: give another --port") from None
    return page, url
