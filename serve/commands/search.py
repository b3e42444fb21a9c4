"""``hat search``: who in a gallery looks like this."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.console import emit, stderr

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..gallery.gallery import Gallery
    from ..gallery.records import Filter
    from ..search.query_embeddings import Query
    from ..search.searching import Match

__all__ = ["make_filter", "search"]


def search(
    gallery: Annotated[str, typer.Argument(help="A gallery's file, or milvus://HOST:PORT/NAME.")],
    images: Annotated[list[str] | None, typer.Argument(help="Images of people to look for.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", help="The gallery's model; not needed for records alone.")] = None,
    id_: Annotated[list[int] | None, typer.Option("--id", help="Look for a record of the gallery; repeat for several.")] = None,
    together: Annotated[bool, typer.Option("--together", help="All images and records show one person: rank once.")] = False,
    top: Annotated[int, typer.Option(min=1, help="Most matches of each query.")] = 10,
    rerank: Annotated[bool, typer.Option("--rerank", help="Order by k-reciprocal re-ranked distance.")] = False,
    rerank_pool: Annotated[int, typer.Option(min=1, help="Nearest images that are re-ranked.")] = 200,
    camera: Annotated[list[int] | None, typer.Option(help="Only what this camera saw; repeat for several.")] = None,
    exclude_camera: Annotated[list[int] | None, typer.Option(help="Nothing that this camera saw.")] = None,
    other_cameras: Annotated[bool, typer.Option("--other-cameras", help="Nothing that the query's own camera saw.")] = False,
    camid: Annotated[int | None, typer.Option(min=0, help="The camera that took the query images.")] = None,
    pid: Annotated[list[int] | None, typer.Option(help="Only this identity; repeat for several.")] = None,
    since: Annotated[str | None, typer.Option(help="Seen at this time or later: 2026-11-25T08:30 (UTC), or seconds.")] = None,
    until: Annotated[str | None, typer.Option(help="Seen before this time.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="Only images with NAME=VALUE; repeat for several.")] = None,
    threshold: Annotated[float | None, typer.Option(min=-1, max=1, help="Leave out what is less similar than this.")] = None,
    false_match_rate: Annotated[
        float | None, typer.Option(help="Take the threshold that so many comparisons of different people pass: 0.001.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the matches, from thumbnails or from the images' files.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank a gallery by similarity to one or several images, or to records that it holds.

    Similarity is the cosine of two embeddings, from -1 to 1; larger is closer. A match is a likeness and no proof of identity:
    --false-match-rate says how often a single comparison of two different people of this gallery errs, and how that adds up
    over all of it (see hat gallery calibrate).

    Examples:

      hat search people.gallery query.jpg --model runs/market

      hat search people.gallery a.jpg b.jpg c.jpg --together --model runs/market --rerank --picture matches.png

      hat search people.gallery --id 17 --other-cameras --since 2026-11-25 --false-match-rate 0.0001
    """
    from hat.embedder import Embedder
    from hat.errors import UsageError
    from hat.runtime import runtime_info

    from ..gallery.binding import binding_of
    from ..gallery.gallery import Gallery
    from ..search.query_embeddings import queries_of_images, queries_of_records, search_queries
    from ..search.query_embeddings import together as as_one

    images, ids = images or [], id_ or []
    if not images and not ids:
        raise UsageError("nothing to look for: give an image, or a record with --id")
    if images and model is None:
        raise UsageError("images need the gallery's model: --model FILE")
    if threshold is not None and false_match_rate is not None:
        raise UsageError("--threshold and --false-match-rate both set a threshold: give one of them")
    if picture is not None:
        check_picture_place(picture)
    where = make_filter(camera, exclude_camera, pid, since, until, attribute)
    embedder = Embedder.open(model, device=device) if images and model is not None else None
    binding = None if embedder is None else binding_of(runtime_info(embedder.runtime))
    with Gallery.open(gallery, binding=binding, read_only=True) as opened:
        queries = queries_of_records(ids, opened)
        if embedder is not None:
            queries = queries_of_images(images, embedder, camid) + queries
        if together:
            queries = [as_one(queries)]
        if false_match_rate is not None:
            threshold = _calibrated(opened, false_match_rate)
        found = search_queries(
            opened,
            queries,
            top=top,
            where=where,
            other_cameras=other_cameras,
            rerank=rerank,
            rerank_pool=rerank_pool,
            thumbnails=picture is not None,
        )
        if threshold is not None:
            found = [[match for match in matches if match.similarity >= threshold] for matches in found]
        if picture is not None:
            _draw(opened, queries, found, picture, f"{Path(gallery).name}, {len(opened):,} images")
        result = {
            "gallery": gallery,
            "num_records": len(opened),
            "rerank": rerank,
            "threshold": threshold,
            "queries": [_query_result(query, matches) for query, matches in zip(queries, found, strict=True)],
        }
    emit(result, _tables(result), as_json)


def make_filter(
    camera: list[int] | None,
    exclude_camera: list[int] | None,
    pid: list[int] | None,
    since: str | None,
    until: str | None,
    attribute: list[str] | None,
) -> Filter:
    """The filter of a command's options.

    Raises:
        UsageError: A time or an attribute cannot be read, or ``since`` is not before ``until``.
    """
    from hat.errors import UsageError

    from ..gallery.attribute_values import parse_attributes, parse_moment
    from ..gallery.records import Filter
    from .enroll import split_pairs

    since_s = None if since is None else parse_moment(since, "--since")
    until_s = None if until is None else parse_moment(until, "--until")
    if since_s is not None and until_s is not None and since_s >= until_s:
        raise UsageError(f"nothing can be seen at {since} or later and before {until}")
    return Filter(
        camids=frozenset(camera) if camera else None,
        exclude_camids=frozenset(exclude_camera or ()),
        pids=frozenset(pid) if pid else None,
        since_s=since_s,
        until_s=until_s,
        attributes=parse_attributes(split_pairs(attribute or [], "--attribute"), "--attribute"),
    )


def check_picture_place(path: Path) -> None:
    """Refuse before the work what would be refused after it.

    Raises:
        UsageError: The ending is no picture format's, or the folder is not there.
    """
    from PIL import Image

    from hat.errors import UsageError

    if path.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"{path}: the ending must name a picture format, such as .png")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder: make it first")


def record_result(record: Any) -> dict[str, Any]:
    """A record as plain data for JSON, without its thumbnail."""
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


def _calibrated(gallery: Gallery, false_match_rate: float) -> float:
    from ..calibrate.thresholds import calibrate, chance_of_any

    calibration = calibrate(gallery)
    threshold = calibration.threshold_at(false_match_rate)
    chance = chance_of_any(calibration.false_match_bound_at(threshold), len(gallery))
    stderr.print(
        f"threshold {threshold:.4f}: at most {false_match_rate:g} of the pairs of different people in this gallery are as "
        f"similar ({calibration.num_pairs:,} pairs, 95 % confidence); somebody who is not in it finds at least one such match "
        f"among {len(gallery):,} images with a chance of up to {chance:.2g}",
        soft_wrap=True,
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
                **record_result(match.record),
            }
            for rank, match in enumerate(matches, start=1)
        ],
    }


def _draw(gallery: Gallery, queries: list[Query], found: list[list[Match]], path: Path, title: str) -> None:
    from hat.errors import WorkError

    from ..search.match_picture import draw_matches

    image = draw_matches(gallery, queries, found, title=title)
    try:
        image.save(path)
    except (OSError, ValueError) as error:
        raise WorkError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    stderr.print(f"drawn: {path}", markup=False, soft_wrap=True)


def _tables(result: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ..gallery.attribute_values import show_moment

    parts: list[RenderableType] = []
    for query in result["queries"]:
        # Text and not strings: a path in square brackets would be taken for markup.
        parts.append(Text(query["query"], "bold"))
        if not query["matches"]:
            parts.append(Text("no match" + ("" if result["threshold"] is None else f" of {result['threshold']:.4f} or more")))
            continue
        columns = ["rank", "similarity", *(["distance", "before"] if result["rerank"] else []), "id", "pid", "camera"]
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column, justify="right")
        table.add_column("time (UTC)")
        table.add_column("source", overflow="ellipsis", no_wrap=True)
        for match in query["matches"]:
            reranked = [f"{match['distance']:.4f}", str(match["rank_before"])] if result["rerank"] else []
            labels = ["-" if match[key] is None else str(match[key]) for key in ("pid", "camid")]
            seen = "-" if match["time_s"] is None else show_moment(match["time_s"])
            name = Text(match["source"].rpartition("/")[2])
            table.add_row(str(match["rank"]), f"{match['similarity']:.4f}", *reranked, str(match["id"]), *labels, seen, name)
        parts.append(table)
    return Group(*parts)
