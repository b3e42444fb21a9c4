"""``hat gallery``: look into a gallery, correct and remove what is in it, copy and rebuild it, say what similarities mean."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hat.config import config_to_dict
from hat.console import emit, make_table
from hat.errors import UsageError
from hat.io.plot_file import check_picture_path, check_plot_path, save_picture

from ..calibrate.thresholds import CONFIDENCE, calibrate_thresholds, chance_of_any, draw_calibration
from ..gallery.binding import binding_of
from ..gallery.gallery import Gallery
from ..gallery.person_crops import record_image
from ..gallery.record_checks import format_timestamp
from ..gallery.records import Filter
from . import options
from .gallery_upkeep import accept, copy, label, re_embed, remove, vacuum
from .options import label_cells, parse_attribute_options, record_result, tell

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


@gallery.command(no_args_is_help=True)
def info(
    location: options.Location,
    model: Annotated[str | None, typer.Option("--model", help="Does this model belong to it? Exit code 2 if not.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """How much a gallery holds, of whom and from which cameras, and which model made it.

    Examples:

      hat gallery info people.gallery

      hat gallery info people.gallery --model market-int8.xml --json
    """
    with Gallery.open(location, read_only=True) as opened:
        counts, binding = opened.counts(), opened.binding
        names = ("name", "fingerprint", "precision", "embed_dim", "source_sha256")
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
                **{name: getattr(binding, name) for name in names},
                "preprocessing": config_to_dict(binding.preprocessing),
                "compatible_models": [config_to_dict(other) for other in binding.compatible_models],
            },
        }
        if model is not None:
            from hat.runtime import open_runtime, runtime_info

            checked = binding_of(runtime_info(open_runtime(model)))
            opened.check_model(checked)
            is_own = checked.fingerprint == binding.fingerprint
            result["checked_model"] = {"path": model, "fingerprint": checked.fingerprint, "is_own": is_own}
    emit(result, _info_table(result), as_json)


@gallery.command("list", no_args_is_help=True)
def list_(
    location: options.Location,
    camid: options.Camids = None,
    pid: options.Pids = None,
    since: options.Since = None,
    until: options.Until = None,
    attribute: options.Attributes = None,
    offset: Annotated[int, typer.Option(min=0, help="Leave out so many first ones.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most records.")] = 50,
    as_json: options.AsJson = False,
) -> None:
    """List the records of a gallery by their ids.

    Examples:

      hat gallery list people.gallery --pid 17

      hat gallery list people.gallery --camid 3 --since 2026-11-25 --limit 1000 --json
    """
    attributes = parse_attribute_options(attribute)
    where = Filter.of(camids=camid or None, pids=pid or None, since_s=since, until_s=until, attributes=attributes)
    with Gallery.open(location, read_only=True) as opened:
        ids = opened.ids(where)
        records = [record_result(record) for record in opened.get_present(ids[offset : offset + limit].tolist())]
    rows = [(record["id"], *label_cells(record), record["source"]) for record in records]
    table = make_table(rows, ("id", "pid", "camera", "time (UTC)", "source"), left=("time (UTC)", "source"))
    foot = Text(f"{len(records):,} of {len(ids):,} records", "dim")
    emit({"gallery": location, "num_matching": len(ids), "records": records}, Group(table, foot), as_json)


@gallery.command(no_args_is_help=True)
def show(
    location: options.Location,
    record_id: Annotated[int, typer.Argument(metavar="ID", help="A record's number.")],
    picture: Annotated[
        Path | None, typer.Option(help="Write its thumbnail, or its source while it is there, to this file.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Everything that a gallery knows of one record, its embedding left out.

    Examples:

      hat gallery show people.gallery 17

      hat gallery show people.gallery 17 --picture person.png
    """
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
        save_picture(image, picture)
    rows: list[tuple[str, object]] = []
    for name, value in result.items():
        if name == "attributes":
            rows += [("attribute", f"{key} = {attribute}") for key, attribute in value.items()]
        elif name.endswith("_s") and value is not None:
            rows.append((name.removesuffix("_s"), format_timestamp(value)))
        else:
            rows.append((name, "-" if value is None else value))
    emit(result, make_table(rows), as_json)


@gallery.command(no_args_is_help=True)
def calibrate(
    location: options.Location,
    pairs: Annotated[int, typer.Option(min=1, help="Most pairs of images that are compared, of either kind.")] = 300_000,
    rate: Annotated[list[float] | None, typer.Option(help="A false match rate: 0.001; repeat for several.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of pairs.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Draw the similarities and the ROC: .png, .svg or .pdf.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Which threshold keeps to which false match rate, and how many true matches it finds.

    The false match rate is that of one comparison: the share of pairs of two different people of this gallery that are as
    similar as the threshold or more; with its upper bound at 95 % confidence. A search compares its query with every image: the
    last column is the chance that somebody who is not in the gallery finds a false match in it all the same. The true match
    rate is the share of pairs of one person, seen by two cameras. The rates hold for these people and these cameras; other
    people, other light and other seasons have others. A match is no proof of identity.

    Examples:

      hat gallery calibrate people.gallery

      hat gallery calibrate people.gallery --rate 0.001 --rate 0.00005 --pairs 2000000 --picture roc.png
    """
    if picture is not None:
        check_plot_path(picture, "drawing a calibration")
    if any(not 0 < one < 1 for one in rate or ()):
        raise UsageError(f"a false match rate lies between 0 and 1, got {', '.join(map(str, rate or ()))}")
    with Gallery.open(location, read_only=True) as opened:
        found = calibrate_thresholds(opened, num_pairs=pairs, seed=seed)
        num_records = len(opened)
    points = [found.point_at(found.threshold_at(one)) for one in rate] if rate else found.roc()
    roc = [asdict(point) | {"chance_in_gallery": chance_of_any(point.false_match_bound, num_records)} for point in points]
    if picture is not None:
        draw_calibration(found, picture, title=Path(location).name)
        tell(f"drawn: {picture}")
    rows = [
        (
            f"{point['similarity']:.4f}",
            _rate(point["false_match_rate"]),
            _rate(point["false_match_bound"]),
            "-" if point["true_match_rate"] is None else f"{100 * point['true_match_rate']:.1f} %",
            _rate(point["chance_in_gallery"]),
        )
        for point in roc
    ]
    table = make_table(rows, ("threshold", "false matches", "at most (95 %)", "true matches", f"any among {num_records:,}"))
    genuine = f"{found.num_genuine:,}" if found.num_genuine else "none"
    kind = "all" if found.is_exhaustive else "a sample of the"
    head = (
        f"{kind} pairs of {found.num_records:,} images of {found.num_identities:,} known people: {found.num_pairs:,} of "
        f"different people, {genuine} of one person from two cameras"
    )
    by_whom = "the people in this gallery" if found.is_exhaustive else "so many pairs (--pairs)"
    foot = Text(f"Lower rates than {_rate(found.lowest_rate)} cannot be shown by {by_whom}.", "dim")
    result = {
        "gallery": location,
        "num_gallery": num_records,
        "num_records": found.num_records,
        "num_identities": found.num_identities,
        "num_pairs": found.num_pairs,
        "num_genuine_pairs": found.num_genuine,
        "is_exhaustive": found.is_exhaustive,
        "confidence": CONFIDENCE,
        "lowest_false_match_rate": found.lowest_rate,
        "roc": roc,
    }
    emit(result, Group(head, "", table, "", foot), as_json)


for _command in (label, remove, vacuum, copy, re_embed, accept):
    gallery.command(_command.__name__.replace("_", "-"), no_args_is_help=True)(_command)


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.3g} %"


def _bytes_on_disk(location: str) -> int | None:
    """Size of a gallery's files; None where they are somewhere else."""
    path = Path(location).expanduser()
    found = (path, path.with_name(f"{path.name}-wal"))
    return sum(one.stat().st_size for one in found if one.is_file()) or None


def _info_table(result: dict[str, Any]) -> Table:
    model, unknown = result["model"], result["num_without_pid"]
    people = f"{result['num_identities']:,}" + (f", and {unknown:,} images of unknown people" if unknown else "")
    size = "" if result["num_bytes"] is None else f", {result['num_bytes'] / 2**20:,.1f} MiB on disk"
    largest = sorted(((count, pid) for pid, count in result["by_pid"].items()), reverse=True)
    by_camid = ", ".join(f"{camid} ({count:,})" for camid, count in result["by_camid"].items())
    rows = [
        ("images", f"{result['num_records']:,}"),
        ("identities", people),
        ("most images", ", ".join(f"{pid} ({count:,})" for count, pid in largest[:10]) or "-"),
        ("cameras", by_camid or "-"),
        ("embeddings", f"{model['embed_dim']} x {result['stored_type']}{size}"),
        ("model", f"{model['name']}, {model['precision']}, fingerprint {model['fingerprint'][:16]}"),
    ]
    if result["first_seen_s"] is not None:
        rows.append(("seen", f"{format_timestamp(result['first_seen_s'])} to {format_timestamp(result['last_seen_s'])} UTC"))
    for other in model["compatible_models"]:
        fingerprint = f"fingerprint {other['fingerprint'][:16]}, worst cosine {other['worst_cosine']:.6f}"
        rows.append(("also", f"{other['precision']}, {fingerprint}"))
    if "checked_model" in result:
        verdict = "made it" if result["checked_model"]["is_own"] else "may be used beside the model that made it"
        rows.append(("checked", f"{result['checked_model']['path']} {verdict}"))
    return make_table(rows)
