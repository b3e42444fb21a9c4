"""``/v1/galleries``: create, describe and vacuum galleries; enroll, list, relabel and remove their records."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from hat.data.images import image_size

from ...enroll.enrolling import Enrollment, enroll_images
from ...enroll.items import Item
from ...gallery.gallery import Gallery
from ...gallery.records import Filter, Record, RecordPage, RecordsMissingError
from .. import schemas
from ..api_error import ApiError
from ..dependencies import AuthorizedRequest, GalleryDep, Name, Reader, Writer
from ..uploads import UploadedImage, describe_body

router = APIRouter(prefix="/v1/galleries", tags=["galleries"])

Person = Annotated[schemas.Identity, Path(description="Identity, a number or a name.")]
Id = Annotated[schemas.RecordId, Path(description="The record's id.")]


@router.get("")
async def list_galleries(reader: Reader) -> schemas.GalleryList:
    """List the names of all galleries."""
    return schemas.GalleryList(galleries=reader.service.galleries.names())


@router.post("", status_code=201, openapi_extra=describe_body(schemas.MakeGallery, json=True))
async def make_gallery(writer: Writer) -> schemas.GalleryInfo:
    """Create an empty gallery for the service's model, if the service was started with a folder for galleries."""
    name = writer.context.gallery = (await writer.receive_json(schemas.MakeGallery)).name
    return await writer.run(lambda: _info(name, writer.service.galleries.create(name)))


@router.get("/{name}")
async def describe_gallery(reader: Reader, name: Name, gallery: GalleryDep) -> schemas.GalleryInfo:
    """Return the counts of a gallery and the model that made its embeddings."""
    return await reader.run(lambda: _info(name, gallery))


@router.patch("/{name}/people/{pid:path}", openapi_extra=describe_body(schemas.UpdatePerson, json=True))
async def update_person(writer: Writer, gallery: GalleryDep, pid: Person) -> schemas.NumUpdated:
    """Rename a person in all records; if the new identity has records too, the two are merged."""
    update = await writer.receive_json(schemas.UpdatePerson)

    def rename() -> int:
        ids = gallery.ids(Filter.of(pids=[pid])).tolist()
        return gallery.update(ids, {"pid": update.pid}) if ids else 0

    try:
        num_updated = writer.context.counts["num_updated"] = await writer.run(rename)
    except RecordsMissingError:
        raise ApiError(409, "records of this person were removed meanwhile: ask again") from None
    return schemas.NumUpdated(num_updated=num_updated)


@router.delete("/{name}/people/{pid:path}")
async def remove_person(writer: Writer, gallery: GalleryDep, pid: Person) -> schemas.NumRemoved:
    """Remove all records of one person permanently. `vacuum` removes their bytes from the disk."""
    return await writer.remove(lambda: gallery.remove(pid=pid))


@router.delete("/{name}/records")
async def remove_old_records(
    writer: Writer, gallery: GalleryDep, query: Annotated[schemas.OldRecords, Query()]
) -> schemas.NumRemoved:
    """Remove all records that were enrolled before a time, permanently."""
    return await writer.remove(lambda: gallery.remove(enrolled_before_s=query.enrolled_before_s))


@router.post("/{name}/vacuum", status_code=204)
async def vacuum(writer: Writer, gallery: GalleryDep) -> None:
    """Rewrite the gallery's files without the bytes of removed records."""
    await writer.run(gallery.vacuum)


@router.post(
    "/{name}/records", response_model=schemas.EnrollResult, openapi_extra=describe_body(schemas.EnrollForm, images=True)
)
async def enroll(writer: Writer, gallery: GalleryDep) -> Enrollment:
    """Add images, in fields named `images`. An image that is enrolled already is recognized by its bytes and not added again.

    It keeps its labels; if the request gives other ones, it is listed in `conflicts`, unless `update` is true.

    Labels that all images share go into the fields; labels of each image go into `records`.
    """
    service, settings = writer.service, writer.service.settings
    async with writer.receive() as upload:
        form = upload.parse(schemas.EnrollForm)
        if not upload.images:
            raise ApiError(422, "expected images, in fields named images")
        items = [
            Item(
                source=label.source or image.name,
                read=partial(_read_image, image, settings.max_pixels),
                **label.model_dump(exclude={"source"}),
            )
            for image, label in zip(upload.images, form.labels(len(upload.images)), strict=True)
        ]
        add = partial(enroll_images, batch_size=settings.max_batch, thumbnail_height=settings.thumbnail_height)
        enrolled = await writer.run(lambda: add(gallery, service.pipeline, items, update=form.update))
    service.metrics.count_images("enrolled", enrolled.num_added)
    service.metrics.count_images("bad", len(enrolled.bad))
    counts = {name: getattr(enrolled, name) for name in ("num_added", "num_known", "num_updated")}
    writer.context.counts |= {**counts, "num_bad": len(enrolled.bad)}
    return enrolled


@router.get("/{name}/records", response_model=schemas.RecordPage)
async def list_records(reader: Reader, gallery: GalleryDep, query: Annotated[schemas.RecordFilter, Query()]) -> RecordPage:
    """List records by ascending id, a page at a time."""
    page = await reader.run(lambda: gallery.page(query.where(), after_id=query.after_id, limit=query.limit))
    reader.context.counts["num_results"] = len(page.records)
    return page


@router.get("/{name}/records/{record_id}", response_model=schemas.RecordInfo)
async def describe_record(reader: Reader, gallery: GalleryDep, record_id: Id) -> Record:
    """Return one record."""
    return await _get_record(reader, gallery, record_id)


@router.get(
    "/{name}/records/{record_id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def show_record(reader: Reader, gallery: GalleryDep, record_id: Id) -> Response:
    """Return the thumbnail of a record, if the gallery stores thumbnails."""
    record = await _get_record(reader, gallery, record_id)
    if record.thumbnail is None:
        raise ApiError(404, "no picture is kept with this record")
    return Response(record.thumbnail, media_type="image/jpeg")


@router.patch(
    "/{name}/records/{record_id}",
    response_model=schemas.RecordInfo,
    openapi_extra=describe_body(schemas.UpdateRecord, json=True),
)
async def update_record(writer: Writer, gallery: GalleryDep, record_id: Id) -> Record:
    """Change the labels of a record: its identity, camera, time or attributes. Its embedding stays as it is."""
    update = await writer.receive_json(schemas.UpdateRecord)
    if not update.model_fields_set:
        raise ApiError(422, "expected new labels: pid, camid, time_s or attributes")
    return await _get_record(writer, gallery, record_id, update)


@router.delete("/{name}/records/{record_id}")
async def remove_record(writer: Writer, gallery: GalleryDep, record_id: Id) -> schemas.NumRemoved:
    """Remove one record permanently; a missing record is not an error. `vacuum` removes its bytes from the disk."""
    return await writer.remove(lambda: gallery.remove(ids=[record_id]))


def _info(name: str, gallery: Gallery) -> schemas.GalleryInfo:
    counts = gallery.counts()
    return schemas.GalleryInfo(
        **vars(counts),
        name=name,
        num_people=len(counts.by_pid.keys() - {None}),
        num_cameras=len(counts.by_camid.keys() - {None}),
        num_without_pid=counts.by_pid.get(None, 0),
        read_only=gallery.read_only,
        model=gallery.binding.name,
        fingerprint=gallery.binding.fingerprint,
    )


def _read_image(image: UploadedImage, max_pixels: int) -> bytes:
    """Return an image's bytes, its size bounded by what its header says before anything is decoded."""
    image_size(image.data, image.name, max_pixels=max_pixels)
    return image.data


async def _get_record(
    request: AuthorizedRequest, gallery: Gallery, record_id: int, update: schemas.UpdateRecord | None = None
) -> Record:
    """Return a record with its thumbnail, relabeled first where there is an update."""

    def work() -> Record:
        if update is not None:
            request.context.counts["num_updated"] = gallery.update([record_id], update.labels())
        return gallery.get([record_id], thumbnails=True)[0]

    try:
        return await request.run(work)
    except RecordsMissingError:
        raise ApiError(404, "there is no record of this id in the gallery") from None
