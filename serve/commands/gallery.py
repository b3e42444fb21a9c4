"""``hat gallery``: look into a gallery, correct and remove what is in it, copy and rebuild it, say what similarities mean."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hat.commands.options import Force, GrayBits
from hat.config import config_to_dict
from hat.console import emit, make_table, share_text
from hat.data.images import set_gray_bits
from hat.errors import MissingExtraError, UsageError, WorkError
from hat.io.atomic_output import check_parent, writing
from hat.io.plot_file import check_picture_path, check_plot_path, save_picture

from ..calibrate import CONFIDENCE, calibrate_thresholds, chance_of_any, draw_calibration
from ..gallery.binding import read_compatible_model
from ..gallery.gallery import Gallery
from ..gallery.person_crops import record_image
from ..gallery.records import Filter, RecordLabels
from ..gallery.timestamps import format_timestamp
from . import options

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
    model: Annotated[str | None, typer.Option("--model", help="Check that this model fits; exit code 2 if not.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the number of records of a gallery, by identity and camera, and the model that made it.

    Examples:

      hat gallery info people.gallery

      hat gallery info people.gallery --model market-int8.xml --json
    """
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
            "model": {name: value for name, value in config_to_dict(binding).items() if name != "model"},
        }
        if model is not None:
            checked = options.binding_of_file(model)
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
    offset: Annotated[int, typer.Option(min=0, help="Number of records to skip.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Maximum number of records.")] = 50,
    as_json: options.AsJson = False,
) -> None:
    """List the records of a gallery by their ids.

    Examples:

      hat gallery list people.gallery --pid 17

      hat gallery list people.gallery --camid 3 --since 2026-11-25 --limit 1000 --json
    """
    attributes = options.parse_attribute_options(attribute)
    where = Filter.of(camids=camid or None, pids=pid or None, since_s=since, until_s=until, attributes=attributes)
    with Gallery.open(location, read_only=True) as opened:
        ids = opened.ids(where)
        records = [options.record_result(record) for record in opened.get_present(ids[offset : offset + limit].tolist())]
    rows = [(record["id"], *options.label_cells(record), record["source"]) for record in records]
    table = make_table(rows, ("id", "pid", "camera", "time (UTC)", "source"), left=("time (UTC)", "source"))
    foot = Text(f"{len(records):,} of {len(ids):,} records", "dim")
    emit({"gallery": location, "num_matching": len(ids), "records": records}, Group(table, foot), as_json)


@gallery.command(no_args_is_help=True)
def show(
    location: options.Location,
    record_id: Annotated[int, typer.Argument(metavar="ID", help="A record's number.")],
    picture: Annotated[Path | None, typer.Option(help="Write its thumbnail, or its source if it is there, here.")] = None,
    force: Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Show one record of a gallery, without its embedding.

    Examples:

      hat gallery show people.gallery 17

      hat gallery show people.gallery 17 --picture person.png
    """
    check_picture_path(picture, overwrite=force)
    with Gallery.open(location, read_only=True) as opened:
        (record,) = opened.get([record_id], thumbnails=True)
    result = options.record_result(record) | {"has_thumbnail": record.thumbnail is not None}
    if picture is not None:
        image = record_image(record)
        if image is None:
            raise UsageError(f"record {record_id} has no thumbnail, and {record.source} is gone or is another image by now")
        save_picture(image, picture, overwrite=force)
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
    pairs: Annotated[int, typer.Option(min=1, help="Maximum pairs of images of either kind.")] = 300_000,
    rate: Annotated[list[float] | None, typer.Option(help="A false match rate: 0.001; repeat for several.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of pairs.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Draw the similarities and the ROC: .png, .svg or .pdf.")] = None,
    force: Force = False,
    as_json: options.AsJson = False,
) -> None:
    """Compute similarity thresholds for false match rates, and the true match rate of each.

    The false match rate is the share of pairs of two different people of this gallery that reach the threshold, with its 95 %
    upper bound. A search compares its query with every image: the last column is the chance that somebody who is not in the
    gallery finds a false match. The true match rate is the share of pairs of one person, seen by two cameras, that reach it.
    Rates hold for these people and cameras; other people, light and seasons have others. A match is no proof of identity.

    Examples:

      hat gallery calibrate people.gallery

      hat gallery calibrate people.gallery --rate 0.001 --rate 0.00005 --pairs 2000000 --picture roc.png
    """
    check_plot_path(picture, "drawing a calibration", overwrite=force)
    with Gallery.open(location, read_only=True) as opened:
        calibration = calibrate_thresholds(opened, num_pairs=pairs, seed=seed)
        num_records = len(opened)
    points = [calibration.point_at(calibration.threshold_at(value)) for value in rate] if rate else calibration.roc()
    roc = [asdict(point) | {"chance_in_gallery": chance_of_any(point.false_match_bound, num_records)} for point in points]
    if picture is not None:
        draw_calibration(calibration, picture, title=Path(location).name)
        options.tell(f"drawn: {picture}")
    names = ("false_match_rate", "false_match_bound", "true_match_rate", "chance_in_gallery")
    rows = [[f"{point['similarity']:.4f}", *(share_text(point[name]) for name in names)] for point in roc]
    table = make_table(rows, ("threshold", "false matches", "at most (95 %)", "true matches", f"any among {num_records:,}"))
    kind = "all" if calibration.is_exhaustive else "a sample of the"
    genuine = f"{calibration.num_genuine:,}" if calibration.num_genuine else "none"
    head = (
        f"{kind} pairs of {calibration.num_records:,} images of {calibration.num_identities:,} known people: "
        f"{calibration.num_pairs:,} of different people, {genuine} of one person from two cameras"
    )
    by_whom = "the people in this gallery" if calibration.is_exhaustive else "so many pairs (--pairs)"
    foot = Text(f"Lower rates than {share_text(calibration.lowest_rate)} cannot be shown by {by_whom}.", "dim")
    result = {
        "gallery": location,
        "num_gallery": num_records,
        **{name: getattr(calibration, name) for name in ("num_records", "num_identities", "num_pairs")},
        "num_genuine_pairs": calibration.num_genuine,
        "is_exhaustive": calibration.is_exhaustive,
        "confidence": CONFIDENCE,
        "lowest_false_match_rate": calibration.lowest_rate,
        "roc": roc,
    }
    emit(result, Group(head, "", table, "", foot), as_json)


@gallery.command(no_args_is_help=True)
def label(
    location: options.Location,
    id_: options.Ids = None,
    pid: options.Person = None,
    to: options.NewPid = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="Make their identity unknown.")] = False,
    camid: Annotated[int | None, typer.Option(min=0, help="New camera.")] = None,
    time_: options.Time = None,
    attribute: options.NewAttributes = None,
    audit: Annotated[Path | None, typer.Option(help="Append a line to this audit log before the change.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Correct the labels of records: relabel some, rename a person, or merge two people.

    Where the new identity has images already, the two become one person: there is no way back but by the ids of the records.

    Examples:

      hat gallery label people.gallery --id 17 --id 18 --to alice

      hat gallery label people.gallery --pid 17 --to alice

      hat gallery label people.gallery --id 17 --camid 3 --time 2026-11-25T08:30
    """
    if bool(id_) == (pid is not None):
        raise UsageError("say which records with either --id or --pid")
    if unknown and to is not None:
        raise UsageError("--to and --unknown both set the identity: give one of them")
    given = {"pid": to, "camid": camid, "time_s": time_, "attributes": options.parse_attribute_options(attribute) or None}
    labels = {name: value for name, value in given.items() if value is not None} | ({"pid": None} if unknown else {})
    if not labels:
        raise UsageError("say what they are to have: --to, --unknown, --camid, --time or --attribute")
    log = None
    if audit is not None:
        try:
            from ..service.audit import AuditLog
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "prometheus_client", "serve", "an audit log") from None
        log = AuditLog(audit)
    with Gallery.open(location) as opened:
        # By `get` a mistyped number is an error before anything is logged.
        ids = [record.id for record in opened.get(id_)] if id_ else opened.ids(Filter.of(pids=[pid])).tolist()
        if not ids:
            raise UsageError(f"{location} has no image of {pid}: hat gallery info names its people")
        others = [] if to is None else opened.ids(Filter.of(pids=[to])).tolist()
        num_merged = len(set(others) - set(ids))
        counts = {"gallery": location, "num_records": len(ids), "num_merged": num_merged}
        if log is not None:
            with writing(log.path):  # before the change: none is made that the log does not hold
                log.write({"client": "command line", "action": "label", **counts})
        num_changed = opened.update(ids, cast(RecordLabels, labels))
    result = counts | {"num_changed": num_changed}
    merged = f"; {to} had {num_merged:,} images before, which are of the same person now" if num_merged else ""
    emit(result, f"{num_changed:,} of {len(ids):,} records changed{merged}", as_json)


@gallery.command(no_args_is_help=True)
def remove(
    location: options.Location,
    id_: options.Ids = None,
    pid: options.Person = None,
    older_than: options.OlderThan = None,
    vacuum_: Annotated[bool, typer.Option("--vacuum", help="Erase removed records from the disk at once.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove records, all of a person, or all that are older than a retention period.

    No search finds them once the command has ended. Their bytes leave the disk with --vacuum, or with hat gallery vacuum.

    Examples:

      hat gallery remove people.gallery --pid 17 --vacuum

      hat gallery remove people.gallery --older-than 30
    """
    if sum(condition is not None for condition in (id_ or None, pid, older_than)) != 1:
        raise UsageError("say what to remove with exactly one of --id, --pid and --older-than")
    with Gallery.open(location) as opened:
        if id_:
            opened.get(id_)  # a mistyped number is an error, and nothing is removed
        before_s = None if older_than is None else time.time() - 86_400 * older_than
        num_removed = opened.remove(ids=id_ or None, pid=pid, enrolled_before_s=before_s)
        if vacuum_:
            opened.vacuum()
        result = {"gallery": location, "num_removed": num_removed, "num_records": len(opened), "vacuumed": vacuum_}
    hint = "" if vacuum_ or not num_removed else "; hat gallery vacuum takes what was removed off the disk"
    emit(result, f"removed {num_removed:,}, {result['num_records']:,} left{hint}", as_json)


@gallery.command(no_args_is_help=True)
def vacuum(location: options.Location, as_json: options.AsJson = False) -> None:
    """Rewrite a gallery so that nothing of removed records is left in its files.

    Examples:

      hat gallery vacuum people.gallery
    """
    with Gallery.open(location) as opened:
        opened.vacuum()
        result = {"gallery": location, "num_records": len(opened)}
    emit(result, f"rewritten, {result['num_records']:,} images", as_json)


@gallery.command(no_args_is_help=True)
def copy(
    location: options.Location,
    to: Annotated[Path, typer.Argument(metavar="TO", help="The copy's file; it must not be there yet.")],
    as_json: options.AsJson = False,
) -> None:
    """Copy a gallery to another file, whole and as of one moment, also while a service writes to it.

    A plain copy of the file lacks what is still in SQLite's log beside it (-wal). This one holds every record that was
    acknowledged before it began, and is checked. To restore a backup, copy it to its place.

    Examples:

      hat gallery copy people.gallery /backup/people-2026-11-25.gallery
    """
    with Gallery.open(location, read_only=True) as opened:
        result = {"gallery": location, "copy": str(to), "num_records": opened.copy_to(to)}
    emit(result, f"{to}: {result['num_records']:,} images", as_json)


@gallery.command(no_args_is_help=True)
def re_embed(
    location: options.Location,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The rebuilt gallery's file; it must not be there yet.")],
    model: Annotated[str, typer.Option("--model", help="Model that computes the new embeddings.")],
    float16: options.Float16 = False,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 32,
    gray_bits: GrayBits = None,
    as_json: options.AsJson = False,
) -> None:
    """Rebuild a gallery with another model, from the images that it was made of.

    All labels of a record are carried over, its date of enrollment too; ids are new. Images that are not there any more, or
    have changed, are named and left out: the old gallery stays as it is. The new one appears when it is complete; a run that
    was stopped goes on when it is called again, and takes over what was removed or corrected in between.

    Examples:

      hat gallery re-embed people.gallery people-v2.gallery --model runs/market-v2
    """
    from ..enroll.enrolling import reembed

    if new.exists():
        raise UsageError(f"{new} is there already: give another name")
    check_parent(new)
    set_gray_bits(gray_bits)
    partial = new.with_name(f"{new.name}.partial")
    with Gallery.open(location, read_only=True) as old:
        if not len(old):
            raise UsageError(f"{location} is empty: there is nothing to rebuild")
        embedder, binding = options.open_embedder(model, device, batch_size)
        with Gallery.open(partial, binding=binding, create=True, stored_type="float16" if float16 else "float32") as rebuilt:
            if float16 != (rebuilt.stored_type == "float16"):
                raise UsageError(f"{partial} was begun in {rebuilt.stored_type}: continue with that, or delete it")
            try:
                with options.progress_bar("embedding", len(old)) as advance:
                    done = reembed(old, rebuilt, embedder, batch_size=batch_size, progress=advance)
            except KeyboardInterrupt:
                raise WorkError(f"interrupted: the same command goes on from {len(rebuilt):,} images") from None
            result = {
                "gallery": location,
                "new": str(new),
                "num_records": len(rebuilt),
                "num_gone": len(done.bad),
                "gone": [entry._asdict() for entry in done.bad],
            }
    options.print_problems("gone", done.bad)
    if not done.ids:
        partial.unlink()
        raise WorkError(
            f"none of {len(done.bad):,} images is there any more, the first: {': '.join(done.bad[0])}; {new} was not made"
        )
    log = partial.with_name(f"{partial.name}-wal")
    if log.exists() and log.stat().st_size:  # a closed gallery with a log beside it: not all of it is in its file yet
        raise WorkError(f"{partial} is open in another process, so that it cannot get its name: close that and call again")
    partial.rename(new)
    emit(result, f"{new}: {result['num_records']:,} images rebuilt, {result['num_gone']:,} gone", as_json)


@gallery.command(no_args_is_help=True)
def accept(
    location: options.Location,
    report: Annotated[Path, typer.Option("--report", help="Report of hat verify --report-json.")],
    model: Annotated[str, typer.Option("--model", help="File to accept, a candidate of that report.")],
    min_cosine: options.MinCosine = 0.98,
    as_json: options.AsJson = False,
) -> None:
    """Allow another file of the gallery's own weights, once hat verify has shown that it ranks alike.

    For an int8 or float16 file on a camera beside the checkpoint on a server. The report must be of the gallery's model as the
    reference and of this very file as a candidate that passed; fingerprints identify both. Two embeddings whose cosine is 0.98
    lie 11 degrees apart: thresholds that were calibrated with one hold about, and not exactly, for the other.

    Examples:

      hat verify runs/market market-int8.xml --images ~/crops --report-json verify.json

      hat gallery accept people.gallery --report verify.json --model market-int8.xml
    """
    with Gallery.open(location) as opened:
        compatible = read_compatible_model(report, opened.binding, options.binding_of_file(model), min_cosine=min_cosine)
        opened.accept(compatible)
    result = {"gallery": location, "model": model, **config_to_dict(compatible)}
    emit(result, f"{model} may be used with {location}; worst cosine {compatible.worst_cosine:.6f}", as_json)


def _bytes_on_disk(location: str) -> int | None:
    """Return the size of a gallery's files; None where they are somewhere else."""
    path = Path(location).expanduser()
    files = (path, path.with_name(f"{path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.is_file()) or None


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
