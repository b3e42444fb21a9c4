"""``POST /v1/search``: who in a gallery looks like these images or records."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Depends
from starlette.responses import Response

from ...gallery.gallery import Gallery
from ...search.searching import Match, person_embedding, search_gallery
from ..forms import checked, request_body
from ..refusal import RefusalError
from ..schemas import SearchAnswer, SearchForm, record_answer
from ..service import Visit, reader

__all__ = ["router"]

router = APIRouter()

_MAX_MATCHES = 64_000
_MAX_RERANKED = 20_000
"""Records that are re-ranked for one request, over all its queries."""


@router.post(
    "/v1/search",
    tags=["search"],
    responses={200: {"model": SearchAnswer}},
    openapi_extra=request_body(SearchForm, images=True, json=True),
)
async def search(visit: Annotated[Visit, Depends(reader)]) -> Response:
    """Rank a gallery by similarity to images, in fields named `images`, and to records that it holds, `record_ids`.

    Each image and each record is a query of its own, unless `one_person` says that all show the same person. A record is not
    found by itself. Without images the fields may come as JSON.
    """
    with visit.service.admission.enter() as place:
        upload = await visit.upload(place, json=True)
        form = checked(SearchForm, upload.fields)
        gallery = visit.service.shelf.get(form.gallery)
        visit.exchange.gallery = form.gallery
        if not upload.images and not form.record_ids:
            raise RefusalError(422, "expected images, in fields named images, or record_ids")
        _check_size(form, len(upload.images), visit.service.settings.max_top)
        shown = await visit.embed(upload.images) if upload.images else None
    names = [image.name for image in upload.images] + [f"record {one}" for one in form.record_ids]

    def look() -> list[list[Match]]:
        return _search(gallery, form, shown)

    found = await visit.in_store(form.gallery, gallery, look)
    if form.one_person:
        names = [", ".join(names)]
    results = [
        {"query": name, "matches": [_match(match) for match in matches]} for name, matches in zip(names, found, strict=True)
    ]
    visit.exchange.counts |= {"num_queries": len(found), "num_results": sum(map(len, found))}
    return Response(orjson.dumps({"gallery": form.gallery, "results": results}), media_type="application/json")


def _check_size(form: SearchForm, num_images: int, max_top: int) -> None:
    """Refuse what would keep a thread busy for minutes, or fill memory with matches."""
    num_queries = 1 if form.one_person else num_images + len(form.record_ids)
    if form.top > max_top:
        raise RefusalError(422, f"top: at most {max_top:,} matches for each query")
    if form.top * num_queries > max(max_top, _MAX_MATCHES):
        raise RefusalError(422, f"top: {num_queries} queries of {form.top:,} matches each are too many for one request")
    if form.rerank and max(form.top, form.rerank_pool) * num_queries > _MAX_RERANKED:
        raise RefusalError(422, f"rerank_pool: {num_queries} queries of {form.rerank_pool:,} each are too many for one request")


def _search(gallery: Gallery, form: SearchForm, shown: npt.NDArray[np.float32] | None) -> list[list[Match]]:
    """One ranking for each query, cut off at the least similarity that was asked for."""

    def ranked(queries: npt.NDArray[np.float32], exclude_ids: frozenset[int] = frozenset()) -> list[list[Match]]:
        where = form.where(exclude_ids=exclude_ids)
        return search_gallery(gallery, queries, top=form.top, where=where, rerank=form.rerank, rerank_pool=form.rerank_pool)

    known = gallery.embeddings(form.record_ids) if form.record_ids else None
    if form.one_person:
        rows = np.concatenate([part for part in (shown, known) if part is not None])
        found = ranked(person_embedding(rows)[None], frozenset(form.record_ids))
    else:
        found = ranked(shown) if shown is not None else []
        for row, one in zip(known if known is not None else (), form.record_ids, strict=True):
            found += ranked(row[None], frozenset({one}))
    least = -np.inf if form.min_similarity is None else form.min_similarity
    return [[match for match in matches if match.similarity >= least] for matches in found]


def _match(match: Match) -> dict[str, Any]:
    ranks = {"distance": match.distance, "rank_before": match.rank_before}
    return {**record_answer(match.record), "similarity": match.similarity, **ranks}
