"""``hat enroll``: images of people into a gallery."""

import time
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from hat.commands.options import GrayBits
from hat.console import emit, make_table
from hat.data.images import set_gray_bits
from hat.errors import UsageError, WorkError

from ..enroll.image_sources import ImageSources, NameStyle, gallery_cameras
from ..enroll.items import Labels
from ..gallery.gallery import Gallery
from . import options

_THUMBNAIL_HEIGHT = 160


def enroll(
    gallery: Annotated[str, typer.Argument(help="A gallery's file, created if missing, or milvus://HOST:PORT/NAME.")],
    images: options.Images,
    model: Annotated[str, typer.Option("--model", help="A checkpoint folder or an exported file.")],
    pid: options.Pid = None,
    camid: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Camera of all images.")] = None,
    time_: options.Time = None,
    attribute: options.NewAttributes = None,
    names: Annotated[str, typer.Option(help="Read names like 0002_c1s1_000451_03.jpg: auto, market or none.")] = "auto",
    boxes: options.Boxes = None,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Keep a small picture of each new image.")] = False,
    thumbnail_height: Annotated[
        int | None,
        typer.Option(min=16, max=1024, help=f"Keep thumbnails of this height in pixels; default: {_THUMBNAIL_HEIGHT}."),
    ] = None,
    float16: options.Float16 = False,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 32,
    gray_bits: GrayBits = None,
    update: Annotated[bool, typer.Option("--update", help="Replace the labels of known images.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Add images of people to a gallery.

    An image that is there already is recognized by its content and not added again, so the same command may be repeated, and
    goes on where it was stopped. A known image keeps the labels that it has; where others are given now it is named and the
    exit code is 1; --update changes them. Images that cannot be used are named and left out; the exit code is 1 when nothing
    could be enrolled.

    Identities and cameras are read as hat eval reads them: a folder for each person, whose name is a number (0007 is 7) or a
    name; Market-style file names, which also give sequence and frame; VIPeR, MARS and others. Junk (-1) is left out, and 0000,
    which is background and passers-by, is enrolled without an identity. A table has the column path, and maybe pid, camid,
    time, left, top, right, bottom; any other column becomes an attribute. Options stand above all of it.

    Examples:

      hat enroll people.gallery ~/crops --model runs/market

      hat enroll people.gallery lobby.zip door.jpg --model market.onnx --camid 3 --time 2026-11-25T08:30 --thumbnails

      hat enroll people.gallery people.csv --model runs/market --attribute site=north

      hat enroll people.gallery yard.mp4 --boxes boxes.csv --model runs/market --camid 4 --time 2026-11-25T08:30
    """
    from ..enroll.enrolling import enroll_images

    start = time.monotonic()
    labels = Labels(pid=pid, camid=camid, time_s=time_, attributes=options.parse_attribute_options(attribute))
    set_gray_bits(gray_bits)
    sources = ImageSources(
        images, labels=labels, names=cast(NameStyle, names), boxes=boxes, cameras=lambda: gallery_cameras(gallery)
    )
    total = sources.count()
    if not total:
        left_out = "".join(f"; left out: {count:,} ({reason})" for reason, count in sources.left_out.items())
        raise UsageError(f"there is no image to enroll in {', '.join(images)}{left_out}")
    options.tell(*sources.notes)
    embedder, binding = options.open_embedder(model, device, batch_size)
    with Gallery.open(gallery, binding=binding, create=True, stored_type="float16" if float16 else "float32") as opened:
        if float16 and opened.stored_type != "float16":
            raise UsageError(f"{gallery} keeps embeddings in {opened.stored_type}: --float16 is for a new gallery")
        before = len(opened)
        try:
            with options.progress_bar("enrolling", total) as advance:
                done = enroll_images(
                    opened,
                    embedder,
                    sources.items(),
                    batch_size=batch_size,
                    thumbnail_height=thumbnail_height or (_THUMBNAIL_HEIGHT if thumbnails else None),
                    update=update,
                    progress=advance,
                )
        except KeyboardInterrupt:
            raise WorkError(
                f"interrupted: {len(opened) - before:,} images were added and stay; the same command goes on from there"
            ) from None
        result = {
            "gallery": gallery,
            "model": binding.name,
            "num_added": done.num_added,
            "num_known": done.num_known,
            "num_updated": done.num_updated,
            "num_conflicts": len(done.conflicts),
            "conflicts": [entry._asdict() for entry in done.conflicts],
            "num_bad": len(done.bad),
            "bad": [entry._asdict() for entry in done.bad],
            "left_out": dict(sources.left_out),
            "unread": sources.unread,
            "notes": sources.notes,
            "num_records": len(opened),
            "seconds": round(time.monotonic() - start, 3),
        }
    options.print_problems("left out", done.bad)
    options.print_problems("other labels", done.conflicts)
    options.tell(*(f"not read: {path}" for path in sources.unread))
    emit(result, _table(result), as_json)
    if not done.ids:
        raise WorkError(
            f"nothing could be enrolled: none of {len(done.bad):,} images can be used; the first: {': '.join(done.bad[0])}"
        )
    if done.conflicts:
        raise WorkError(
            f"{len(done.conflicts):,} images are enrolled already with other labels, which they keep: --update changes them, "
            "hat gallery label changes single ones"
        )


def _table(result: dict[str, Any]) -> Table:
    counts = {
        "known already": (result["num_known"], ""),
        "labels changed": (result["num_updated"], ""),
        "other labels": (result["num_conflicts"], " known images keep those that they have"),
        "cannot be used": (result["num_bad"], ""),
    }
    num_read, seconds = result["num_added"] + result["num_known"] + result["num_bad"], result["seconds"]
    rows = [
        ("gallery", f"{result['gallery']}, {result['num_records']:,} images now"),
        ("added", f"{result['num_added']:,}"),
        *((name, f"{count:,}{words}") for name, (count, words) in counts.items() if count),
        *(("left out", f"{count:,} ({reason})") for reason, count in result["left_out"].items()),
        ("time", f"{seconds:.1f} s, {num_read / max(seconds, 1e-3):.0f} images/s"),
    ]
    return make_table(rows)
