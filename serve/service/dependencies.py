"""FastAPI dependencies: the authorized request and the gallery; a route's signature names what it needs.

There is one of them for all that a request needs, since for one small crop solving each is a good part of the time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from fastapi import Depends, Path, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from ..gallery.gallery import Gallery
from .api_error import ApiError
from .gallery_registry import is_gallery_name
from .ingress import RequestContext
from .keys import LOCAL
from .schemas import GalleryName, NumRemoved
from .service import Service
from .uploads import Upload, UploadedImage, read_upload, skip_body

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


class AuthorizedRequest:
    """One request whose caller is known and may do what it asks; ``context`` is what is put on record of it."""

    def __init__(self, request: Request, *, writes: bool) -> None:
        self.service: Service = request.app.state.service
        self.context: RequestContext = request.scope["hat_context"]
        self.caller = LOCAL
        self.headers = request.headers
        self._request = request
        self._writes = writes
        self._body_is_read = False

    @asynccontextmanager
    async def receive(self, *, json: bool = False) -> AsyncIterator[Upload]:
        """Read the body, and hold the room that it takes until the end of an ``async with`` statement; see `read_upload`."""
        with self.service.admission.reserve() as reservation:
            upload = await read_upload(self._request, reservation, self.service.settings, json=json)
            self._body_is_read = True
            self.context.counts["num_images"] = len(upload.images)
            self.service.rate_limiter.charge(self.caller.id, max(0, len(upload.images) - 1), admitted=True)
            yield upload

    async def receive_json(self, model: type[M]) -> M:
        """Read a body that is JSON alone; see `read_upload` and `Upload.parse`."""
        async with self.receive(json=True) as upload:
            if upload.images:
                raise ApiError(415, "expected a body of type application/json")
            return upload.parse(model)

    async def embed(self, images: Sequence[UploadedImage]) -> npt.NDArray[np.float32]:
        """Embed images while the client waits for it; see `Pipeline.embed_encoded`."""
        return await self._run_until_disconnect(self.service.pipeline.embed_encoded(images), finish=True)

    async def run(self, work: Callable[[], T]) -> T:
        """Work on a gallery in a thread while the client waits for it; see `Service.run_in_threadpool`."""
        if not self._body_is_read:
            await skip_body(self._request)
            self._body_is_read = True
        return await self._run_until_disconnect(self.service.run_in_threadpool(work), finish=self._writes)

    async def remove(self, work: Callable[[], int]) -> NumRemoved:
        """Run work that removes records, and put on record how many."""
        num_removed = self.context.counts["num_removed"] = await self.run(work)
        return NumRemoved(num_removed=num_removed)

    async def _run_until_disconnect(self, work: Coroutine[Any, Any, T], *, finish: bool) -> T:
        """Await work for this request, whose body has been read; cancel it when the client goes away or it takes too long.

        With ``finish`` the end of what cannot be cancelled is waited for, and answered: it writes, and belongs on record.
        """
        timeout_s = self.service.settings.timeout_s
        task = asyncio.ensure_future(work)
        # Once its body is read, the only thing that a request can still receive is the end of its connection.
        gone = asyncio.ensure_future(self._request.receive())
        try:
            done, _ = await asyncio.wait((task, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not done and finish:
                task.cancel()
                done, _ = await asyncio.wait((task,))
            if task in done and not task.cancelled():
                return task.result()
            if gone in done:
                raise ClientDisconnect
            raise ApiError(504, f"this took longer than {timeout_s:g} s and was dropped", retry_after_s=timeout_s)
        finally:
            gone.cancel()
            task.cancel()
            if finish:
                await asyncio.wait((task,))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else looks at what it raised


class _RequireKey(HTTPBearer):
    """Authorizes a request by its API key, and counts it against the key's rate."""

    def __init__(self, *, writes: bool) -> None:
        description = "A key of `hat keys`, where the service was started with some."
        super().__init__(scheme_name="key", auto_error=False, description=description)
        self._writes = writes

    async def __call__(self, request: Request) -> AuthorizedRequest:  # type: ignore[override]
        authorized = AuthorizedRequest(request, writes=self._writes)
        service, context = authorized.service, authorized.context
        context.action = request.scope["endpoint"].__name__
        name = request.path_params.get("name", "")
        context.gallery = name if is_gallery_name(name) else None
        if service.keys is not None:
            credentials = await super().__call__(request)
            key = service.keys.find(credentials.credentials) if credentials is not None else None
            if key is None:
                detail = "this key is not known" if credentials else "an API key is needed: Authorization: Bearer KEY"
                raise ApiError(401, detail, headers={"WWW-Authenticate": "Bearer"})
            authorized.caller = key
        context.caller = caller = authorized.caller
        if self._writes and caller.role != "write":
            raise ApiError(403, "this key may only read: a key with the role write is needed")
        service.rate_limiter.charge(caller.id, 1)
        _check_query(request)
        return authorized


def _check_query(request: Request) -> None:
    """Refuse a query that would be passed over: what looks like a condition must not be dropped in silence.

    Routes that take one take it as a model, which refuses names that it does not know.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) > len(set(names)):
        raise ApiError(422, "the query has a parameter twice")
    if names and not request.scope["route"].dependant.query_params:
        raise ApiError(422, "this takes no query parameters: what it needs goes into the body")


Reader = Annotated[AuthorizedRequest, Depends(_RequireKey(writes=False))]
Writer = Annotated[AuthorizedRequest, Depends(_RequireKey(writes=True))]
Name = Annotated[GalleryName, Path(description="Name of the gallery.", examples=["people"])]


async def _get_gallery(request: Request, name: Name) -> Gallery:
    service: Service = request.app.state.service
    return service.galleries.get(name)


GalleryDep = Annotated[Gallery, Depends(_get_gallery)]
