"""``hat enroll``: images of people into a gallery."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hat.console import emit, progress, stderr

from .options import AsJson, parse_attribute_options

if TYPE_CHECKING:
    from rich.table import Table

    from hat.embedder import Embedder

    from ..enroll.enrolling import Enrollment
    from ..enroll.image_sources import ImageSources, NameStyle
    from ..gallery.gallery import Gallery


_MAX_NAMED = 20
"""Images that are named on the screen; --json has all of them."""


def enroll(
    gallery: Annotated[str, typer.Argument(help="A gallery's file, made where there is none; or milvus://HOST:PORT/NAME.")],
    images: Annotated[list[str], typer.Argument(help="Images, folders, zip files, tables (.csv), or one video with --boxes.")],
    model: Annotated[
        str, typer.Option("--model", help="A checkpoint folder or an exported file; always the same for a gallery.")
    ],
    pid: Annotated[str | None, typer.Option(help="Identity of all images, a number or a name.")] = None,
    camid: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Camera of all images.")] = None,
    time_: Annotated[
        str | None, typer.Option("--time", help="When all were seen, or a video began: 2026-11-25T08:30:15 (UTC), or seconds.")
    ] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of all images; repeat for several.")] = None,
    names: Annotated[
        str, typer.Option(help="File names like 0002_c1s1_000451_03.jpg: auto (or folders of people), market or none.")
    ] = "auto",
    boxes: Annotated[
        Path | None, typer.Option(help="People in the video: frame or time, left, top, right, bottom, ...")
    ] = None,
    thumbnails: Annotated[bool, typer.Option("--thumbnails", help="Keep a small picture of each image.")] = False,
    thumbnail_height: Annotated[int, typer.Option(min=16, max=1024, help="Its height in pixels.")] = 160,
    float16: Annotated[bool, typer.Option("--float16", help="A new gallery keeps embeddings in half the space.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images that are embedded and written at once.")] = 32,
    update: Annotated[bool, typer.Option("--update", help="Give known images the labels that are given now.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add images of people to a gallery.

    An image that is there already is told by its content and not added again, so the same command may be repeated, and goes on
    where it was stopped. A known image keeps the labels that it has; where others are given now it is named and the exit code
    is 1; --update changes them. Images that cannot be used are named and left out; the exit code is 1 when nothing could be
    enrolled.

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
    from hat.embedder import Embedder
    from hat.errors import UsageError, WorkError
    from hat.runtime import runtime_info

    from ..enroll.image_sources import ImageSources, Labels
    from ..gallery.attribute_values import parse_timestamp
    from ..gallery.binding import binding_of
    from ..gallery.gallery import Gallery
    from ..gallery.identities import parse_identity

    start = time.monotonic()
    labels = Labels(
        pid=None if pid is None else parse_identity(pid, "--pid"),
        camid=camid,
        time_s=None if time_ is None else parse_timestamp(time_, "--time"),
        attributes=parse_attribute_options(attribute),
    )
    sources = ImageSources(images, labels=labels, names=cast("NameStyle", names), boxes=boxes)
    total = sources.count()
    if not total:
        left_out = "".join(f"; left out: {count:,} ({reason})" for reason, count in sources.left_out.items())
        raise UsageError(f"there is no image to enroll in {', '.join(images)}{left_out}")
    embedder = Embedder.open(model, device=device, batch_size=batch_size)
    binding = binding_of(runtime_info(embedder.runtime))
    with Gallery.open(gallery, binding=binding, create=True, stored_type="float16" if float16 else "float32") as opened:
        if float16 and opened.stored_type != "float16":
            raise UsageError(f"{gallery} keeps embeddings in {opened.stored_type}: --float16 is for a new gallery")
        before = len(opened)
        try:
            found = _enroll(opened, embedder, sources, total, batch_size, thumbnail_height if thumbnails else None, update)
        except KeyboardInterrupt:
            raise WorkError(
                f"interrupted: {len(opened) - before:,} images were added and stay; the same command goes on from there"
            ) from None
        result = {
            "gallery": gallery,
            "model": binding.name,
            "num_added": found.num_added,
            "num_known": found.num_known,
            "num_updated": found.num_updated,
            "num_conflicts": len(found.conflicts),
            "conflicts": [{"source": source, "reason": reason} for source, reason in found.conflicts],
            "num_bad": len(found.bad),
            "bad": [{"source": source, "reason": reason} for source, reason in found.bad],
            "left_out": dict(sources.left_out),
            "unread": list(sources.unread),
            "notes": list(sources.notes),
            "num_records": len(opened),
            "seconds": round(time.monotonic() - start, 3),
        }
    print_reasons("left out", found.bad)
    print_reasons("other labels", found.conflicts)
    for note in sources.notes:
        stderr.print(note, markup=False, soft_wrap=True)
    for path in sources.unread:
        stderr.print(f"not read: {path}", markup=False, soft_wrap=True)
    emit(result, _table(result), as_json)
    if not found.ids:
        source, reason = found.bad[0]
        raise WorkError(
            f"nothing could be enrolled: none of {len(found.bad):,} images can be used; the first: {source}: {reason}"
        )
    if found.conflicts:
        raise WorkError(
            f"{len(found.conflicts):,} images are enrolled already with other labels, which they keep: --update changes them, "
            "hat gallery label changes single ones"
        )


def print_reasons(what: str, found: Sequence[tuple[str, str]]) -> None:
    """Name sources and reasons on stderr, the first of them."""
    for source, reason in found[:_MAX_NAMED]:
        stderr.print(f"{what}: {source}: {reason}", markup=False, soft_wrap=True)
    if len(found) > _MAX_NAMED:
        stderr.print(f"{what}: {len(found) - _MAX_NAMED:,} more; --json names all of them")


def _enroll(
    gallery: Gallery,
    embedder: Embedder,
    sources: ImageSources,
    total: int,
    batch_size: int,
    thumbnail_height: int | None,
    update: bool,
) -> Enrollment:
    from ..enroll.enrolling import enroll_images as run

    with progress() as display:
        task = display.add_task("enrolling", total=total, info="")
        return run(
            gallery,
            embedder,
            sources.items(),
            batch_size=batch_size,
            thumbnail_height=thumbnail_height,
            update=update,
            progress=lambda count: display.advance(task, count),
        )


def _table(result: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("gallery", Text(f"{result['gallery']}, {result['num_records']:,} images now"))
    table.add_row("added", f"{result['num_added']:,}")
    if result["num_known"]:
        table.add_row("known already", f"{result['num_known']:,}")
    if result["num_updated"]:
        table.add_row("labels changed", f"{result['num_updated']:,}")
    if result["num_conflicts"]:
        table.add_row("other labels", f"{result['num_conflicts']:,} known images keep those that they have")
    if result["num_bad"]:
        table.add_row("cannot be used", f"{result['num_bad']:,}")
    for reason, count in result["left_out"].items():
        table.add_row("left out", f"{count:,} ({reason})")
    handled = result["num_added"] + result["num_known"] + result["num_bad"]
    table.add_row("time", f"{result['seconds']:.1f} s, {handled / max(result['seconds'], 1e-9):.0f} images/s")
    return table
