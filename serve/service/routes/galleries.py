"""``/v1/galleries``: which galleries there are, what each holds, and what is made and tidied of them."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from ...gallery.gallery import Gallery
from ...gallery.records import Filter, RecordsMissingError
from ..api_error import ApiError
from ..dependencies import GalleryDep, Name, Reader, Writer
from ..schemas import GalleryInfo, GalleryList, Identity, MakeGallery, NumRemoved, NumUpdated, TimeS, UpdatePerson
from ..uploads import describe_body

router = APIRouter(tags=["galleries"])

Person = Annotated[Identity, Path(description="Identity, a number or a name.")]


@router.get("/v1/galleries")
async def list_galleries(reader: Reader) -> GalleryList:
    """List the names of all galleries."""
    return GalleryList(galleries=reader.service.galleries.names())


@router.post(
    "/v1/galleries",
    status_code=201,
    response_model=GalleryInfo,
    openapi_extra=describe_body(MakeGallery, images=False, json=True),
)
async def make_gallery(writer: Writer) -> dict[str, Any]:
    """Make an empty gallery for the service's model, where the service was started with a folder for it."""
    name = writer.context.gallery = (await writer.receive_json(MakeGallery)).name
    return await writer.run(lambda: _info(name, writer.service.galleries.create(name)))


@router.get("/v1/galleries/{name}", response_model=GalleryInfo)
async def describe_gallery(reader: Reader, name: Name, gallery: GalleryDep) -> dict[str, Any]:
    """Count what a gallery holds, and name the model that made its embeddings."""
    return await reader.run(lambda: _info(name, gallery))


@router.patch("/v1/galleries/{name}/people/{pid:path}", openapi_extra=describe_body(UpdatePerson, images=False, json=True))
async def update_person(writer: Writer, gallery: GalleryDep, pid: Person) -> NumUpdated:
    """Rename a person in all records; where the new identity has records too, the two are merged."""
    update = await writer.receive_json(UpdatePerson)

    def rename() -> int:
        ids = gallery.ids(Filter.of(pids=[pid])).tolist()
        return gallery.update(ids, {"pid": update.pid}) if ids else 0

    try:
        num_updated = writer.context.counts["num_updated"] = await writer.run(rename)
    except RecordsMissingError:
        raise ApiError(409, "records of this person were removed meanwhile: ask again") from None
    return NumUpdated(num_updated=num_updated)


@router.delete("/v1/galleries/{name}/people/{pid:path}")
async def remove_person(writer: Writer, gallery: GalleryDep, pid: Person) -> NumRemoved:
    """Remove all records of one person, for good. `vacuum` takes their bytes off the disk."""
    return writer.record_removal(await writer.run(lambda: gallery.remove(pid=pid)))


@router.delete("/v1/galleries/{name}/records")
async def remove_old_records(
    writer: Writer,
    gallery: GalleryDep,
    enrolled_before_s: Annotated[TimeS, Query(description="Enrolled before this time, seconds since 1970 (UTC).")],
) -> NumRemoved:
    """Remove all records that were enrolled before a time, for good."""
    return writer.record_removal(await writer.run(lambda: gallery.remove(enrolled_before_s=enrolled_before_s)))


@router.post("/v1/galleries/{name}/vacuum", status_code=204)
async def vacuum(writer: Writer, gallery: GalleryDep) -> None:
    """Rewrite the gallery's files so that nothing of removed records is left in them."""
    await writer.run(gallery.vacuum)


def _info(name: str, gallery: Gallery) -> dict[str, Any]:
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
