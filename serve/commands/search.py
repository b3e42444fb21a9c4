"""``hat search``: who in a gallery looks like this."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from hat.commands.options import Force, GrayBits, finite
from hat.console import emit, make_table
from hat.data.images import describe_frames, set_gray_bits
from hat.errors import UsageError
from hat.io.plot_file import check_picture_path, save_picture

from ..calibrate import calibrate_thresholds, chance_of_any
from ..gallery.gallery import Gallery
from ..gallery.records import Filter
from . import options

if TYPE_CHECKING:
    from ..search.query_embeddings import Query
    from ..search.searching import Match


def search(
    gallery: options.Location,
    images: Annotated[list[str] | None, typer.Argument(help="Images of people to look for.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", help="The gallery's model; not needed for records alone.")] = None,
    id_: options.Ids = None,
    one_person: Annotated[bool, typer.Option("--one-person", help="All show one person: rank once.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Maximum number of matches per query.")] = 10,
    rerank: Annotated[bool, typer.Option("--rerank", help="Order by k-reciprocal re-ranked distance.")] = False,
    rerank_pool: Annotated[int, typer.Option(min=1, help="Number of nearest images to re-rank.")] = 200,
    camid: options.Camids = None,
    exclude_camid: Annotated[list[int] | None, typer.Option(help="Exclude this camera.")] = None,
    other_cameras: Annotated[bool, typer.Option("--other-cameras", help="Exclude the query's own camera.")] = False,
    center_cameras: Annotated[bool, typer.Option("--center-cameras", help="Subtract each camera's mean embedding.")] = False,
    query_camid: Annotated[int | None, typer.Option(min=0, help="The camera that took the query images.")] = None,
    pid: options.Pids = None,
    since: options.Since = None,
    until: options.Until = None,
    attribute: options.Attributes = None,
    min_similarity: Annotated[float | None, typer.Option(callback=finite, min=-1, max=1, help="Minimum similarity.")] = None,
    false_match_rate: Annotated[
        float | None, typer.Option(callback=finite, help="Set the threshold by this rate: 0.001.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the matches, from thumbnails or from the images' files.")] = None,
    force: Force = False,
    device: options.Device = "auto",
    gray_bits: GrayBits = None,
    as_json: options.AsJson = False,
) -> None:
    """Rank a gallery by similarity to one or several images, or to records that it holds.

    Similarity is the cosine of two embeddings, from -1 to 1; larger is closer. A match is no proof of identity:
    --false-match-rate says how often a single comparison of two different people of this gallery errs, and how that adds up
    over all of it (see hat gallery calibrate).

    Examples:

      hat search people.gallery query.jpg --model runs/market

      hat search people.gallery a.jpg b.jpg c.jpg --one-person --model runs/market --rerank --picture matches.png

      hat search people.gallery --id 17 --other-cameras --since 2026-11-25 --false-match-rate 0.0001
    """
    from ..search.query_embeddings import draw_matches, queries_of_images, queries_of_records, rank_queries
    from ..search.searching import CenteredGallery

    images, ids = images or [], id_ or []
    if not images and not ids:
        raise UsageError("nothing to look for: give an image, or a record with --id")
    if images and model is None:
        raise UsageError("images need the gallery's model: --model FILE")
    if min_similarity is not None and false_match_rate is not None:
        raise UsageError("--min-similarity and --false-match-rate both set a threshold: give one of them")
    if center_cameras and false_match_rate is not None:
        raise UsageError("--false-match-rate is calibrated without --center-cameras: give a --min-similarity instead")
    if query_camid is not None and not (images and (other_cameras or center_cameras)):
        raise UsageError("--query-camid is of the query images, for --other-cameras and --center-cameras")
    check_picture_path(picture, "drawing the matches", overwrite=force)
    having = options.parse_attribute_options(attribute)
    where = Filter.of(
        camids=camid or None, exclude_camids=exclude_camid, pids=pid or None, since_s=since, until_s=until, attributes=having
    )
    set_gray_bits(gray_bits)
    notes = describe_frames(images)
    options.tell(*notes)
    embedder, binding = options.open_embedder(model, device) if images and model is not None else (None, None)
    with Gallery.open(gallery, binding=binding, read_only=True) as opened:
        queries = queries_of_records(ids, opened)
        if embedder is not None:
            queries = queries_of_images(images, embedder, query_camid) + queries
        if false_match_rate is not None:
            min_similarity = _calibrated(opened, false_match_rate)
        ranked = rank_queries(
            CenteredGallery(opened) if center_cameras else opened,
            queries,
            top=top,
            where=where,
            one_person=one_person,
            other_cameras=other_cameras,
            min_similarity=min_similarity,
            rerank=rerank,
            rerank_pool=rerank_pool,
            thumbnails=picture is not None,
        )
        if picture is not None:
            title = f"{Path(gallery).name}, {len(opened):,} images"
            save_picture(draw_matches(opened, ranked, title=title), picture, overwrite=force)
            options.tell(f"drawn: {picture}")
        result = {
            "gallery": gallery,
            "num_records": len(opened),
            "rerank": rerank,
            "center_cameras": center_cameras,
            "min_similarity": min_similarity,
            "notes": list(notes),
            "queries": [_query_result(query, matches) for query, matches in ranked],
        }
    emit(result, _tables(result), as_json)


def _calibrated(gallery: Gallery, false_match_rate: float) -> float:
    calibration = calibrate_thresholds(gallery)
    threshold = calibration.threshold_at(false_match_rate)
    chance = chance_of_any(calibration.point_at(threshold).false_match_bound, len(gallery))
    options.tell(
        f"threshold {threshold:.4f}: at most {false_match_rate:g} of the pairs of different people in this gallery are as "
        f"similar ({calibration.num_pairs:,} pairs, 95 % confidence); somebody who is not in it finds at least one such match "
        f"among {len(gallery):,} images with a chance of up to {chance:.2g}"
    )
    return threshold


def _query_result(query: Query, matches: list[Match]) -> dict[str, Any]:
    return {
        "query": query.name,
        "pid": query.pid,
        "matches": [
            {
                "rank": rank,
                "similarity": round(match.similarity, 6),
                "distance": None if match.distance is None else round(match.distance, 6),
                "rank_before": match.rank_before,
                **options.record_result(match.record),
            }
            for rank, match in enumerate(matches, start=1)
        ],
    }


def _tables(result: dict[str, Any]) -> RenderableType:
    reranked = ["distance", "before"] if result["rerank"] else []
    columns = ["rank", "similarity", *reranked, "id", "pid", "camera", "time (UTC)", "source"]
    parts: list[RenderableType] = []
    for query in result["queries"]:
        parts.append(Text(query["query"], "bold"))
        if not query["matches"]:
            limit = result["min_similarity"]
            parts.append(Text("no match" + ("" if limit is None else f" of {limit:.4f} or more")))
            continue
        rows = []
        for match in query["matches"]:
            before = [f"{match['distance']:.4f}", match["rank_before"]] if reranked else []
            name = match["source"].rpartition("/")[2]
            rows.append([match["rank"], f"{match['similarity']:.4f}", *before, match["id"], *options.label_cells(match), name])
        parts.append(make_table(rows, columns, left=("time (UTC)", "source")))
    return Group(*parts)
