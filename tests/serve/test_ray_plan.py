"""What is refused before Ray is asked, and how a request finds the application of its replica. None of it needs Ray."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from hat.errors import ConfigError, MissingExtraError, UsageError
from hat.io.checkpoint import SHIPPED_MODEL, shipped_model
from hat.serve.ray.deployment import BelowPrefix, Replica, ReplicaPlan, _completed, application, deploy
from hat.serve.service import ServiceSettings

PLAN = ReplicaPlan(model="nowhere.onnx", galleries={"people": "people.gallery"})


def test_what_cannot_be_is_refused_and_without_ray_it_says_what_to_install(monkeypatch):
    for plan, options, words in (
        (ReplicaPlan(model="m", write=True), {"replicas": 2}, "a gallery has one writer, 2 replicas were to change it"),
        (ReplicaPlan(model="m", write=True), {"replicas": (1, 3)}, "a gallery has one writer, 3 replicas were to change it"),
        (PLAN, {"replicas": 0}, "1 or more replicas"),
        (PLAN, {"replicas": (3, 2)}, "least before most"),
        (PLAN, {"requests_each": 0}, "1 or more requests"),
        (PLAN, {"prefix": "enroll"}, "expected a prefix like"),
        (PLAN, {"prefix": "/{any}"}, "expected a prefix like"),
        (PLAN, {"port": 0}, "a port is 1 to 65535"),
        (PLAN, {"host": "0.0.0.0"}, "can be reached by others: give the keys"),
    ):
        with pytest.raises(UsageError, match=words):
            deploy(plan, **options)
    with pytest.raises(UsageError, match="keys is missing"):
        application({"model": "m"})
    with pytest.raises(ConfigError, match="args: unknown key galery"):
        application({"model": "m", "galery": {}})
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'hat-reid\[ray\]'"):
        deploy(PLAN)


def test_application_gives_each_replica_the_plan_that_a_configuration_file_names(monkeypatch):
    def make(**options):
        return lambda replica: SimpleNamespace(bind=lambda plan: (options["name"], replica, plan))

    serve = SimpleNamespace(deployment=make, ingress=lambda: lambda replica: replica)
    monkeypatch.setattr("hat.serve.ray.deployment._import_ray", lambda: SimpleNamespace(serve=serve))
    made = application({"model": "m.onnx", "keys": "keys.json", "settings": {"max_batch": 4}})
    assert made == ("service", Replica, ReplicaPlan(model="m.onnx", keys="keys.json", settings=ServiceSettings(max_batch=4)))


@pytest.mark.parametrize(
    ("root", "path", "below"),
    [
        ("", "/v1/embed", "/v1/embed"),
        ("/", "/v1", "/v1"),
        ("/a/b", "/a/b/v1/x", "/v1/x"),
        ("/a", "/a", "/"),
        ("/a", "/v1", "/v1"),
    ],
)
def test_a_request_is_answered_by_its_path_below_the_prefix(root, path, below):
    seen = []

    async def inner(scope, receive, send):
        seen.append(scope)

    scope = {"type": "http", "root_path": root, "path": path, "raw_path": path.encode(), "method": "GET"}
    asyncio.run(BelowPrefix(inner)(scope, None, None))
    assert (seen[0]["path"], seen[0]["raw_path"], seen[0]["method"]) == (below, below.encode(), "GET")
    assert root.strip("/") not in seen[0]["root_path"] or not root.strip("/")
    assert scope["path"] == path


def test_paths_are_the_same_to_every_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plan = ReplicaPlan(model="m.onnx", galleries={"a": "a.gallery", "b": "milvus://h/b"}, keys="k")
    plan = _completed(plan, "127.0.0.1", 2.5)
    assert (plan.model, plan.keys) == (str(Path.cwd() / "m.onnx"), str(Path.cwd() / "k"))
    assert plan.galleries == {"a": str(Path.cwd() / "a.gallery"), "b": "milvus://h/b"}
    shipped = _completed(replace(plan, model=SHIPPED_MODEL), "127.0.0.1", 1)
    assert shipped.model == str(shipped_model() or Path.cwd() / SHIPPED_MODEL)
    assert plan.num_threads == 2 and "127.0.0.1" in plan.settings.hosts
    plan = _completed(ReplicaPlan(model="triton://gpu/people", num_threads=3), "10.0.0.1", 0.5)
    assert (plan.model, plan.num_threads, plan.settings.hosts) == ("triton://gpu/people", 3, None)
