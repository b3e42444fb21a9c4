"""Queries: images or records of the gallery, each by itself or together as one person; and the picture of their matches."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.data.datasets import JUNK_PID
from hat.data.images import read_image
from hat.embedder import Embedder
from hat.errors import ImageError, UsageError

from ..enroll.items import read_name
from ..gallery.gallery import Gallery
from ..gallery.identities import Identity
from ..gallery.person_crops import record_image
from ..gallery.records import Filter
from .searching import CenteredGallery, Match, person_embedding, search_gallery


@dataclass(frozen=True, eq=False)
class Query:
    """Something that is searched for: a (embed_dim,) float32 embedding of unit length, and what is known of it."""

    name: str
    embedding: npt.NDArray[np.float32] = field(repr=False)
    pid: Identity | None = None
    camids: frozenset[int] = frozenset()  # that it was seen by; empty where that is not known
    ids: frozenset[int] = frozenset()  # records of the gallery that it is made of: they are not found
    paths: tuple[str, ...] = ()  # image files that it is made of


def queries_of_images(paths: Sequence[str], embedder: Embedder, camid: int | None = None) -> list[Query]:
    """Return one query for each image file; Market-style names say identity and camera, unless ``camid`` took all of them."""
    queries = []
    for path, embedding in zip(paths, embedder.embed_paths(paths), strict=True):
        labels = read_name(path.replace("!", "/").rpartition("/")[2])
        seen = camid if camid is not None else None if labels is None else labels.camid
        pid = None if labels is None or labels.pid == JUNK_PID else labels.pid
        queries.append(
            Query(path, embedding, pid=pid, camids=frozenset() if seen is None else frozenset({seen}), paths=(path,))
        )
    return queries


def queries_of_records(ids: Sequence[int], gallery: Gallery) -> list[Query]:
    """Return one query for each record of the gallery, which it does not find itself; no model is needed."""
    records = gallery.get(ids)
    return [
        Query(
            f"record {record.id} ({Path(record.source).name})",
            embedding,
            pid=record.pid,
            camids=frozenset() if record.camid is None else frozenset({record.camid}),
            ids=frozenset({record.id}),
        )
        for record, embedding in zip(records, gallery.embeddings(ids), strict=True)
    ]


def rank_queries(
    gallery: Gallery | CenteredGallery,
    queries: Sequence[Query],
    *,
    where: Filter,
    one_person: bool = False,
    other_cameras: bool = False,
    min_similarity: float | None = None,
    **options: Any,
) -> list[tuple[Query, list[Match]]]:
    """Return each query with its matches as `search_gallery`, whose options these are, finds them; at least one is needed.

    No query finds the records that it is made of, and in a gallery that is centered each is centered too. With ``one_person``
    all become one, see `person_embedding`; with ``other_cameras`` what a query's own cameras saw is left out.

    Raises:
        UsageError: The queries of one person are known to be of several or have nothing in common, or a query's cameras are
            not known where they are left out; and what `search_gallery` refuses.
    """
    # Before several become one: each has the mean of its own camera.
    if isinstance(gallery, CenteredGallery):
        queries = [replace(query, embedding=gallery.center(query.embedding, query.camids)) for query in queries]
    if one_person:
        queries = [_merge(queries)]
    # Queries that may find the same records are ranked in one call.
    groups: dict[tuple[frozenset[int], frozenset[int]], list[int]] = {}
    for number, query in enumerate(queries):
        if other_cameras and not query.camids:
            raise UsageError(
                f"{query.name}: which camera saw it is not known: give it with --query-camid, or leave out --other-cameras"
            )
        groups.setdefault((query.ids, query.camids if other_cameras else frozenset()), []).append(number)
    minimum = -np.inf if min_similarity is None else min_similarity
    found: list[list[Match]] = [[] for _ in queries]
    for (ids, camids), numbers in groups.items():
        narrowed = replace(where, exclude_ids=where.exclude_ids | ids, exclude_camids=where.exclude_camids | camids)
        embeddings = np.stack([queries[number].embedding for number in numbers])
        for number, matches in zip(numbers, search_gallery(gallery, embeddings, where=narrowed, **options), strict=True):
            found[number] = [match for match in matches if match.similarity >= minimum]
    return list(zip(queries, found, strict=True))


def _merge(queries: Sequence[Query]) -> Query:
    pids = {query.pid for query in queries if query.pid is not None}
    if len(pids) > 1:
        named = ", ".join(sorted(map(str, pids)))
        raise UsageError(f"expected images of one person, got the identities {named}: search for each by itself")
    return Query(
        " + ".join(query.name for query in queries),
        person_embedding(np.stack([query.embedding for query in queries])),
        pid=next(iter(pids), None),
        camids=frozenset().union(*(query.camids for query in queries)),
        ids=frozenset().union(*(query.ids for query in queries)),
        paths=tuple(path for query in queries for path in query.paths),
    )


def draw_matches(gallery: Gallery, ranked: Sequence[tuple[Query, Sequence[Match]]], *, title: str) -> Image.Image:
    """Draw a row for each query, of several images the first, then its matches, best first, read with their thumbnails.

    Where the identities of query and match are known, the frame is green with a tick where they are the same and red with a
    cross where they are not. A record whose picture is not there any more has an empty tile; if none has one, or the whole
    would be enormous, that is a `UsageError`.
    """
    from hat.visual import Tile, draw_grid

    pictures = [[record_image(match.record) for match in matches] for _, matches in ranked]
    if any(pictures) and not any(picture for row in pictures for picture in row):
        raise UsageError(
            "none of the matches has a picture: the gallery keeps no thumbnails (hat enroll --thumbnails), and the files that "
            "were enrolled are not there any more"
        )
    rows = []
    for (query, matches), images in zip(ranked, pictures, strict=True):
        name = query.paths[0].rpartition("/")[2] if query.paths else query.name
        lines = [f"id {query.pid}", name] if query.pid is not None else [name, ""]
        caption = _caption(lines[0], next(iter(query.camids), None), lines[1])
        tiles = [Tile(_query_image(gallery, query), caption, is_query=True)]
        for match, image in zip(matches, images, strict=True):
            record = match.record
            described = record.source.rpartition("/")[2] if record.pid is None else f"id {record.pid}"
            is_match = None if query.pid is None or record.pid is None else query.pid == record.pid
            tiles.append(Tile(image, _caption(f"{match.similarity:.2f}", record.camid, described), is_match))
        rows.append(tiles)
    labels = ["Query", *map(str, range(1, max(map(len, rows), default=1)))]
    return draw_grid(rows, title, ["Ranked by similarity, best first"], column_labels=labels)


def _query_image(gallery: Gallery, query: Query) -> Image.Image | None:
    if query.paths:
        with suppress(ImageError):
            return read_image(query.paths[0])
        return None
    (record,) = gallery.get([min(query.ids)], thumbnails=True)
    return record_image(record)


def _caption(first: str, camid: int | None, second: str) -> str:
    return f"{first}{'' if camid is None else f' · cam {camid}'}\n{second}"
