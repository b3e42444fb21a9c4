"""The HTTP service on Ray Serve: as many replicas as there is work for, on one machine or a cluster.

Every replica is the service of `hat serve`, with its own copy of the model and its own batches: Ray shares requests out, starts
and ends replicas by how many requests are under way, and replaces those that die.

A gallery has one writer. So replicas read galleries and refuse changes; enrollment has an application of its own with a single
replica, ``write=True``, and what it writes the others find at once. Galleries in files are read on the machine that has the
file alone: on a cluster of several, use Milvus.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from hat.config import config_from_dict
from hat.errors import MissingExtraError, UsageError, WorkError

from .replica import Doorway, Replica, ReplicaPlan, open_service

if TYPE_CHECKING:
    from ray.serve import Application


OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of a Ray that is started here: requests do not pass through it."""

_OUR_ERROR = re.compile(r"hat\.errors\.\w+: (.+)")
_PREFIX = re.compile(r"/|(/[A-Za-z0-9_-]+)+")


class RayService:
    """An application that runs on Ray; a context manager that ends it.

    Attributes:
        name: What Ray calls it.
        address: Where it answers, on the machine that it was deployed from.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    def close(self) -> None:
        """End its replicas once they have answered what they have; Ray and other applications go on."""
        from ray import serve

        serve.delete(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
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
        plan: What every replica opens. Without a ``cluster`` it is opened here once, so that what is wrong is told at once.
        replicas: How many; (least, most) lets Ray choose by the number of requests that are under way.
        num_cpus: CPUs that Ray sets aside for each; unless the plan says otherwise, the model computes with as many threads.
        num_gpus: GPUs for each; half of one puts two replicas on it.
        requests_each: Requests under way in each replica that Ray aims at.
        name: What Ray calls the application; one of the same name is replaced.
        prefix: Path below which it answers: ``"/"``, ``"/enroll"``.
        host: Address that Ray's proxies listen on; other than loopback only where the plan has keys.
        port: Their port. A Ray Serve that runs already keeps the host and the port that it has.
        cluster: Address of a running cluster, ``"auto"`` for the one that this machine belongs to; None starts Ray here.

    Raises:
        UsageError: Numbers, path or address cannot be, others could reach it without a key, or several replicas were to write;
            or something of the plan cannot be opened.
        WorkError: Ray cannot start them; what the first one met is said.
        MissingExtraError: Ray is not installed.
    """
    least, most = replicas if isinstance(replicas, tuple) else (replicas, replicas)
    _check(plan, least, most, requests_each, prefix, host, port)
    ray, serve = _ray()
    plan = _completed(plan, host, num_cpus)
    if cluster is None:  # Ray would try three times, and leave what is wrong to a log
        open_service(replace(plan, write=False)).close()
    deployment = _deployment(serve, least, most, requests_each, {"num_cpus": num_cpus, "num_gpus": num_gpus})
    try:
        if not ray.is_initialized():
            here = {} if cluster else {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            ray.init(address=cluster, **here)
        _check_resources(ray.cluster_resources(), least, num_cpus, num_gpus)
        serve.start(http_options={"host": host, "port": port})
        serve.run(deployment.bind(plan), name=name, route_prefix=prefix)
    except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
        raise WorkError(f"Ray could not start {name}: {_reason(ray, serve, name, error)}") from None
    shown = f"[{host}]" if ":" in host else host
    return RayService(name, f"http://{shown}:{port}{prefix.rstrip('/')}")


def application(args: Mapping[str, Any]) -> Application:
    """Return the service for Ray's own commands and configuration files: ``import_path: hat.serve.ray.deployment:application``.

    How many replicas there are, what each is given and where they listen is said to Ray there; the deployment is called
    ``service``. Only `deploy` can see to it that a gallery has one writer: with ``write`` true, say ``num_replicas: 1``.

    Args:
        args: The fields of a `ReplicaPlan`, as a configuration file has them; ``keys`` among them.

    Raises:
        ConfigError: A field is unknown or wrong.
        UsageError: There are no keys: who can reach Ray's proxies is not known here.
        MissingExtraError: Ray is not installed.
    """
    plan = config_from_dict(ReplicaPlan, args, where="args")
    if plan.keys is None:
        raise UsageError("args: keys is missing: name a file of API keys that every machine can read, see hat keys")
    _, serve = _ray()
    return _deployment(serve, 1, 1, 16, {"num_cpus": 1}).bind(plan)


def _ray() -> tuple[Any, Any]:
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray import serve
    except ImportError:
        raise MissingExtraError("ray", "ray", "replicas on Ray") from None
    return ray, serve


def _deployment(serve: Any, least: int, most: int, requests_each: int, resources: dict[str, float]) -> Any:
    scale: dict[str, Any] = {"num_replicas": least}
    if least != most:
        scale = {"autoscaling_config": {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": requests_each}}
    return serve.deployment(
        name="service",
        ray_actor_options=resources,
        # More may be inside than are aimed at: those that wait fill the next batch while one is computed.
        max_ongoing_requests=max(4 * requests_each, 64),
        **scale,
    )(serve.ingress(Doorway())(Replica))


def _check(plan: ReplicaPlan, least: int, most: int, requests_each: int, prefix: str, host: str, port: int) -> None:
    from ..service.ingress import is_loopback

    if not 1 <= least <= most or requests_each < 1:
        got = f"{least} to {most} with {requests_each}"
        raise UsageError(f"expected 1 or more replicas, least before most, with 1 or more requests each, got {got}")
    if plan.write and most > 1:
        raise UsageError(
            f"a gallery has one writer, {most} replicas were to change it: deploy these to read, and another application with "
            "one replica and write=True under a prefix of its own"
        )
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(f"expected a prefix like / or /enroll, got {prefix!r}")
    if not 1 <= port <= 65535:
        raise UsageError(f"a port is 1 to 65535, got {port}")
    if not is_loopback(host) and plan.keys is None:
        raise UsageError(f"{host} can be reached by others: give the keys that they need, see hat keys")


def _check_resources(there: Mapping[str, float], least: int, num_cpus: float, num_gpus: float) -> None:
    """Ray would wait for ever for what no machine of the cluster has.

    Raises:
        WorkError: The least number of replicas does not fit into the whole cluster.
    """
    for kind, each in (("CPU", num_cpus), ("GPU", num_gpus)):
        if least * each > (has := there.get(kind, 0)):
            raise WorkError(
                f"{least} replicas of {each:g} {kind}s are asked for and the cluster has {has:g}: set fewer aside for each, or "
                "begin with fewer replicas"
            )


def _completed(plan: ReplicaPlan, host: str, num_cpus: float) -> ReplicaPlan:
    """With what follows from how it is deployed, and with paths that other processes read as this one does."""
    from ..service.ingress import LOOPBACK_HOSTS, is_loopback

    settings = plan.settings
    if settings.hosts is None and is_loopback(host):
        settings = replace(settings, hosts=LOOPBACK_HOSTS)
    return replace(
        plan,
        model=_absolute(plan.model),
        galleries={name: _absolute(place) for name, place in plan.galleries.items()},
        keys=None if plan.keys is None else _absolute(plan.keys),
        audit=None if plan.audit is None else _absolute(plan.audit),
        num_threads=plan.num_threads or max(1, int(num_cpus)),
        settings=settings,
    )


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _reason(ray: Any, serve: Any, name: str, error: BaseException) -> str:
    """Return what a replica raised, where it was one of our errors; otherwise the last line that says anything."""
    texts = [str(error)]
    with suppress(RuntimeError, KeyError, ray.exceptions.RayError):  # a Ray that does not answer is what is being reported
        status = serve.status().applications[name]
        texts += [status.message, *(deployment.message for deployment in status.deployments.values())]
    ours = [words for text in texts for words in _OUR_ERROR.findall(text)]
    if ours:
        return str(ours[-1]).strip()
    lines = [line.strip() for line in texts[0].splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
