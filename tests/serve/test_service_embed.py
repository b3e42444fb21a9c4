"""Embedding over HTTP: the same numbers as the model's, in JSON and as a NumPy file, whatever way the image came."""

import io

import httpx
import numpy as np
import pytest
from service_stand_ins import EMBED_DIM, ColorRuntime, embedding_of, files, hang_up, picture, running, serving, until

import hat
from hat.data import decode_image
from hat.runtime import TorchRuntime
from hat.serve import binding_of
from hat.serve.service import GalleryRegistry, Service, ServiceSettings, create_app

FORM = {"content-type": "multipart/form-data; boundary=b"}


@pytest.fixture(scope="module")
def served():
    with running() as both:
        yield both


@pytest.fixture
def client(served):
    return served[0]


def test_images_of_every_format_come_back_in_order_with_the_model_that_made_them(client):
    pictures = [picture(seed, kind=kind) for seed, kind in enumerate(("PNG", "JPEG", "WEBP", "BMP") * 3)]
    answer = client.post("/v1/embed", files=[("images", ("a.txt", data, "text/plain")) for data in pictures])
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    content = answer.json()
    np.testing.assert_allclose(content["embeddings"], [embedding_of(one) for one in pictures], atol=1e-6)
    assert content["embed_dim"] == EMBED_DIM and content["fingerprint"] == "colors"
    metadata = {"name": "colors", "precision": "fp32", "embed_dim": EMBED_DIM, "fingerprint": "colors", "image_size": [32, 16]}
    assert client.get("/v1/model").json() == metadata


def test_one_image_may_be_the_whole_body_even_in_chunks_and_the_answer_a_numpy_file(client):
    data = picture(5)
    chunks = (data[start : start + 7] for start in range(0, len(data), 7))
    for content in (data, chunks):
        headers = {"content-type": "image/png", "accept": "application/x-npy"}
        answer = client.post("/v1/embed", content=content, headers=headers)
        assert answer.headers["content-type"] == "application/x-npy"
        rows = np.load(io.BytesIO(answer.content), allow_pickle=False)
        assert rows.dtype == np.float32 and rows.shape == (1, EMBED_DIM)
        as_json = client.post("/v1/embed", files=files(data)).json()["embeddings"]
        np.testing.assert_array_equal(rows, np.array(as_json, dtype=np.float32))  # JSON loses no bit


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        ({"files": [("images", ("a.png", b"", "image/png"))]}, 422, "empty"),
        ({"files": files(picture(1), ("/home/me/a.jpg", b"no image"), picture(2))}, 422, "a.jpg: not an image"),
        ({"files": [("image", ("a.png", picture(1), "image/png"))]}, 422, "images go into fields named images"),
        ({"files": files(picture(1)), "data": {"top": "3"}}, 422, "no other field"),
        ({"data": {"images": "3"}}, 415, "expected a body of type"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"--b\r\n\r\n", "headers": FORM}, 400, "Content-Disposition"),
        ({"content": b"", "headers": FORM}, 400, "Unexpected end"),
        ({"json": {"images": []}}, 415, "expected a body of type"),
        ({}, 415, "expected a body of type"),
    ],
)
def test_a_wrong_body_is_refused_with_its_reason(client, request_, status, sentence):
    answer = client.post("/v1/embed", **request_)
    assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text
    assert "/home" not in answer.text and client.post("/v1/embed", files=files(picture(1))).status_code == 200


def test_a_real_model_answers_over_http_as_in_the_library(tiny_model):
    runtime = TorchRuntime(tiny_model, "cpu")
    pictures = [picture(seed, size=(40, 90)) for seed in range(5)]
    expected = hat.Embedder(runtime).embed([decode_image(one, "picture") for one in pictures])
    service = Service(runtime, GalleryRegistry({}, binding_of(runtime.info)), ServiceSettings(max_batch=2))
    service.pipeline.warm_up()
    with serving(create_app(service)) as address:
        answer = httpx.post(f"{address}/v1/embed", files=files(*pictures), timeout=30).json()
    np.testing.assert_allclose(answer["embeddings"], expected, atol=2e-6)


def test_a_client_that_goes_away_takes_its_images_along(served):
    client, service = served
    runtime = service.pipeline.runtime
    runtime.held.clear()
    runtime.in_run.clear()
    try:
        hang_up(client, "/v1/embed", files(picture(1)), runtime.in_run.is_set)
        # Its images wait behind the run, and are dropped with it.
        hang_up(client, "/v1/embed", files(picture(2), picture(3)), lambda: service.admission.num_images >= 2)
        until(lambda: service.admission.num_images == 0)
        before = sum(runtime.batches)
    finally:
        runtime.held.set()
    assert client.post("/v1/embed", files=files(picture(4))).status_code == 200
    assert sum(runtime.batches) == before + 1
    until(lambda: 'hat_requests_total{action="embed",status="499"} 2.0' in client.get("/metrics").text)


def test_what_takes_too_long_is_dropped_with_504():
    runtime = ColorRuntime()
    with running(runtime, timeout_s=0.2) as (client, service):
        runtime.held.clear()
        answer = client.post("/v1/embed", files=files(picture(1)))
        assert answer.status_code == 504 and "0.2 s" in answer.json()["detail"]
        assert service.admission.num_images == 0
        runtime.held.set()
        until(lambda: service.pipeline.batcher.num_waiting == 0)
        assert client.post("/v1/embed", files=files(picture(1))).status_code == 200


def test_a_model_that_fails_gives_500_with_a_number_and_no_reason_and_without_memory_503_with_what_to_do(caplog):
    runtime = ColorRuntime()
    in_onnx_runtime = type("RuntimeException", (Exception,), {})("Failed to allocate memory for requested buffer of size 9")
    with running(runtime) as (client, _):
        for failure in (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(), in_onnx_runtime):
            runtime.failure = failure
            answer = client.post("/v1/embed", files=files(picture(1)))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "6")
            assert answer.json()["detail"] == "the service ran out of memory: send fewer or smaller images at once"
        caplog.clear()
        runtime.failure = RuntimeError("CUDA error in /opt/model.bin while embedding secret.png")
        answer = client.post("/v1/embed", files=files(("secret.png", picture(1))))
        assert answer.status_code == 500
        assert answer.json()["request_id"] in answer.json()["detail"] and "CUDA" not in answer.text
        runtime.failure = None
        assert client.post("/v1/embed", files=files(picture(1))).status_code == 200
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name == "hat.serve")
    assert answer.json()["request_id"] in logged and "RuntimeError" in logged
    assert "secret" not in logged and "CUDA" not in logged
