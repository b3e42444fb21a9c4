"""``POST /v1/embed``, images in, unit vectors out; and the routes of the model, health, readiness and metrics."""

import io

import numpy as np
import orjson
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from ..api_error import ApiError
from ..dependencies import Reader
from ..schemas import Embeddings, ModelInfo
from ..uploads import describe_body

router = APIRouter(tags=["model"])

_NPY = "application/x-npy"
_NPY_SCHEMA = {"schema": {"type": "string", "format": "binary", "description": "(n, embed_dim) float32, NumPy's format"}}


@router.post(
    "/v1/embed",
    responses={200: {"model": Embeddings, "content": {_NPY: _NPY_SCHEMA}}},
    openapi_extra=describe_body(images=True, alone=True),
)
async def embed(reader: Reader) -> Response:
    """Embed images: as parts `images` of a form, or one image as the whole body.

    With `Accept: application/x-npy` the response is a NumPy file of (n, embed_dim) float32 instead of JSON, at a third of the
    size.
    """
    async with reader.receive() as upload:
        if not upload.images or upload.fields:
            raise ApiError(422, "expected images, in fields named images, and no other field")
        embeddings = await reader.embed(upload.images)
    if _NPY in reader.headers.get("accept", ""):
        file = io.BytesIO()
        np.save(file, embeddings, allow_pickle=False)
        return Response(file.getvalue(), media_type=_NPY)
    info = reader.service.info
    content = {"embeddings": embeddings, "embed_dim": info.embed_dim, "fingerprint": info.fingerprint}
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@router.get("/v1/model")
async def model(reader: Reader) -> ModelInfo:
    """Return the model of the service."""
    info = reader.service.info
    return ModelInfo.model_validate({**vars(info), "image_size": info.preprocessing.size})


@router.get("/metrics", response_class=Response)
async def metrics(reader: Reader) -> Response:
    """Return metrics in Prometheus' format."""
    return Response(reader.service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/healthz")
async def health() -> dict[str, str]:
    """Return that the process is alive, whatever the state of the model. Needs no key."""
    return {"status": "alive"}


@router.get("/readyz")
async def readiness(request: Request) -> dict[str, str]:
    """Return whether the model is ready to run. Needs no key."""
    if not request.app.state.service.is_ready:
        raise ApiError(503, "the service is not ready", retry_after_s=5)
    return {"status": "ready"}
