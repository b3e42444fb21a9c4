"""The Triton runtime against a stand-in for the server.

A small HTTP server speaks KServe's version 2 with Triton's binary tensors, and embeds an image by its first pixels. The client
is tritonclient itself. A real tritonserver is asked in tests/export/test_triton_server.py.
"""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from fake_tensorrt import EMBED_DIM, SIZE, fake_embeddings, small_info

import hat
from hat.commands.info import info
from hat.errors import CheckpointError, UsageError, WorkError
from hat.export.parity.candidate import open_candidate, parse_candidate
from hat.io.artifact import info_to_json
from hat.runtime import Runtime, open_runtime, runtime_info
from hat.runtime.triton_runtime import parse_triton_address

pytest.importorskip("tritonclient.http", reason="the extra triton is not installed")

METADATA = small_info("fp16")


def configuration(**changes):
    config = {
        "name": "people",
        "max_batch_size": 4,
        "input": [{"name": "images", "data_type": "TYPE_UINT8", "dims": ["3", "64", "32"]}],
        "output": [{"name": "embeddings", "data_type": "TYPE_FP32", "dims": [str(EMBED_DIM)]}],
        "parameters": {"hat_reid": {"string_value": info_to_json(METADATA)}},
    }
    return config | changes


class StandIn(BaseHTTPRequestHandler):
    """Answers as Triton does, for the model `people`; `server.seen` holds the sizes of the batches."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if not self.path.startswith("/v2/models/people"):
            self.answer(400, json.dumps({"error": "Request for unknown model"}).encode())
        elif self.path.endswith("/config"):
            self.answer(200, json.dumps(self.server.config).encode())
        else:
            self.answer(200 if self.server.ready else 400, b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        length = int(self.headers["Inference-Header-Content-Length"])
        (tensor,) = json.loads(body[:length])["inputs"]
        images = np.frombuffer(body[length:], np.uint8).reshape(tensor["shape"])
        self.server.seen.append(len(images))
        if len(images) > self.server.config["max_batch_size"]:
            self.answer(400, json.dumps({"error": "batch-size must be <= 4"}).encode())
            return
        rows = fake_embeddings(images).astype(np.float32)
        output = {"name": "embeddings", "datatype": "FP32", "shape": list(rows.shape)}
        output["parameters"] = {"binary_data_size": rows.nbytes}
        head = json.dumps({"model_name": "people", "model_version": "1", "outputs": [output]}).encode()
        self.answer(200, head + rows.tobytes(), Inference_Header_Content_Length=str(len(head)))


@pytest.fixture
def server():
    stand_in = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    stand_in.daemon_threads = True
    stand_in.config, stand_in.ready, stand_in.seen = configuration(), True, []
    stand_in.address = f"triton://127.0.0.1:{stand_in.server_port}/people"
    thread = threading.Thread(target=stand_in.serve_forever, daemon=True)
    thread.start()
    yield stand_in
    stand_in.shutdown()
    stand_in.server_close()
    thread.join()


def pixels(count, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, *SIZE), dtype=np.uint8)


def test_it_embeds_from_several_threads_and_says_what_the_server_runs(server):
    runtime = open_runtime(server.address)
    assert isinstance(runtime, Runtime) and runtime.max_batch == 4
    assert runtime_info(runtime) == METADATA and runtime.preprocessing == METADATA.preprocessing
    with ThreadPoolExecutor(6) as threads:
        rows = list(threads.map(lambda seed: runtime.run(pixels(2, seed)), range(24)))
    for seed, found in enumerate(rows):
        np.testing.assert_allclose(found, fake_embeddings(pixels(2, seed)), atol=1e-6)
    images = pixels(3)
    assert runtime.run(images[:0]).shape == (0, EMBED_DIM)
    for wrong in (images[0], images[:, :, :16], images.astype(np.float32)):
        with pytest.raises(UsageError, match=r"expected images \(B, 3, 64, 32\) uint8"):
            runtime.run(wrong)


def test_it_can_be_verified_and_looked_into_like_a_file(server, capsys):
    candidate = parse_candidate(server.address)
    assert not candidate.is_checkpoint
    np.testing.assert_allclose(open_candidate(candidate, "cpu").run(pixels(3)), fake_embeddings(pixels(3)), atol=1e-6)
    info(server.address, None, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["artifact"]["fingerprint"] == METADATA.fingerprint and told["max_batch"] == 4
    info(server.address, None, as_json=False)
    assert "at most 4 images at once" in " ".join(capsys.readouterr().out.split())


def test_more_images_than_the_server_takes_are_split(server):
    embedder = hat.Embedder.open(server.address)
    images = pixels(10)
    rows = embedder.embed(list(images.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(rows, fake_embeddings(images), atol=1e-6)
    assert server.seen == [4, 4, 2]
    np.testing.assert_allclose(open_runtime(server.address).run(pixels(10)), fake_embeddings(images), atol=1e-6)
    assert server.seen == [4, 4, 2] * 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parameters": {}}, "was not made by hat export --to triton"),
        ({"output": [{"name": "embeddings", "data_type": "TYPE_FP32", "dims": ["7"]}]}, "is not what it says of itself"),
        ({"input": [{"name": "images", "data_type": "TYPE_FP32", "dims": ["3", "64", "32"]}]}, "is not what it says of itself"),
        ({"max_batch_size": 0}, "takes no batches"),
    ],
)
def test_a_model_that_is_something_else_is_refused(server, changes, sentence):
    server.config = configuration(**changes)
    with pytest.raises(CheckpointError, match=sentence):
        open_runtime(server.address)


def test_what_the_server_refuses_is_told_in_its_words(server):
    with pytest.raises(CheckpointError, match=r"no such model: .*unknown model"):
        open_runtime(server.address.replace("people", "nobody"))
    runtime = open_runtime(server.address)
    server.config = configuration(max_batch_size=2)  # changed on the server since it was asked
    with pytest.raises(WorkError, match="batch-size must be"):
        runtime.run(pixels(3))
    server.ready = False
    with pytest.raises(WorkError, match="not ready"):
        open_runtime(server.address)


def test_a_closed_port_and_a_silent_server_are_sentences():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with pytest.raises(WorkError, match=f"no answer from 127.0.0.1:{port}"):
            open_runtime(f"triton://127.0.0.1:{port}/people")
        listener.listen()
        with pytest.raises(WorkError, match="no answer"):
            open_runtime(f"triton://127.0.0.1:{port}/people", timeout_s=0.3)


def test_parse_triton_address():
    addresses = {
        "triton://gpu/people": ("gpu:8000", "people", "", False),
        "triton://10.0.0.7:9000/people/3": ("10.0.0.7:9000", "people", "3", False),
        "tritons://[::1]:443/hat.v2/": ("[::1]:443", "hat.v2", "", True),
    }
    assert {text: parse_triton_address(text) for text in addresses} == addresses
    for text in ("triton://gpu", "triton:///people", "triton://gpu/a/b", "triton://me:pw@gpu/x", "triton://gpu/../x"):
        with pytest.raises(UsageError, match="is no address of a model"):
            open_runtime(text)
    with pytest.raises(UsageError, match="leave out the device"):
        open_runtime("triton://gpu/people", device="cuda")
