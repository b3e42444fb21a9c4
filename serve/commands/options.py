"""Shared parts of the gallery commands: options, their parsing, and the output of records and problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.commands import options as shared
from hat.console import progress, stderr
from hat.errors import UsageError

from ..gallery.binding import Binding, binding_of
from ..gallery.identities import parse_identity
from ..gallery.record_checks import parse_attributes
from ..gallery.records import AttributeValue, Record
from ..gallery.timestamps import format_timestamp, parse_timestamp

if TYPE_CHECKING:
    from hat.embedder import Embedder

    from ..enroll.enrolling import Problem


def _parsed(parse: Callable[[str, str], Any], metavar: str, option: str, explanation: str) -> Any:
    def convert(text: str) -> Any:
        return parse(text, option)

    return typer.Option(option, parser=convert, metavar=metavar, help=explanation)


_time = partial(_parsed, parse_timestamp, "TIME")
_identity = partial(_parsed, parse_identity, "IDENTITY")  # annotated with Any: typer knows no union of numbers and names

Location = Annotated[str, typer.Argument(metavar="GALLERY", help="A gallery's file, or milvus://HOST:PORT/NAME.")]
Images = Annotated[list[str], typer.Argument(help="Images, folders, zip files, tables (.csv), or one video with --boxes.")]
Boxes = Annotated[Path | None, typer.Option(help="People in the video: frame or time, left, top, right, bottom, ...")]
Device = shared.Device
BatchSize = shared.BatchSize
Float16 = Annotated[bool, typer.Option("--float16", help="Store a new gallery's embeddings as float16.")]
AsJson = shared.AsJson

Ids = Annotated[list[int] | None, typer.Option("--id", help="A record of the gallery; repeat for several.")]
Pid = Annotated[Any, _identity("--pid", "Identity of all images, a number or a name.")]
Person = Annotated[Any, _identity("--pid", "All records of a person, by number or name.")]
NewPid = Annotated[Any, _identity("--to", "New identity: a number or a name.")]
Pids = Annotated[list[Any] | None, _identity("--pid", "Only this identity, a number or a name; repeat for several.")]
Camids = Annotated[list[int] | None, typer.Option("--camid", help="Only this camera; repeat for several.")]
Time = Annotated[
    float | None, _time("--time", "Time of the images, or of a video's start: 2026-11-25T08:30:15 (UTC), or seconds.")
]
Since = Annotated[float | None, _time("--since", "Seen at this time or later: 2026-11-25T08:30 (UTC), or seconds.")]
Until = Annotated[float | None, _time("--until", "Seen before this time.")]
OlderThan = Annotated[
    float | None, typer.Option(callback=shared.finite, min=0, help="Records enrolled this many days ago or earlier.")
]
MinCosine = Annotated[
    float, typer.Option(callback=shared.finite, min=0, max=1, help="Minimum cosine of any image of the report.")
]
NewAttributes = Annotated[list[str] | None, typer.Option(help="New attribute NAME=VALUE; repeat for several.")]
Attributes = Annotated[list[str] | None, typer.Option(help="Only images with NAME=VALUE; repeat for several.")]

_MAX_NAMED = 20  # images that are named on the screen; --json has all of them


def open_embedder(model: str, device: str, batch_size: int = 32) -> tuple[Embedder, Binding]:
    """Open a model, and say to which galleries its embeddings belong."""
    from hat.embedder import Embedder
    from hat.runtime import runtime_info

    embedder = Embedder.open(model, device=device, batch_size=batch_size)
    return embedder, binding_of(runtime_info(embedder.runtime))


def binding_of_file(model: str) -> Binding:
    """Return to which galleries the embeddings of a model belong."""
    from hat.runtime import open_runtime, runtime_info

    return binding_of(runtime_info(open_runtime(model)))


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of images on stderr, and yield what counts some more of them as done."""
    with progress() as display:
        yield partial(display.advance, display.add_task(what, total=total, info=""))


def parse_attribute_options(texts: list[str] | None) -> dict[str, AttributeValue]:
    """Return the attributes of ``--attribute NAME=VALUE`` options."""
    pairs = []
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UsageError(f"--attribute is NAME=VALUE, such as color=red, got {text!r}")
        pairs.append((name.strip(), value.strip()))
    return parse_attributes(pairs, "--attribute")


def record_result(record: Record) -> dict[str, Any]:
    """Return a record as plain data for JSON, without its thumbnail."""
    names = ("id", "pid", "camid", "time_s", "source", "attributes", "enrolled_s", "content_hash")
    return {name: getattr(record, name) for name in names} | {"attributes": dict(record.attributes)}


def label_cells(record: dict[str, Any]) -> tuple[str, str, str]:
    """Return pid, camera and time of a record's result as cells of a table."""
    pid, camid = ("-" if record[key] is None else str(record[key]) for key in ("pid", "camid"))
    return pid, camid, "-" if record["time_s"] is None else format_timestamp(record["time_s"])


def tell(*lines: str) -> None:
    """Print lines on stderr as they are."""
    for line in lines:
        stderr.print(line, soft_wrap=True)


def print_problems(what: str, problems: Sequence[Problem]) -> None:
    """Name images and what is wrong with them on stderr, the first of them."""
    tell(*(f"{what}: {source}: {reason}" for source, reason in problems[:_MAX_NAMED]))
    if len(problems) > _MAX_NAMED:
        tell(f"{what}: {len(problems) - _MAX_NAMED:,} more; --json names all of them")
