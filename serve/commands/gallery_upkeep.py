"""What changes or copies a gallery: ``hat gallery label``, ``remove``, ``vacuum``, ``copy``, ``re-embed`` and ``accept``."""

import time
from pathlib import Path
from typing import Annotated, cast

import typer

from hat.config import config_to_dict
from hat.console import emit, progress
from hat.data.images import set_gray_bits
from hat.errors import UsageError, WorkError

from ..gallery.binding import binding_of, read_compatible_model
from ..gallery.gallery import Gallery
from ..gallery.records import Filter, RecordLabels
from . import options
from .options import parse_attribute_options, print_problems

_DAY_S = 86400


def remove(
    location: options.Location,
    id_: options.Ids = None,
    pid: options.Person = None,
    older_than: Annotated[float | None, typer.Option(min=0, help="All that were enrolled so many days ago, or longer.")] = None,
    vacuum_: Annotated[bool, typer.Option("--vacuum", help="Take what was removed off the disk at once.")] = False,
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
            opened.get(id_)  # a number that was mistyped is to be told, and nothing removed
        before_s = None if older_than is None else time.time() - older_than * _DAY_S
        num_removed = opened.remove(ids=id_ or None, pid=pid, enrolled_before_s=before_s)
        if vacuum_:
            opened.vacuum()
        result = {"gallery": location, "num_removed": num_removed, "num_records": len(opened), "vacuumed": vacuum_}
    kept = "" if vacuum_ or not num_removed else "; hat gallery vacuum takes what was removed off the disk"
    emit(result, f"removed {num_removed:,}, {result['num_records']:,} left{kept}", as_json)


def label(
    location: options.Location,
    id_: options.Ids = None,
    pid: options.Person = None,
    to: options.NewPid = None,
    unknown: Annotated[bool, typer.Option("--unknown", help="Their identity is not known after all.")] = False,
    camid: Annotated[int | None, typer.Option(min=0, help="The camera that they are to have.")] = None,
    time_: options.Time = None,
    attribute: options.NewAttributes = None,
    audit: Annotated[Path | None, typer.Option(help="Append a line to this audit log, as hat serve --audit does.")] = None,
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
    given = {"pid": to, "camid": camid, "time_s": time_, "attributes": parse_attribute_options(attribute) or None}
    labels = {name: value for name, value in given.items() if value is not None} | ({"pid": None} if unknown else {})
    if not labels:
        raise UsageError("say what they are to have: --to, --unknown, --camid, --time or --attribute")
    log = None
    if audit is not None:
        from ..service.audit import AuditLog

        log = AuditLog(audit)
    with Gallery.open(location) as opened:
        ids = id_ or opened.ids(Filter.of(pids=[pid])).tolist()
        if not ids:
            raise UsageError(f"{location} has no image of {pid}: hat gallery info names its people")
        others = [] if to is None else opened.ids(Filter.of(pids=[to])).tolist()
        num_merged = len(set(others) - set(ids))
        num_changed = opened.update(ids, cast(RecordLabels, labels))
    result = {"gallery": location, "num_changed": num_changed, "num_records": len(ids), "num_merged": num_merged}
    if log is not None:
        log.write({"client": "command line", "action": "label", **result})
    merged = f"; {to} had {num_merged:,} images before, which are of the same person now" if num_merged else ""
    emit(result, f"{num_changed:,} of {len(ids):,} records changed{merged}", as_json)


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


def vacuum(location: options.Location, as_json: options.AsJson = False) -> None:
    """Rewrite a gallery so that nothing of removed records is left in its files.

    Examples:

      hat gallery vacuum people.gallery
    """
    with Gallery.open(location) as opened:
        opened.vacuum()
        result = {"gallery": location, "num_records": len(opened)}
    emit(result, f"rewritten, {result['num_records']:,} images", as_json)


def re_embed(
    location: options.Location,
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The rebuilt gallery's file; it must not be there yet.")],
    model: Annotated[str, typer.Option("--model", help="The model that is to make the embeddings.")],
    float16: options.Float16 = False,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 32,
    gray_bits: options.GrayBits = None,
    as_json: options.AsJson = False,
) -> None:
    """Rebuild a gallery with another model, from the images that it was made of.

    Everything that is known of a record comes along, its date of enrollment too; ids are new. Images that are not there
    any more, or have changed, are named and left out: the old gallery stays as it is. The new one appears when it is complete;
    a run that was stopped goes on when it is called again.

    Examples:

      hat gallery re-embed people.gallery people-v2.gallery --model runs/market-v2
    """
    from hat.embedder import Embedder
    from hat.runtime import runtime_info

    from ..enroll.enrolling import reembed

    if new.exists():
        raise UsageError(f"{new} is there already: give another name")
    if not new.parent.is_dir():
        raise UsageError(f"{new.parent} is not a folder: make it first")
    set_gray_bits(gray_bits)
    partial = new.with_name(f"{new.name}.partial")
    with Gallery.open(location, read_only=True) as old:
        if not len(old):
            raise UsageError(f"{location} is empty: there is nothing to rebuild")
        embedder = Embedder.open(model, device=device, batch_size=batch_size)
        binding = binding_of(runtime_info(embedder.runtime))
        with Gallery.open(partial, binding=binding, create=True, stored_type="float16" if float16 else "float32") as rebuilt:
            with progress() as display:
                task = display.add_task("embedding", total=len(old), info="")
                try:
                    found = reembed(
                        old, rebuilt, embedder, batch_size=batch_size, progress=lambda count: display.advance(task, count)
                    )
                except KeyboardInterrupt:
                    raise WorkError(f"interrupted: the same command goes on from {len(rebuilt):,} images") from None
            result = {
                "gallery": location,
                "new": str(new),
                "num_records": len(rebuilt),
                "num_gone": len(found.bad),
                "gone": [one._asdict() for one in found.bad],
            }
    print_problems("gone", found.bad)
    if not found.ids:
        partial.unlink()
        raise WorkError(
            f"none of {len(found.bad):,} images is there any more, the first: {': '.join(found.bad[0])}; {new} was not made"
        )
    log = partial.with_name(f"{partial.name}-wal")
    if log.exists() and log.stat().st_size:  # a closed gallery with a log beside it: not all of it is in its file yet
        raise WorkError(f"{partial} is open in another process, so that it cannot get its name: close that and call again")
    partial.rename(new)
    emit(result, f"{new}: {result['num_records']:,} images rebuilt, {result['num_gone']:,} gone", as_json)


def accept(
    location: options.Location,
    report: Annotated[Path, typer.Option("--report", help="What hat verify --report-json wrote.")],
    model: Annotated[str, typer.Option("--model", help="The file that is to be accepted, a candidate of that report.")],
    min_cosine: Annotated[
        float, typer.Option(min=0, max=1, help="Least cosine between the two embeddings of any image of the report.")
    ] = 0.98,
    as_json: options.AsJson = False,
) -> None:
    """Allow another file of the gallery's own weights, once hat verify has shown that it ranks alike.

    For an int8 or float16 file on a camera beside the checkpoint on a server. The report must be of the gallery's model as the
    reference and of this very file as a candidate that passed, told by their fingerprints. Two embeddings whose cosine is 0.98
    lie 11 degrees apart: thresholds that were calibrated with one hold about, and not exactly, for the other.

    Examples:

      hat verify runs/market market-int8.xml --images ~/crops --report-json verify.json

      hat gallery accept people.gallery --report verify.json --model market-int8.xml
    """
    from hat.runtime import open_runtime, runtime_info

    with Gallery.open(location) as opened:
        candidate = binding_of(runtime_info(open_runtime(model)))
        compatible = read_compatible_model(report, opened.binding, candidate, min_cosine=min_cosine)
        opened.accept(compatible)
    result = {"gallery": location, "model": model, **config_to_dict(compatible)}
    emit(result, f"{model} may be used with {location}; worst cosine {compatible.worst_cosine:.6f}", as_json)
