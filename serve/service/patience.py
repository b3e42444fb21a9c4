"""Waiting for work on behalf of a client: not beyond a time, and not once the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from .refusal import ClientGoneError, RefusalError

__all__ = ["while_wanted"]

T = TypeVar("T")


async def while_wanted(request: Request, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """Await work whose request's body has been read; cancel it when the client goes away or it takes too long.

    Raises:
        ClientGoneError: The client closed its connection.
        RefusalError: The time is over.
    """
    task = asyncio.ensure_future(work)
    # Once its body is read, the only thing that a request can still receive is the end of its connection.
    gone = asyncio.ensure_future(request.receive())
    try:
        done, _ = await asyncio.wait((task, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task in done:
            return task.result()
        if gone in done:
            raise ClientGoneError
        raise RefusalError(504, f"this took longer than {timeout_s:g} s and was dropped", retry_after_s=timeout_s)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            # What it holds and what it began belongs to this request, and is waited for.
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()
