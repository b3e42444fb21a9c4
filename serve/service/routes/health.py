"""Whether the service lives, whether it is ready, what it counts, and which model it runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from ..metrics import CONTENT_TYPE_LATEST
from ..refusal import RefusalError
from ..schemas import ModelAnswer
from ..service import Visit, reader, service_of
from .galleries import json_answer

__all__ = ["router"]

router = APIRouter(tags=["service"])


@router.get("/healthz")
async def health(request: Request) -> Response:
    """The process answers. Needs no key."""
    return json_answer({"status": "alive"})


@router.get("/readyz")
async def readiness(request: Request) -> Response:
    """The model is ready to run. Needs no key."""
    if not service_of(request).is_ready:
        raise RefusalError(503, "the service is not ready", retry_after_s=5)
    return json_answer({"status": "ready"})


@router.get("/metrics", response_class=Response)
async def metrics(visit: Annotated[Visit, Depends(reader)]) -> Response:
    """Counts and times in Prometheus' format."""
    return Response(visit.service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/model", responses={200: {"model": ModelAnswer}})
async def model(visit: Annotated[Visit, Depends(reader)]) -> Response:
    """Which model embeds here."""
    info = visit.service.info
    facts = {"name": info.name, "precision": info.precision, "embed_dim": info.embed_dim, "fingerprint": info.fingerprint}
    return json_answer({**facts, "image_size": list(info.preprocessing.size)})
