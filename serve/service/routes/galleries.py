"""``/v1/galleries``: which galleries there are, what each holds, and what is made and tidied of them."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from ...gallery.gallery import Gallery
from ..forms import checked, request_body
from ..schemas import GalleryAnswer, GalleryList, GalleryName, MakeGallery, Removed, TimeS
from ..service import Visit, reader, writer

__all__ = ["Name", "json_answer", "router"]

router = APIRouter(tags=["galleries"])

Name = Annotated[GalleryName, Path(description="Name of the gallery.", examples=["people"])]


def json_answer(content: dict[str, Any], status: int = 200) -> Response:
    """Plain data as an answer."""
    return Response(orjson.dumps(content), status, media_type="application/json")


@router.get("/v1/galleries", responses={200: {"model": GalleryList}})
async def list_galleries(visit: Annotated[Visit, Depends(reader)]) -> Response:
    """The names of all galleries."""
    return json_answer({"galleries": visit.service.shelf.names()})


@router.post(
    "/v1/galleries",
    status_code=201,
    responses={201: {"model": GalleryAnswer}},
    openapi_extra=request_body(MakeGallery, images=False, json=True),
)
async def make_gallery(visit: Annotated[Visit, Depends(writer)]) -> Response:
    """Make an empty gallery for the service's model, where the service was started with a folder for it."""
    with visit.service.admission.enter() as place:
        upload = await visit.upload(place, json=True)
    name = checked(MakeGallery, upload.fields).name
    visit.exchange.gallery = name
    gallery = await visit.in_shelf(name, lambda: visit.service.shelf.make(name))
    return json_answer(await visit.in_store(name, gallery, lambda: _described(name, gallery)), 201)


@router.get("/v1/galleries/{name}", responses={200: {"model": GalleryAnswer}})
async def describe_gallery(visit: Annotated[Visit, Depends(reader)], name: Name) -> Response:
    """How much a gallery holds, and which model made its embeddings."""
    gallery = visit.service.shelf.get(name)
    return json_answer(await visit.in_store(name, gallery, lambda: _described(name, gallery)))


@router.delete("/v1/galleries/{name}/people/{pid}", responses={200: {"model": Removed}})
async def remove_person(
    visit: Annotated[Visit, Depends(writer)],
    name: Name,
    pid: Annotated[int, Path(ge=-1, le=2**63 - 1, description="Identity.")],
) -> Response:
    """Remove all records of one person, for good. `vacuum` takes their bytes off the disk."""
    gallery = visit.service.shelf.get(name)
    return _removed(visit, await visit.in_store(name, gallery, lambda: gallery.remove(pid=pid), finish=True))


@router.delete("/v1/galleries/{name}/records", responses={200: {"model": Removed}})
async def remove_old_records(
    visit: Annotated[Visit, Depends(writer)],
    name: Name,
    enrolled_before_s: Annotated[TimeS, Query(description="Enrolled before this time, seconds since 1970 (UTC).")],
) -> Response:
    """Remove all records that were enrolled before a time, for good."""
    gallery = visit.service.shelf.get(name)
    removed = await visit.in_store(name, gallery, lambda: gallery.remove(enrolled_before_s=enrolled_before_s), finish=True)
    return _removed(visit, removed)


@router.post("/v1/galleries/{name}/vacuum", status_code=204, response_class=Response)
async def vacuum(visit: Annotated[Visit, Depends(writer)], name: Name) -> Response:
    """Rewrite the gallery's files so that nothing of removed records is left in them."""
    gallery = visit.service.shelf.get(name)
    await visit.in_store(name, gallery, gallery.vacuum, finish=True)
    return Response(status_code=204)


def _removed(visit: Visit, number: int) -> Response:
    visit.exchange.counts["num_removed"] = number
    return json_answer({"num_removed": number})


def _described(name: str, gallery: Gallery) -> dict[str, Any]:
    counts = gallery.counts()
    return {
        "name": name,
        "num_records": counts.num_records,
        "num_people": len(counts.by_pid.keys() - {None}),
        "num_cameras": len(counts.by_camid.keys() - {None}),
        "num_without_pid": counts.by_pid.get(None, 0),
        "first_seen_s": counts.first_seen_s,
        "last_seen_s": counts.last_seen_s,
        "read_only": gallery.read_only,
        "model": gallery.binding.name,
        "fingerprint": gallery.binding.fingerprint,
    }
