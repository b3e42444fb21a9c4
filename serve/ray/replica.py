"""One replica of the HTTP service on a Ray cluster: a process with the model, the galleries and the application of `hat serve`.

Nothing here imports Ray. A replica is a process of its own, so what it opened is a variable of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from starlette.types import ASGIApp, Receive, Scope, Send

from hat.config import config_dataclass
from hat.errors import WorkError

from ..service.settings import ServiceSettings

if TYPE_CHECKING:
    from ..service import Service


@config_dataclass
class ReplicaPlan:
    """What every replica opens. Paths must mean the same on every machine that may run one."""

    model: str
    """A checkpoint, an exported file, or ``triton://host:port/model``."""

    galleries: dict[str, str] = Field(default_factory=dict)
    """Name -> path or ``milvus://`` address."""

    write: bool = False
    """Whether it may change the galleries."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of a checkpoint."""

    num_threads: int | None = Field(default=None, ge=1)
    """Threads of the CPU that compute; None leaves the choice to the runtime."""

    keys: str | None = None
    """File of API keys; None asks for none."""

    audit: str | None = None
    """File for a line about every request; None keeps no record."""

    settings: ServiceSettings = Field(default_factory=ServiceSettings)
    """The bounds of a replica."""


_open: list[Any] = []
"""The service and the application of this process."""


def open_service(plan: ReplicaPlan) -> Service:
    """Open everything and run the model once, so that what is wrong is known before the first request.

    Raises:
        HatError: Something of it cannot be opened.
    """
    from hat.runtime import open_runtime, runtime_info

    from ..gallery.binding import binding_of
    from ..service import AuditLog, GalleryRegistry, KeyFile, KeyRing, Service

    ring = KeyRing(KeyFile(plan.keys)) if plan.keys is not None else None
    log = AuditLog(plan.audit) if plan.audit is not None else None
    options: dict[str, Any] = {} if plan.num_threads is None else {"num_threads": plan.num_threads}
    # Ray shows a replica the GPUs that it was given and no others: None takes one where there is one.
    runtime = open_runtime(plan.model, None, plan.precision, **options)
    galleries = GalleryRegistry.open(plan.galleries, binding_of(runtime_info(runtime)), read_only=not plan.write)
    service = Service(runtime, galleries, plan.settings, keys=ring, audit=log)
    try:
        service.pipeline.warm_up()
    except BaseException:
        service.close()
        raise
    return service


class Replica:
    """Opens the model and the galleries when Ray starts it; `Doorway` then hands requests to its application.

    Args:
        plan: What to open.

    Raises:
        HatError: Something of it cannot be opened.
    """

    def __init__(self, plan: ReplicaPlan) -> None:
        from ..service import create_app

        service = open_service(plan)
        _open[:] = [service, create_app(service)]

    def check_health(self) -> None:
        """Asked by Ray now and then; a replica that raises is replaced.

        Raises:
            WorkError: The model's thread has ended.
        """
        if _open and not _open[0].is_ready:
            raise WorkError("the model's thread has ended")


class Doorway:
    """The ASGI application that Ray is given before there is a service: it waits in every replica for `Replica` to open one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, its path taken relative to where Ray has put the application."""
        app: ASGIApp = _open[1]
        await app(_below_root(scope), receive, send)


def _below_root(scope: Scope) -> Scope:
    """Return the audit log and the routes go by the path; a prefix that is Ray's is none of their business."""
    root = scope.get("root_path", "").rstrip("/")
    if not root or scope["type"] != "http":
        return scope
    below = dict(scope, root_path="", path=scope["path"].removeprefix(root) or "/")
    below["raw_path"] = scope.get("raw_path", b"").removeprefix(root.encode()) or b"/"
    return below
