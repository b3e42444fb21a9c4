"""``hat gallery``: look into a gallery, correct and remove what is in it, copy and rebuild it, say what similarities mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.console import emit

from .calibrate import calibrate
from .gallery_upkeep import accept, copy, label, re_embed, remove, vacuum
from .options import (
    AsJson,
    AttributeOption,
    CamidsOption,
    Location,
    PidsOption,
    SinceOption,
    UntilOption,
    check_picture_path,
    make_filter,
    record_result,
    write_picture,
)

if TYPE_CHECKING:
    from rich.table import Table

    from ..gallery.gallery import Gallery


gallery = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Look into a gallery, correct and remove what is in it, copy and rebuild it, and say what its similarities mean.

    Every subcommand has examples in its own help, and prints JSON with --json.

    Examples:

      hat gallery info people.gallery --model runs/market

      hat gallery remove people.gallery --older-than 30

      hat gallery calibrate people.gallery
    """,
)

_NUM_PEOPLE = 10


@gallery.command(no_args_is_help=True)
def info(
    location: Location,
    model: Annotated[str | None, typer.Option("--model", help="Does this model belong to it? Exit code 2 if not.")] = None,
    as_json: AsJson = False,
) -> None:
    """How much a gallery holds, of whom and from which cameras, and which model made it.

    Examples:

      hat gallery info people.gallery

      hat gallery info people.gallery --model market-int8.xml --json
    """
    from hat.config import config_to_dict

    from ..gallery.gallery import Gallery

    with Gallery.open(location, read_only=True) as opened:
        counts, binding = opened.counts(), opened.binding
        result: dict[str, Any] = {
            "gallery": location,
            "num_records": counts.num_records,
            "num_identities": len(counts.by_pid.keys() - {None}),
            "num_without_pid": counts.by_pid.get(None, 0),
            "by_pid": {str(pid): count for pid, count in counts.by_pid.items() if pid is not None},
            "by_camid": {"unknown" if camid is None else str(camid): count for camid, count in counts.by_camid.items()},
            "first_seen_s": counts.first_seen_s,
            "last_seen_s": counts.last_seen_s,
            "stored_type": opened.stored_type,
            "num_bytes": _bytes_on_disk(location),
            "model": {
                "name": binding.name,
                "fingerprint": binding.fingerprint,
                "precision": binding.precision,
                "embed_dim": binding.embed_dim,
                "preprocessing": config_to_dict(binding.preprocessing),
                "source_sha256": binding.source_sha256,
                "compatible_models": [config_to_dict(other) for other in binding.compatible_models],
            },
        }
        if model is not None:
            result["checked_model"] = _checked(opened, model)
    emit(result, _info_table(result), as_json)


@gallery.command("list", no_args_is_help=True)
def list_(
    location: Location,
    camid: CamidsOption = None,
    pid: PidsOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    attribute: AttributeOption = None,
    offset: Annotated[int, typer.Option(min=0, help="Leave out so many first ones.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most records.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the records of a gallery by their ids.

    Examples:

      hat gallery list people.gallery --pid 17

      hat gallery list people.gallery --camid 3 --since 2026-11-25 --limit 1000 --json
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ..gallery.attribute_values import format_timestamp
    from ..gallery.gallery import Gallery

    where = make_filter(camids=camid, pids=pid, since=since, until=until, attribute=attribute)
    with Gallery.open(location, read_only=True) as opened:
        ids = opened.ids(where)
        records = [record_result(record) for record in opened.get_present(ids[offset : offset + limit].tolist())]
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("id", "pid", "camera", "time (UTC)", "source"):
        table.add_column(column, justify="right" if column in ("id", "pid", "camera") else "left", overflow="fold")
    for record in records:
        labels = ["-" if record[key] is None else str(record[key]) for key in ("pid", "camid")]
        seen = "-" if record["time_s"] is None else format_timestamp(record["time_s"])
        table.add_row(str(record["id"]), *labels, seen, Text(record["source"]))
    foot = Text(f"{len(records):,} of {len(ids):,} records", "dim")
    emit({"gallery": location, "num_matching": len(ids), "records": records}, Group(table, foot), as_json)


@gallery.command(no_args_is_help=True)
def show(
    location: Location,
    record_id: Annotated[int, typer.Argument(metavar="ID", help="A record's number.")],
    picture: Annotated[
        Path | None, typer.Option(help="Write its thumbnail, or its source while it is there, to this file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Everything that a gallery knows of one record, its embedding left out.

    Examples:

      hat gallery show people.gallery 17

      hat gallery show people.gallery 17 --picture person.png
    """
    from rich.table import Table
    from rich.text import Text

    from hat.errors import UsageError

    from ..gallery.attribute_values import format_timestamp
    from ..gallery.gallery import Gallery
    from ..gallery.person_crops import record_image

    check_picture_path(picture)
    with Gallery.open(location, read_only=True) as opened:
        (record,) = opened.get([record_id], thumbnails=True)
    result = record_result(record) | {"has_thumbnail": record.thumbnail is not None}
    if picture is not None:
        image = record_image(record)
        if image is None:
            raise UsageError(
                f"record {record_id} has no thumbnail, and {record.source} is not there or is another image by now"
            )
        write_picture(image, picture)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in result.items():
        if name == "attributes":
            for key, attribute in value.items():
                table.add_row("attribute", Text(f"{key} = {attribute}"))
        elif name.endswith("_s") and value is not None:
            table.add_row(name.removesuffix("_s"), format_timestamp(value))
        else:
            table.add_row(name, Text("-" if value is None else str(value)))
    emit(result, table, as_json)


gallery.command(no_args_is_help=True)(label)
gallery.command(no_args_is_help=True)(remove)
gallery.command(no_args_is_help=True)(vacuum)
gallery.command(no_args_is_help=True)(copy)
gallery.command("re-embed", no_args_is_help=True)(re_embed)
gallery.command(no_args_is_help=True)(accept)
gallery.command(no_args_is_help=True)(calibrate)


def _checked(opened: Gallery, model: str) -> dict[str, Any]:
    from hat.runtime import open_runtime, runtime_info

    from ..gallery.binding import binding_of

    binding = binding_of(runtime_info(open_runtime(model)))
    opened.check_model(binding)
    return {"path": model, "fingerprint": binding.fingerprint, "is_own": binding.fingerprint == opened.binding.fingerprint}


def _bytes_on_disk(location: str) -> int | None:
    """Size of a gallery's files; None where they are somewhere else."""
    path = Path(location).expanduser()
    if not path.is_file():
        return None
    found = (path, path.with_name(f"{path.name}-wal"))
    return sum(one.stat().st_size for one in found if one.is_file())


def _info_table(result: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from ..gallery.attribute_values import format_timestamp

    model = result["model"]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("images", f"{result['num_records']:,}")
    largest = sorted(((count, pid) for pid, count in result["by_pid"].items()), reverse=True)
    unknown = result["num_without_pid"]
    people = f"{result['num_identities']:,}" + (f", and {unknown:,} images of unknown people" if unknown else "")
    table.add_row("identities", people)
    if largest:
        shown = ", ".join(f"{pid} ({count:,})" for count, pid in largest[:_NUM_PEOPLE])
        table.add_row("most images", shown + (" ..." if len(largest) > _NUM_PEOPLE else ""))
    table.add_row("cameras", ", ".join(f"{camid} ({count:,})" for camid, count in result["by_camid"].items()) or "-")
    if result["first_seen_s"] is not None:
        table.add_row("seen", f"{format_timestamp(result['first_seen_s'])} to {format_timestamp(result['last_seen_s'])} UTC")
    size = "" if result["num_bytes"] is None else f", {result['num_bytes'] / 2**20:,.1f} MiB on disk"
    table.add_row("embeddings", f"{model['embed_dim']} x {result['stored_type']}{size}")
    table.add_row("model", Text(f"{model['name']}, {model['precision']}, fingerprint {model['fingerprint'][:16]}"))
    for other in model["compatible_models"]:
        table.add_row(
            "also",
            f"{other['precision']}, fingerprint {other['fingerprint'][:16]}, worst cosine {other['worst_cosine']:.6f}",
        )
    if "checked_model" in result:
        verdict = "made it" if result["checked_model"]["is_own"] else "may be used beside the model that made it"
        table.add_row("checked", Text(f"{result['checked_model']['path']} {verdict}"))
    return table
