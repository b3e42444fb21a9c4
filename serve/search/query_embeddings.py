"""What is searched for: images, or records of the gallery; each by itself, or all together as one person."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hat.data.datasets import JUNK_PID
from hat.embedder import Embedder
from hat.errors import UsageError

from ..enroll.items import read_name
from ..gallery.gallery import Gallery
from ..gallery.identities import Identity
from ..gallery.records import Filter
from .searching import Match, Searchable, person_embedding, search_gallery


@dataclass(frozen=True, eq=False)
class Query:
    """Something that is searched for.

    Attributes:
        name: What it is called.
        embedding: (embed_dim,) float32 of unit length.
        pid: Identity, where it is known.
        camids: Cameras that it was seen by; empty where that is not known.
        ids: Records of the gallery that it is made of: they are not found.
        paths: Image files that it is made of.
    """

    name: str
    embedding: npt.NDArray[np.float32] = field(repr=False)
    pid: Identity | None = None
    camids: frozenset[int] = frozenset()
    ids: frozenset[int] = frozenset()
    paths: tuple[str, ...] = ()


def queries_of_images(paths: Sequence[str], embedder: Embedder, camid: int | None = None) -> list[Query]:
    """Return one query for each image file; Market-style names say identity and camera.

    Args:
        paths: Image files, or members of zip files.
        embedder: The gallery's model.
        camid: The camera that took all of them; None believes their names.

    Raises:
        ImageError: A file is no image that can be used.
    """
    queries = []
    for path, embedding in zip(paths, embedder.embed_paths(paths), strict=True):
        labels = read_name(path.replace("!", "/").rpartition("/")[2])
        seen = camid if camid is not None else None if labels is None else labels.camid
        pid = None if labels is None or labels.pid == JUNK_PID else labels.pid
        queries.append(
            Query(
                path,
                embedding,
                pid=pid,
                camids=frozenset() if seen is None else frozenset({seen}),
                paths=(path,),
            )
        )
    return queries


def queries_of_records(ids: Sequence[int], gallery: Gallery) -> list[Query]:
    """Return one query for each record of the gallery, which it does not find itself; no model is needed.

    Raises:
        UsageError: There is no record with one of the ids.
    """
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


def merge_queries(queries: Sequence[Query]) -> Query:
    """Return all queries as one of one person: see `person_embedding`.

    Raises:
        UsageError: They are known to be of different people, or have nothing in common.
    """
    pids = {query.pid for query in queries if query.pid is not None}
    if len(pids) > 1:
        named = ", ".join(sorted(map(str, pids)))
        raise UsageError(f"--one-person is for images of one person, and these are of the identities {named}")
    return Query(
        " + ".join(query.name for query in queries),
        person_embedding(np.stack([query.embedding for query in queries])),
        pid=next(iter(pids), None),
        camids=frozenset().union(*(query.camids for query in queries)),
        ids=frozenset().union(*(query.ids for query in queries)),
        paths=tuple(path for query in queries for path in query.paths),
    )


def search_queries(
    gallery: Searchable,
    queries: Sequence[Query],
    *,
    top: int,
    where: Filter,
    other_cameras: bool = False,
    rerank: bool = False,
    rerank_pool: int = 200,
    thumbnails: bool = False,
) -> list[list[Match]]:
    """Search for every query; a query of the gallery's own records does not find those.

    Args:
        gallery: The gallery.
        queries: What is searched for.
        top: Most matches for each.
        where: Which records may be found by all of them.
        other_cameras: Leave out what a query's own cameras saw.
        rerank: See `search_gallery`.
        rerank_pool: See `search_gallery`.
        thumbnails: See `search_gallery`.

    Raises:
        UsageError: As `search_gallery`; or ``other_cameras`` where a query's camera is not known.
    """
    # Queries that may find the same records are ranked in one call.
    groups: dict[tuple[frozenset[int], frozenset[int]], list[int]] = {}
    for place, query in enumerate(queries):
        if other_cameras and not query.camids:
            raise UsageError(
                f"{query.name}: which camera saw it is not known: give it with --query-camid, or leave out --other-cameras"
            )
        groups.setdefault((query.ids, query.camids if other_cameras else frozenset()), []).append(place)
    found: list[list[Match]] = [[] for _ in queries]
    for (ids, camids), places in groups.items():
        narrowed = replace(where, exclude_ids=where.exclude_ids | ids, exclude_camids=where.exclude_camids | camids)
        rankings = search_gallery(
            gallery,
            np.stack([queries[place].embedding for place in places]),
            top=top,
            where=narrowed,
            rerank=rerank,
            rerank_pool=rerank_pool,
            thumbnails=thumbnails,
        )
        for place, matches in zip(places, rankings, strict=True):
            found[place] = matches
    return found
