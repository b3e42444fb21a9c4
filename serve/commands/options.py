"""What the commands about galleries share: their options, how these are read, and records as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..gallery.records import Filter, Record


Location = Annotated[str, typer.Argument(metavar="GALLERY", help="A gallery's file, or milvus://HOST:PORT/NAME.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CamidsOption = Annotated[list[int] | None, typer.Option("--camid", help="Only what this camera saw; repeat for several.")]
PidsOption = Annotated[list[str] | None, typer.Option("--pid", help="Only this identity, a number or a name; repeat.")]
SinceOption = Annotated[str | None, typer.Option(help="Seen at this time or later: 2026-11-25T08:30 (UTC), or seconds.")]
UntilOption = Annotated[str | None, typer.Option(help="Seen before this time.")]
AttributeOption = Annotated[list[str] | None, typer.Option(help="Only images with NAME=VALUE; repeat for several.")]


def make_filter(
    *,
    camids: list[int] | None = None,
    exclude_camids: list[int] | None = None,
    pids: list[str] | None = None,
    since: str | None = None,
    until: str | None = None,
    attribute: list[str] | None = None,
) -> Filter:
    """Return the filter of a command's options.

    Raises:
        UsageError: An identity, a time or an attribute cannot be read, or ``since`` is not before ``until``.
    """
    from ..gallery.attribute_values import parse_timestamp
    from ..gallery.identities import parse_identity
    from ..gallery.records import Filter

    return Filter.of(
        camids=camids or None,
        exclude_camids=exclude_camids,
        pids=[parse_identity(pid, "--pid") for pid in pids] if pids else None,
        since_s=None if since is None else parse_timestamp(since, "--since"),
        until_s=None if until is None else parse_timestamp(until, "--until"),
        attributes=parse_attribute_options(attribute),
    )


def parse_attribute_options(texts: list[str] | None) -> dict[str, Any]:
    """Return the attributes of ``--attribute NAME=VALUE`` options.

    Raises:
        UsageError: One has no ``=``, or cannot be an attribute.
    """
    from hat.errors import UsageError

    from ..gallery.attribute_values import parse_attributes

    pairs = []
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"--attribute is NAME=VALUE, such as color=red, got {text!r}")
        pairs.append((name.strip(), value.strip()))
    return dict(parse_attributes(pairs, "--attribute"))


def record_result(record: Record) -> dict[str, Any]:
    """Return a record as plain data for JSON, without its thumbnail."""
    return {
        "id": record.id,
        "pid": record.pid,
        "camid": record.camid,
        "time_s": record.time_s,
        "source": record.source,
        "attributes": dict(record.attributes),
        "enrolled_s": record.enrolled_s,
        "content_hash": record.content_hash,
    }


def check_picture_path(path: Path | None) -> None:
    """Refuse before the work what would be refused after it.

    Raises:
        UsageError: The ending is no picture format's, or the folder is not there.
    """
    from PIL import Image

    from hat.errors import UsageError

    if path is None:
        return
    if path.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"{path}: the ending must name a picture format, such as .png")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder: make it first")


def write_picture(image: Any, path: Path) -> None:
    """Write a PIL image.

    Raises:
        WorkError: It cannot be written.
    """
    from hat.errors import WorkError

    try:
        image.save(path)
    except (OSError, ValueError) as error:
        raise WorkError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
