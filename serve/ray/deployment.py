"""The HTTP service on Ray Serve: as many replicas as there is work for, on one machine or a cluster.

Every replica is the service of `hat serve`, with its own model and batches: Ray shares requests out, starts and ends replicas
by how many requests are under way, and replaces those that die. A gallery has one writer, so replicas read galleries and refuse
changes; enrollment has an application of its own with a single replica, ``write=True``, and what it writes the others find at
once. Galleries in files are read on the machine that has the file alone: on a cluster of several, use Milvus.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from starlette.types import ASGIApp, Receive, Scope, Send

from hat.config import config_dataclass, config_from_dict
from hat.errors import MissingExtraError, UsageError, WorkError, last_line

from ..service import ServiceSettings
from ..service.keys import is_loopback

if TYPE_CHECKING:
    from ray.serve import Application

    from ..service import Service

_OUR_ERROR = re.compile(r"hat\.errors\.\w+: (.+)")
_PREFIX = re.compile(r"/|(/[A-Za-z0-9_-]+)+")


@config_dataclass
class ReplicaPlan:
    """Configuration of every replica. Paths must mean the same on every machine that may run one.

    Attributes:
        model: A checkpoint, an exported file, or ``triton://host:port/model``.
        galleries: Name -> path or ``milvus://`` address.
        write: Whether it may change the galleries.
        precision: Of a checkpoint.
        num_threads: Threads of the CPU that compute; None leaves the choice to the runtime.
        keys: File of API keys; None requires none.
        audit: File for a line about every request; None keeps no record.
        settings: The bounds of a replica.
    """

    model: str
    galleries: dict[str, str] = Field(default_factory=dict)
    write: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    num_threads: int | None = Field(default=None, ge=1)
    keys: str | None = None
    audit: str | None = None
    settings: ServiceSettings = Field(default_factory=ServiceSettings)


class Replica:
    """One process with the model, the galleries and the application of `hat serve`; Ray makes it, then asks for the latter."""

    def __init__(self, plan: ReplicaPlan) -> None:
        self._service = _open_service(plan)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        from ..service import create_app

        return BelowPrefix(create_app(self._service))

    def check_health(self) -> None:
        """Answer Ray, which asks now and then and replaces a replica that raises."""
        if not self._service.is_ready:
            raise WorkError("the model's thread has ended")


class BelowPrefix:
    """An application whose paths begin below Ray's prefix: its routes and its audit log know nothing of that."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, its path taken relative to where Ray has put the application."""
        root = scope.get("root_path", "").rstrip("/")
        if root and scope["type"] == "http":
            raw_path = scope.get("raw_path", b"").removeprefix(root.encode()) or b"/"
            scope = {**scope, "root_path": "", "path": scope["path"].removeprefix(root) or "/", "raw_path": raw_path}
        await self.app(scope, receive, send)


@dataclass(frozen=True)
class RayService(AbstractContextManager["RayService"]):
    """An application that runs on Ray, and where it answers on this machine; a context manager that ends it."""

    name: str
    address: str

    def close(self) -> None:
        """End its replicas once they have answered what they have; Ray and other applications go on."""
        from ray import serve

        serve.delete(self.name)

    def __exit__(self, *error: object) -> None:
        self.close()


def deploy(
    plan: ReplicaPlan,
    *,
    replicas: int | tuple[int, int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    requests_each: int = 16,
    name: str = "hat",
    prefix: str = "/",
    host: str = "127.0.0.1",
    port: int = 8000,
    cluster: str | None = None,
) -> RayService:
    """Start replicas of the service, and wait until they answer.

    Where Ray runs in this process already, it is used as it is. Ray's reports of its usage to its makers are off in what is
    started here; a cluster that was started elsewhere has them off if ``RAY_USAGE_STATS_ENABLED=0`` was set there.

    Args:
        plan: Configuration of every replica. Without a ``cluster`` it is opened here once, so that errors are raised at once.
        replicas: Number of replicas; (minimum, maximum) lets Ray choose by the number of requests that are under way.
        num_cpus: CPUs that Ray sets aside for each; unless the plan says otherwise, the model computes with as many threads.
        num_gpus: GPUs for each; half of one puts two replicas on it.
        requests_each: Requests under way in each replica that Ray aims at.
        name: What Ray calls the application; one of the same name is replaced.
        prefix: Path below which it answers: ``"/"``, ``"/enroll"``.
        host: Address that Ray's proxies listen on; other than loopback only where the plan has keys.
        port: Their port. A Ray Serve that runs already keeps the host and the port that it has.
        cluster: Address of a running cluster, ``"auto"`` for the one that this machine belongs to; None starts Ray here.
    """
    min_replicas, max_replicas = replicas if isinstance(replicas, tuple) else (replicas, replicas)
    if not 1 <= min_replicas <= max_replicas or requests_each < 1:
        got = f"{min_replicas} to {max_replicas} with {requests_each}"
        raise UsageError(f"expected 1 or more replicas, least before most, with 1 or more requests each, got {got}")
    if plan.write and max_replicas > 1:
        raise UsageError(
            f"a gallery has one writer, {max_replicas} replicas were to change it: deploy these to read, and another "
            "application with one replica and write=True under a prefix of its own"
        )
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(f"expected a prefix like / or /enroll, got {prefix!r}")
    if not 1 <= port <= 65535:
        raise UsageError(f"a port is 1 to 65535, got {port}")
    if not is_loopback(host) and plan.keys is None:
        raise UsageError(f"{host} can be reached by others: give the keys that they need, see hat keys")
    ray = _import_ray()
    plan = _completed(plan, host, num_cpus)
    if cluster is None:  # Ray would try three times, and leave what is wrong to a log
        _open_service(replace(plan, write=False)).close()
    deployment = _deployment(ray.serve, min_replicas, max_replicas, requests_each, {"num_cpus": num_cpus, "num_gpus": num_gpus})
    try:
        if not ray.is_initialized():
            # Requests do not pass through the shared memory of a Ray that is started here.
            here = {} if cluster else {"include_dashboard": False, "object_store_memory": 200 * 2**20}
            ray.init(address=cluster, **here)
        resources = ray.cluster_resources()
        for kind, each in (("CPU", num_cpus), ("GPU", num_gpus)):  # Ray would wait for ever for what no machine has
            if min_replicas * each > (has := resources.get(kind, 0)):
                raise WorkError(
                    f"{min_replicas} replicas of {each:g} {kind}s are asked for and the cluster has {has:g}: set fewer aside "
                    "for each, or begin with fewer replicas"
                )
        ray.serve.start(http_options={"host": host, "port": port})
        ray.serve.run(deployment.bind(plan), name=name, route_prefix=prefix)
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        raise WorkError(f"Ray could not start {name}: {_reason(ray, name, error)}") from None
    shown = f"[{host}]" if ":" in host else host
    return RayService(name, f"http://{shown}:{port}{prefix.rstrip('/')}")


def application(args: Mapping[str, Any]) -> Application:
    """Return the service for Ray's own commands and configuration files: ``import_path: hat.serve.ray.deployment:application``.

    ``args`` are the fields of a `ReplicaPlan`. All else is said to Ray there; the deployment is called ``service``. Only
    `deploy` can see to it that a gallery has one writer: with ``write`` true, say ``num_replicas: 1``.
    """
    plan = config_from_dict(ReplicaPlan, args, where="args")
    if plan.keys is None:  # who can reach Ray's proxies is not known here
        raise UsageError("args: keys is missing: name a file of API keys that every machine can read, see hat keys")
    return _deployment(_import_ray().serve, 1, 1, 16, {"num_cpus": 1}).bind(plan)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.serve
    except ImportError:
        raise MissingExtraError("ray", "ray", "replicas on Ray") from None
    return ray


def _deployment(serve: Any, min_replicas: int, max_replicas: int, requests_each: int, resources: dict[str, float]) -> Any:
    scale: dict[str, Any] = {"num_replicas": min_replicas}
    if min_replicas != max_replicas:
        scale = {
            "autoscaling_config": {
                "min_replicas": min_replicas,
                "max_replicas": max_replicas,
                "target_ongoing_requests": requests_each,
            }
        }
    return serve.deployment(
        name="service",
        ray_actor_options=resources,
        # More may be inside than are aimed at: those that wait fill the next batch while one is computed.
        max_ongoing_requests=max(4 * requests_each, 64),
        **scale,
    )(serve.ingress()(Replica))


def _open_service(plan: ReplicaPlan) -> Service:
    from hat.runtime import open_runtime

    from ..service import AuditLog, KeyFile, KeyRing, Service

    keys = None if plan.keys is None else KeyRing(KeyFile(plan.keys))
    audit = None if plan.audit is None else AuditLog(plan.audit)
    options: dict[str, Any] = {} if plan.num_threads is None else {"num_threads": plan.num_threads}
    # Ray shows a replica the GPUs that it was given and no others: None takes one where there is one.
    runtime = open_runtime(plan.model, None, plan.precision, **options)
    return Service.open(runtime, plan.galleries, plan.settings, read_only=not plan.write, keys=keys, audit=audit)


def _completed(plan: ReplicaPlan, host: str, num_cpus: float) -> ReplicaPlan:
    """Return a plan with what follows from how it is deployed, and with paths that other processes read as this one does."""
    from hat.io.checkpoint import locate_model

    from ..service.ingress import allowed_hosts

    def absolute(place: str) -> str:
        return place if "://" in place else str(Path(place).expanduser().absolute())

    hosts = allowed_hosts(host) if plan.settings.hosts is None else plan.settings.hosts
    return replace(
        plan,
        model=plan.model if "://" in plan.model else str(locate_model(plan.model).absolute()),
        galleries={name: absolute(place) for name, place in plan.galleries.items()},
        keys=plan.keys and absolute(plan.keys),
        audit=plan.audit and absolute(plan.audit),
        num_threads=plan.num_threads or max(1, int(num_cpus)),
        settings=replace(plan.settings, hosts=hosts),
    )


def _reason(ray: Any, name: str, error: BaseException) -> str:
    """Return what a replica raised, where it was one of our errors; otherwise the last line that says anything."""
    texts = [str(error)]
    with suppress(RuntimeError, KeyError, ray.exceptions.RayError):  # a Ray that does not answer is what is being reported
        status = ray.serve.status().applications[name]
        texts += [status.message, *(deployment.message for deployment in status.deployments.values())]
    if ours := [words for text in texts for words in _OUR_ERROR.findall(text)]:
        return str(ours[-1]).strip()
    return last_line(error)
