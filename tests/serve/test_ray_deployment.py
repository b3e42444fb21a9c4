"""The service on a real Ray (``pip install 'ray[serve]'``): replicas answer, one writes, and one that dies is replaced."""

import io
import json
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from enrolled_people import save_model
from PIL import Image

import hat
from hat.errors import HatError
from hat.runtime import runtime_info
from hat.serve import Gallery, binding_of, search_gallery
from hat.serve.ray.deployment import ReplicaPlan, deploy

# Ray's own code warns: of older spellings in pydantic, of files that are left to be closed by the end of a process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.filterwarnings("default")]

LONG_S = 600


@pytest.fixture(scope="module")
def ray():
    """Ray on this machine, in bounded memory and without its dashboard; it reports to nobody."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("READY_CHECK", "HEALTH_CHECK"):
            patch.setenv(f"RAY_SERVE_PROXY_{name}_TIMEOUT_S", str(LONG_S))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray = pytest.importorskip("ray", reason="Ray is not installed")
        serve = pytest.importorskip("ray.serve", reason="ray[serve] is not installed")
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
        yield ray
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder with a model and a gallery of a few images; the embedder and the images."""
    folder = tmp_path_factory.mktemp("ray")
    save_model(folder / "model", seed=0)
    embedder = hat.Embedder.open(folder / "model", device="cpu")
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (64, 32, 3), dtype=np.uint8)) for _ in range(8)]
    Gallery.open(folder / "people.gallery", binding=binding_of(runtime_info(embedder.runtime)), create=True).close()
    return folder, embedder, images


@pytest.fixture(scope="module")
def services(ray, world):
    """Two replicas that read, and one that writes."""
    folder = world[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plan = ReplicaPlan(model=str(folder / "model"), galleries={"people": str(folder / "people.gallery")})
    writing = replace(plan, write=True, audit=str(folder / "audit.jsonl"))
    with (
        deploy(plan, replicas=2, num_cpus=0.4, port=port) as readers,
        deploy(writing, num_cpus=0.4, port=port, name="enrollment", prefix="/enroll") as writer,
    ):
        yield readers, writer


def encoded(images):
    parts = []
    for number, image in enumerate(images):
        file = io.BytesIO()
        image.save(file, "PNG")
        parts.append(("images", (f"{number}.png", file.getvalue())))
    return parts


def post(service, path, images, **data):
    return httpx.post(f"{service.address}{path}", files=encoded(images), data=data, timeout=LONG_S)


def running(name):
    from ray import serve

    return serve.status().applications[name].deployments["service"].replica_states.get("RUNNING", 0)


def replica_processes():
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if path.read_bytes().startswith(b"ray::ServeReplica:hat:service"):
                found.append(int(path.parent.name))
    return found


def test_replicas_embed_as_the_library_does(services, world):
    _, embedder, images = world
    assert running("hat") == 2
    for _ in range(6):  # Ray chooses one of them each time
        rows = post(services[0], "/v1/embed", images).raise_for_status().json()["embeddings"]
        np.testing.assert_allclose(rows, embedder.embed(images), atol=1e-6)


def test_one_writes_and_the_others_find_it_at_once(services, world):
    folder, embedder, images = world
    readers, writer = services
    refused = post(readers, "/v1/galleries/people/records", images[:1])
    assert 400 <= refused.status_code < 500 and "read only" in refused.json()["detail"]
    assert writer.address == f"{readers.address}/enroll"
    for number, image in enumerate(images):
        post(writer, "/v1/galleries/people/records", [image], pid=number).raise_for_status()
        answer = post(readers, "/v1/search", [image], gallery="people", top=1).raise_for_status().json()
        assert [match["pid"] for match in answer["results"][0]["matches"]] == [number]
    with Gallery.open(folder / "people.gallery", read_only=True) as gallery:
        expected = search_gallery(gallery, embedder.embed(images[:3]), top=5)
    answer = post(readers, "/v1/search", images[:3], gallery="people", top=5).raise_for_status().json()
    for result, matches in zip(answer["results"], expected, strict=True):
        assert [match["pid"] for match in result["matches"]] == [match.record.pid for match in matches]
        similarities = [match["similarity"] for match in result["matches"]]
        np.testing.assert_allclose(similarities, [match.similarity for match in matches], atol=1e-5)
    lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
    assert len(lines) == len(images) and {line["status"] for line in lines} <= {200, 201}


def test_a_replica_that_dies_is_replaced(services, world):
    _, embedder, images = world
    before = replica_processes()
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    end = time.monotonic() + LONG_S
    while not (len(now := replica_processes()) == 2 and before[0] not in now and running("hat") == 2):
        assert time.monotonic() < end
        time.sleep(1)
    for _ in range(6):
        rows = post(services[0], "/v1/embed", images[:2]).raise_for_status().json()["embeddings"]
        np.testing.assert_allclose(rows, embedder.embed(images[:2]), atol=1e-6)


def test_what_a_replica_cannot_open_is_told(services, world):
    folder = world[0]
    port = int(services[0].address.rpartition(":")[2])
    absent, place = ReplicaPlan(model=str(folder / "absent")), {"name": "broken", "prefix": "/broken", "port": port}
    for cluster in (None, "auto"):  # found here, and found by a replica
        with pytest.raises(HatError, match="there is no such checkpoint"):
            deploy(absent, num_cpus=0.2, cluster=cluster, **place)
    with pytest.raises(HatError, match="3 replicas of 1 CPUs are asked for and the cluster has 2"):
        deploy(absent, replicas=(3, 4), cluster="auto", **place)
