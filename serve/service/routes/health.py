"""Whether the service lives, whether it is ready, what it counts, and which model it runs."""

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from ..api_error import ApiError
from ..dependencies import Reader, ServiceDep
from ..schemas import Health, ModelInfo

router = APIRouter(tags=["service"])


@router.get("/healthz")
async def health() -> Health:
    """Answer whatever the model does. Needs no key."""
    return Health(status="alive")


@router.get("/readyz")
async def readiness(service: ServiceDep) -> Health:
    """Say whether the model is ready to run. Needs no key."""
    if not service.is_ready:
        raise ApiError(503, "the service is not ready", retry_after_s=5)
    return Health(status="ready")


@router.get("/metrics", response_class=Response)
async def metrics(reader: Reader) -> Response:
    """Return counts and times in Prometheus' format."""
    return Response(reader.service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/model", response_model=ModelInfo)
async def model(reader: Reader) -> dict[str, Any]:
    """Describe the model that embeds here."""
    info = reader.service.info
    facts = {"name": info.name, "precision": info.precision, "embed_dim": info.embed_dim, "fingerprint": info.fingerprint}
    return {**facts, "image_size": list(info.preprocessing.size)}
