"""``hat gallery calibrate``: what similarities mean in a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hat.console import emit, stderr

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..calibrate.thresholds import RocPoint, ThresholdCalibration


def calibrate(
    location: Annotated[str, typer.Argument(metavar="GALLERY", help="A gallery's file, or milvus://HOST:PORT/NAME.")],
    pairs: Annotated[int, typer.Option(min=1, help="Most pairs of images that are compared, of either kind.")] = 300_000,
    rate: Annotated[list[float] | None, typer.Option(help="A false match rate: 0.001; repeat for several.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of pairs.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Draw the similarities and the ROC: .png, .svg or .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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
    from hat.errors import UsageError
    from hat.io.plot_file import check_plot_path

    from ..calibrate.calibration_picture import draw_calibration
    from ..calibrate.thresholds import calibrate_thresholds as run
    from ..calibrate.thresholds import chance_of_any
    from ..gallery.gallery import Gallery

    if picture is not None:
        check_plot_path(picture, "drawing a calibration")
    if any(not 0 < one < 1 for one in rate or ()):
        raise UsageError(f"a false match rate lies between 0 and 1, got {', '.join(map(str, rate or ()))}")
    with Gallery.open(location, read_only=True) as opened:
        found = run(opened, num_pairs=pairs, seed=seed)
        num_records = len(opened)
    points = [found.point_at(found.threshold_at(one)) for one in rate] if rate else found.roc()
    rows = [point.to_dict() | {"chance_in_gallery": chance_of_any(point.false_match_bound, num_records)} for point in points]
    if picture is not None:
        draw_calibration(found, picture, title=Path(location).name)
        stderr.print(f"drawn: {picture}", markup=False, soft_wrap=True)
    emit(
        {"gallery": location, "num_gallery": num_records, **found.to_dict(), "roc": rows},
        _table(found, points, num_records),
        as_json,
    )


def _table(found: ThresholdCalibration, points: list[RocPoint], num_records: int) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ..calibrate.thresholds import chance_of_any

    how = "all" if found.is_exhaustive else "a sample of the"
    genuine = (
        f"{found.num_genuine:,} of one person from two cameras" if found.num_genuine else "none of one person from two cameras"
    )
    head = (
        f"{how} pairs of {found.num_records:,} images of {found.num_identities:,} known people: "
        f"{found.num_pairs:,} of different people, {genuine}"
    )
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("threshold", "false matches", "at most (95 %)", "true matches", f"any among {num_records:,}"):
        table.add_column(column, justify="right")
    for point in points:
        table.add_row(
            f"{point.similarity:.4f}",
            _rate(point.false_match_rate),
            _rate(point.false_match_bound),
            "-" if point.true_match_rate is None else f"{100 * point.true_match_rate:.1f} %",
            _rate(chance_of_any(point.false_match_bound, num_records)),
        )
    by_whom = "the people in this gallery" if found.is_exhaustive else "so many pairs (--pairs)"
    foot = f"Lower rates than {_rate(found.lowest_rate)} cannot be shown by {by_whom}."
    return Group(Text(head), "", table, "", Text(foot, "dim"))


def _rate(rate: float) -> str:
    return f"{100 * rate:.3g} %"
