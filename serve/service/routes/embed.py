"""``POST /v1/embed``: images in, unit vectors out."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from ..forms import request_body
from ..refusal import RefusalError
from ..schemas import EmbedAnswer
from ..service import reader

__all__ = ["router"]

router = APIRouter()

_NPY = "application/x-npy"

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": EmbedAnswer,
        "content": {
            _NPY: {"schema": {"type": "string", "format": "binary", "description": "(n, embed_dim) float32, NumPy's format"}}
        },
    }
}


@router.post("/v1/embed", tags=["embed"], responses=_ANSWERS, openapi_extra=request_body(images=True, alone=True))
async def embed(request: Request) -> Response:
    """Embed images: as parts `images` of a form, or one image as the whole body.

    With `Accept: application/x-npy` the answer is a NumPy file of (n, embed_dim) float32 instead of JSON, at a third of the
    size.
    """
    # Called and not declared as a dependency, as elsewhere: for one small crop that machinery is a good part of the time.
    visit = await reader(request)
    service = visit.service
    with service.admission.enter() as place:
        upload = await visit.upload(place)
        if not upload.images or upload.fields:
            raise RefusalError(422, "expected images, in fields named images, and no other field")
        embeddings = await visit.embed(upload.images)
    if _NPY in request.headers.get("accept", ""):
        return Response(_npy(embeddings), media_type=_NPY)
    content = {"embeddings": embeddings, "embed_dim": service.info.embed_dim, "fingerprint": service.info.fingerprint}
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _npy(embeddings: npt.NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, embeddings, allow_pickle=False)
    return file.getvalue()
