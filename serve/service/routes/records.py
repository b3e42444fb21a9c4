"""``/v1/galleries/NAME/records``: images enrolled, listed, looked at and removed."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from hat.data.images import image_size

from ...enroll.enrolling import Enrollment, enroll_images
from ...enroll.items import Item
from ...gallery.records import Record, RecordsMissingError
from ...gallery.records import RecordPage as Page
from ..api_error import ApiError
from ..dependencies import AuthorizedRequest, GalleryDep, Reader, Writer
from ..schemas import (
    EnrollForm,
    EnrollResult,
    ItemLabels,
    NumRemoved,
    RecordFilter,
    RecordId,
    RecordInfo,
    RecordPage,
    UpdateRecord,
)
from ..uploads import UploadedImage, describe_body

router = APIRouter(tags=["records"])

Id = Annotated[RecordId, Path(description="The record's id.")]


@router.post("/v1/galleries/{name}/records", response_model=EnrollResult, openapi_extra=describe_body(EnrollForm, images=True))
async def enroll(writer: Writer, gallery: GalleryDep) -> dict[str, Any]:
    """Add images, in fields named `images`. One that is there already is told by its bytes and not added again.

    It keeps its labels, and is among the `conflicts` where other ones are given now, unless `update` is true.

    What is known of all images alike goes into the fields; of each image, into `records`.
    """
    service = writer.service
    async with writer.receive() as upload:
        form = upload.parse(EnrollForm)
        if not upload.images:
            raise ApiError(422, "expected images, in fields named images")
        try:
            labels = form.labels(len(upload.images))
        except ValueError as error:
            raise ApiError(422, str(error)) from None
        items = _items(upload.images, labels, service.settings.max_pixels)

        def add() -> Enrollment:
            height = service.settings.thumbnail_height
            size = service.settings.max_batch
            return enroll_images(gallery, service.embedder, items, batch_size=size, thumbnail_height=height, update=form.update)

        enrolled = await writer.run(add)
    service.metrics.count_images("enrolled", enrolled.num_added)
    service.metrics.count_images("bad", len(enrolled.bad))
    counts = {name: getattr(enrolled, name) for name in ("num_added", "num_known", "num_updated")}
    writer.context.counts |= {**counts, "num_bad": len(enrolled.bad)}
    conflicts, bad = ([one._asdict() for one in images] for images in (enrolled.conflicts, enrolled.bad))
    return {"ids": enrolled.ids, **counts, "conflicts": conflicts, "bad": bad}


@router.get("/v1/galleries/{name}/records", response_model=RecordPage)
async def list_records(reader: Reader, gallery: GalleryDep, query: Annotated[RecordFilter, Query()]) -> Page:
    """List records by ascending id, a page at a time."""
    page = await reader.run(lambda: gallery.page(query.where(), after_id=query.after_id, limit=query.limit))
    reader.context.counts["num_results"] = len(page.records)
    return page


@router.get("/v1/galleries/{name}/records/{record_id}", response_model=RecordInfo)
async def describe_record(reader: Reader, gallery: GalleryDep, record_id: Id) -> Record:
    """Return one record."""
    return await _read(reader, lambda: gallery.get([record_id])[0])


@router.get(
    "/v1/galleries/{name}/records/{record_id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def show_record(reader: Reader, gallery: GalleryDep, record_id: Id) -> Response:
    """Return the small picture that is kept with a record, where the gallery keeps them."""
    record = await _read(reader, lambda: gallery.get([record_id], thumbnails=True)[0])
    if record.thumbnail is None:
        raise ApiError(404, "no picture is kept with this record")
    return Response(record.thumbnail, media_type="image/jpeg")


@router.patch(
    "/v1/galleries/{name}/records/{record_id}",
    response_model=RecordInfo,
    openapi_extra=describe_body(UpdateRecord, images=False, json=True),
)
async def update_record(writer: Writer, gallery: GalleryDep, record_id: Id) -> Record:
    """Change what is known of a record: its identity, camera, time or attributes. Its embedding stays as it is."""
    update = await writer.receive_json(UpdateRecord)
    if not update.model_fields_set:
        raise ApiError(422, "expected new labels: pid, camid, time_s or attributes")

    def relabel() -> Record:
        writer.context.counts["num_updated"] = gallery.update([record_id], update.labels())
        return gallery.get([record_id])[0]

    return await _read(writer, relabel)


@router.delete("/v1/galleries/{name}/records/{record_id}")
async def remove_record(writer: Writer, gallery: GalleryDep, record_id: Id) -> NumRemoved:
    """Remove one record, for good; one that is not there is no error. `vacuum` takes its bytes off the disk."""
    return writer.record_removal(await writer.run(lambda: gallery.remove(ids=[record_id])))


def _items(images: Sequence[UploadedImage], labels: Sequence[ItemLabels], max_pixels: int) -> list[Item]:
    return [
        Item(
            source=label.source or image.name,
            read=_image_reader(image, max_pixels),
            box=label.box,
            pid=label.pid,
            camid=label.camid,
            time_s=label.time_s,
            attributes=label.attributes,
        )
        for image, label in zip(images, labels, strict=True)
    ]


def _image_reader(image: UploadedImage, max_pixels: int) -> Callable[[], bytes]:
    def read() -> bytes:
        image_size(image.data, image.name, max_pixels=max_pixels)
        return image.data

    return read


async def _read(request: AuthorizedRequest, work: Callable[[], Record]) -> Record:
    try:
        return await request.run(work)
    except RecordsMissingError:
        raise ApiError(404, "there is no record of this id in the gallery") from None
