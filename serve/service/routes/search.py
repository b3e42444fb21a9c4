"""``POST /v1/search``: the records of a gallery most similar to images or records."""

import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter
from starlette.responses import Response

from ...gallery.gallery import Gallery
from ...search.query_embeddings import Query, queries_of_records, rank_queries
from ...search.searching import CenteredGallery, Match
from ..api_error import ApiError
from ..dependencies import Reader
from ..schemas import SearchForm, SearchResults
from ..uploads import describe_body

router = APIRouter(tags=["search"])

_MAX_MATCHES = 64_000
_MAX_RERANKED = 20_000  # records that are re-ranked for one request, over all its queries
_MAX_CENTERED_VALUES = 2**27  # of a gallery's embeddings, 512 MiB, that a request may center: each makes a copy of its own
_CENTERING = threading.Lock()  # held while there is such a copy, so that there is one at a time


@router.post(
    "/v1/search", responses={200: {"model": SearchResults}}, openapi_extra=describe_body(SearchForm, images=True, json=True)
)
async def search(reader: Reader) -> Response:
    """Rank a gallery by similarity to images, in fields named `images`, and to records that it holds, `record_ids`.

    Each image and each record is a separate query, unless `one_person` is true: then all show the same person. A record is not
    found by itself. Without images the fields may come as JSON.
    """
    async with reader.receive(json=True) as upload:
        form = upload.parse(SearchForm)
        gallery = reader.service.galleries.get(form.gallery)
        reader.context.gallery = form.gallery
        if not upload.images and not form.record_ids:
            raise ApiError(422, "expected images, in fields named images, or record_ids")
        _check_size(form, len(upload.images), reader.service.settings.max_top)
        embeddings = await reader.embed(upload.images) if upload.images else None
    names = [image.name for image in upload.images] + [f"record {record_id}" for record_id in form.record_ids]

    def find() -> tuple[bytes, int]:
        with _CENTERING if form.center_cameras else nullcontext():
            rankings = _search(gallery, form, embeddings)
        queries = zip([", ".join(names)] if form.one_person else names, rankings, strict=True)
        results = [{"query": name, "matches": [_match(match) for match in matches]} for name, matches in queries]
        return orjson.dumps({"gallery": form.gallery, "results": results}), sum(map(len, rankings))

    content, num_results = await reader.run(find)
    reader.context.counts |= {"num_queries": 1 if form.one_person else len(names), "num_results": num_results}
    return Response(content, media_type="application/json")


def _check_size(form: SearchForm, num_images: int, max_top: int) -> None:
    """Refuse what would keep a thread busy for minutes, or fill memory with matches."""
    num_queries = 1 if form.one_person else num_images + len(form.record_ids)
    if form.top > max_top:
        raise ApiError(422, f"top: at most {max_top:,} matches for each query")
    if form.top * num_queries > max(max_top, _MAX_MATCHES):
        raise ApiError(422, f"top: {num_queries} queries of {form.top:,} matches each are too many for one request")
    if form.rerank and max(form.top, form.rerank_pool) * num_queries > _MAX_RERANKED:
        raise ApiError(422, f"rerank_pool: {num_queries} queries of {form.rerank_pool:,} each are too many for one request")


def _search(gallery: Gallery, form: SearchForm, embeddings: npt.NDArray[np.float32] | None) -> list[list[Match]]:
    """Rank for each query, or for all of them as one person."""
    camids = frozenset() if form.query_camid is None else frozenset({form.query_camid})
    queries = [] if embeddings is None else [Query("image", row, camids=camids) for row in embeddings]
    queries += queries_of_records(form.record_ids, gallery) if form.record_ids else []
    searched: Gallery | CenteredGallery = gallery
    if form.center_cameras:
        max_records = _MAX_CENTERED_VALUES // gallery.binding.embed_dim
        if len(gallery) > max_records:
            raise ApiError(
                422, f"center_cameras: at most {max_records:,} records over HTTP, and the gallery has {len(gallery):,}"
            )
        searched = CenteredGallery(gallery)
    options = form.model_dump(include={"one_person", "min_similarity", "top", "rerank", "rerank_pool"})
    return [matches for _, matches in rank_queries(searched, queries, where=form.where(), **options)]


def _match(match: Match) -> dict[str, Any]:
    record = {name: value for name, value in vars(match.record).items() if name != "thumbnail"}
    return {**record, "similarity": match.similarity, "distance": match.distance, "rank_before": match.rank_before}
