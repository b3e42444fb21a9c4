"""``/v1/galleries/NAME/records``: images enrolled, listed, looked at and removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from hat.data.images import image_size

from ...enroll.enrolling import Enrollment, Item, enroll_images
from ...gallery.gallery import Gallery
from ...gallery.records import Record
from ..forms import checked, request_body
from ..refusal import RefusalError
from ..schemas import EnrollAnswer, EnrollForm, ItemLabels, RecordAnswer, RecordFilter, RecordPage, Removed, record_answer
from ..service import Visit, reader, writer
from ..uploads import UploadedImage
from .galleries import Name, json_answer

__all__ = ["router"]

router = APIRouter(tags=["records"])

Identity = Annotated[int, Path(ge=1, le=2**63 - 1, description="The record's id.")]


@router.post(
    "/v1/galleries/{name}/records",
    responses={200: {"model": EnrollAnswer}},
    openapi_extra=request_body(EnrollForm, images=True),
)
async def enroll_records(visit: Annotated[Visit, Depends(writer)], name: Name) -> Response:
    """Add images, in fields named `images`. One that is there already is told by its bytes and not added again.

    What is known of all images alike goes into the fields; of each image, into `records`.
    """
    service = visit.service
    gallery = service.shelf.get(name)
    with service.admission.enter() as place:
        upload = await visit.upload(place)
        form = checked(EnrollForm, upload.fields)
        if not upload.images:
            raise RefusalError(422, "expected images, in fields named images")
        try:
            labels = form.labels(len(upload.images))
        except ValueError as error:
            raise RefusalError(422, str(error)) from None
        items = _items(upload.images, labels, service.settings.max_pixels)

        def add() -> Enrollment:
            height = service.settings.thumbnail_height
            return enroll_images(
                gallery, service.embedder, items, batch_size=service.settings.max_batch, thumbnail_height=height
            )

        enrolled = await visit.in_store(name, gallery, add, finish=True)
    service.metrics.count_images("enrolled", enrolled.num_added)
    service.metrics.count_images("bad", len(enrolled.bad))
    visit.exchange.counts |= {"num_added": enrolled.num_added, "num_known": enrolled.num_known, "num_bad": len(enrolled.bad)}
    bad = [{"source": source, "reason": reason} for source, reason in enrolled.bad]
    counts = {"num_added": enrolled.num_added, "num_known": enrolled.num_known}
    return json_answer({"ids": list(enrolled.ids), **counts, "bad": bad})


@router.get("/v1/galleries/{name}/records", responses={200: {"model": RecordPage}})
async def list_records(
    visit: Annotated[Visit, Depends(reader)], name: Name, wanted: Annotated[RecordFilter, Query()]
) -> Response:
    """Records by ascending id, a page at a time."""
    gallery = visit.service.shelf.get(name)
    page = await visit.in_store(name, gallery, lambda: _page(gallery, wanted))
    visit.exchange.counts["num_results"] = len(page["records"])
    return json_answer(page)


@router.get("/v1/galleries/{name}/records/{record_id}", responses={200: {"model": RecordAnswer}})
async def describe_record(visit: Annotated[Visit, Depends(reader)], name: Name, record_id: Identity) -> Response:
    """One record."""
    return json_answer(record_answer(await _record(visit, name, record_id)))


@router.get(
    "/v1/galleries/{name}/records/{record_id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def show_record(visit: Annotated[Visit, Depends(reader)], name: Name, record_id: Identity) -> Response:
    """The small picture that is kept with a record, where the gallery keeps them."""
    record = await _record(visit, name, record_id, thumbnails=True)
    if record.thumbnail is None:
        raise RefusalError(404, "no picture is kept with this record")
    return Response(record.thumbnail, media_type="image/jpeg")


@router.delete("/v1/galleries/{name}/records/{record_id}", responses={200: {"model": Removed}})
async def remove_record(visit: Annotated[Visit, Depends(writer)], name: Name, record_id: Identity) -> Response:
    """Remove one record, for good; one that is not there is no error. `vacuum` takes its bytes off the disk."""
    gallery = visit.service.shelf.get(name)
    number = await visit.in_store(name, gallery, lambda: _remove(gallery, record_id), finish=True)
    visit.exchange.counts["num_removed"] = number
    return json_answer({"num_removed": number})


def _items(images: Sequence[UploadedImage], labels: Sequence[ItemLabels], max_pixels: int) -> list[Item]:
    return [
        Item(
            source=label.source or image.name,
            read=_reader(image, max_pixels),
            box=label.region(),
            pid=label.pid,
            camid=label.camid,
            time_s=label.time_s,
            attributes=label.attributes,
        )
        for image, label in zip(images, labels, strict=True)
    ]


def _reader(image: UploadedImage, max_pixels: int) -> Callable[[], bytes]:
    def read() -> bytes:
        image_size(image.data, image.name, max_pixels=max_pixels)
        return image.data

    return read


def _page(gallery: Gallery, wanted: RecordFilter) -> dict[str, Any]:
    page = gallery.page(wanted.where(), after_id=wanted.after_id, limit=wanted.limit)
    return {
        "records": [record_answer(record) for record in page.records],
        "num_matching": page.num_matching,
        "next_after_id": page.next_after_id,
    }


async def _record(visit: Visit, name: str, record_id: int, *, thumbnails: bool = False) -> Record:
    gallery = visit.service.shelf.get(name)
    try:
        (record,) = await visit.in_store(name, gallery, lambda: gallery.get([record_id], thumbnails=thumbnails))
    except RefusalError as refusal:
        if refusal.status == 422:
            raise RefusalError(404, "there is no record of this id in the gallery") from None
        raise
    return record


def _remove(gallery: Gallery, record_id: int) -> int:
    return gallery.remove(ids=[record_id])
