"""``POST /v1/embed``: images in, unit vectors out."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter
from starlette.responses import Response

from ..api_error import ApiError
from ..dependencies import Reader
from ..schemas import Embeddings
from ..uploads import describe_body

router = APIRouter()

_NPY = "application/x-npy"

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Embeddings,
        "content": {
            _NPY: {"schema": {"type": "string", "format": "binary", "description": "(n, embed_dim) float32, NumPy's format"}}
        },
    }
}


@router.post("/v1/embed", tags=["embed"], responses=_ANSWERS, openapi_extra=describe_body(images=True, alone=True))
async def embed(reader: Reader) -> Response:
    """Embed images: as parts `images` of a form, or one image as the whole body.

    With `Accept: application/x-npy` the answer is a NumPy file of (n, embed_dim) float32 instead of JSON, at a third of the
    size.
    """
    async with reader.receive() as upload:
        if not upload.images or upload.fields:
            raise ApiError(422, "expected images, in fields named images, and no other field")
        embeddings = await reader.embed(upload.images)
    if _NPY in reader.headers.get("accept", ""):
        return Response(_npy(embeddings), media_type=_NPY)
    info = reader.service.info
    content = {"embeddings": embeddings, "embed_dim": info.embed_dim, "fingerprint": info.fingerprint}
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _npy(embeddings: npt.NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, embeddings, allow_pickle=False)
    return file.getvalue()
