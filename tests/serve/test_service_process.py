"""`hat serve` as it is run: a process that starts or says why not, and that ends when it is told to with its work done."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import httpx
import numpy as np
import pytest
from fake_tensorrt import small_onnx
from service_stand_ins import ColorRuntime, files, picture, until

import hat
from hat.data import decode_image
from hat.errors import HatError, UsageError, WorkError
from hat.process_settings import ENVIRONMENT
from hat.runtime import open_runtime
from hat.serve import Gallery, binding_of
from hat.serve.commands.serve import serve
from hat.serve.service import KeyFile
from hat.serve.service.keys import is_loopback
from hat.serve.service.server import bind

STRACE = shutil.which("strace")


@pytest.fixture
def onnx_file(tmp_path):
    (tmp_path / "m.onnx").write_bytes(small_onnx())
    return tmp_path / "m.onnx"


def started(process):
    """What a server that has started says of itself."""
    text = ""
    while not text.endswith("}\n"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        text += line
    return json.loads(text)


def test_serve_answers_ends_at_sigterm_with_its_work_done_and_talks_to_nobody_else(onnx_file, tmp_path):
    binding = binding_of(open_runtime(onnx_file).info)
    Gallery.open(tmp_path / "people.gallery", binding=binding, create=True).close()
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    # With -D the server is this process's own child, and the tracer somebody beside it.
    calls = "trace=listen,connect,sendto,sendmsg,sendmmsg"
    command = [STRACE, "-D", "-f", "-q", "--seccomp-bpf", "-e", calls, "-o", str(trace)] if STRACE else []
    command += [sys.executable, "-W", "error", "-m", "hat", "serve", str(onnx_file), "--port", "0", "--json"]
    command += ["--gallery", str(tmp_path / "people.gallery"), "--audit", str(tmp_path / "audit.jsonl")]
    environment = {key: value for key, value in os.environ.items() if key not in {*ENVIRONMENT, "CI", "XDG_CACHE_HOME"}}
    environment |= {"OMP_NUM_THREADS": "1", "HOME": str(home)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        metadata = started(process)
        assert (
            metadata["galleries"] == {"people": 0}
            and metadata["keys"] is None
            and metadata["fingerprint"] == binding.fingerprint
        )
        data = picture(1)
        with httpx.Client(base_url=metadata["address"], timeout=30) as client:
            assert client.get("/readyz").json() == {"status": "ready"}
            (row,) = client.post("/v1/embed", files=files(data)).json()["embeddings"]
            np.testing.assert_allclose([row], hat.Embedder.open(onnx_file).embed([decode_image(data, "a")]), atol=2e-6)
            assert client.post("/v1/galleries/people/records", files=files(data)).json()["num_added"] == 1
            found = client.post("/v1/search", files=files(data), data={"gallery": "people"}).json()
            assert found["results"][0]["matches"][0]["similarity"] == pytest.approx(1, abs=1e-5)
            assert client.get("/v1/model", headers={"host": "evil.example"}).status_code == 421

        # Half of a request, the signal, and then the other half: it is still met, and nothing new is.
        address = (metadata["address"].split("/")[2].split(":")[0], int(metadata["address"].rpartition(":")[2]))
        with socket.create_connection(address, timeout=30) as line:
            head = (
                f"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            line.sendall(head.encode() + data[:40])
            until(lambda: f"hat_bytes_inside {float(len(data))}" in httpx.get(f"{metadata['address']}/metrics").text)
            process.send_signal(signal.SIGTERM)
            until(lambda: not listens(address))
            line.sendall(data[40:])
            answer = b"".join(iter(lambda: line.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ") and b"embeddings" in answer
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "stopped\n")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 5
    with Gallery.open(tmp_path / "people.gallery") as gallery:
        assert len(gallery) == 1
    assert list(home.rglob("*")) == []  # no library of those underneath has left a device id or a cache there
    if STRACE is None:
        pytest.skip("strace is not installed: what the server connects to was not looked at")
    until(lambda: f"{process.pid} +++ exited with 0 +++" in re.sub(" +", " ", trace.read_text()))
    calls = trace.read_text()
    assert "listen(" in calls  # the trace is of the server
    outside = [
        line for line in calls.splitlines() if "sin_port=htons(53)" in line or re.search(r"sin6?_addr=(?!.*(127\.|::1))", line)
    ]
    assert outside == []


def listens(address):
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def test_serve_says_in_one_sentence_what_cannot_be_served(call):
    printed = call("serve", "missing.onnx", "--port", "0")
    assert (printed.code, printed.out) == (2, "")
    assert printed.err.startswith("hat: usage: missing.onnx") and printed.err.count("\n") == 1


def test_serve_refuses_what_does_not_belong_and_an_address_that_others_reach_without_keys(onnx_file, tmp_path):
    for name in ("text.onnx", "text.gallery", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("something else")
    Gallery.open(tmp_path / "others.gallery", binding=binding_of(ColorRuntime().info), create=True).close()
    model, certificate = str(onnx_file), {"tls_cert": tmp_path / "cert.pem"}
    empty = KeyFile(tmp_path / "keys.json")
    empty.remove(empty.add("one", "read")[0].id)
    for file, options, sentence in [
        *(("missing.onnx", {"host": host}, "--keys") for host in ("0.0.0.0", "::", "192.0.2.1", "example.com")),
        ("missing.onnx", {"keys": tmp_path / "none.json"}, "hat keys add"),
        ("missing.onnx", {"keys": empty.path}, "has no key"),
        (str(tmp_path / "text.onnx"), {}, "text.onnx"),
        (str(tmp_path), {}, "checkpoint"),
        (model, {"gallery": [str(tmp_path / "missing.gallery")]}, "missing.gallery"),
        (model, {"gallery": [str(tmp_path / "text.gallery")]}, "text.gallery"),
        (model, {"gallery": [str(tmp_path / "others.gallery")]}, "another model"),
        (model, {"gallery": ["a=x.gallery", "a=y.gallery"]}, "two galleries"),
        (model, {"gallery": ["A.gallery"]}, "NAME=PLACE"),
        (model, {"gallery_root": tmp_path / "missing"}, "expected a folder"),
        (model, {"audit": tmp_path / "missing" / "audit.jsonl"}, "--audit"),
        (model, certificate, "belong together"),
        (model, {**certificate, "tls_key": tmp_path / "key.pem"}, "--tls-cert"),
        (model, {"precision": "int4"}, "unknown precision"),
        (model, {"device": "tpu"}, "tpu"),
    ]:
        with pytest.raises(HatError, match=sentence):
            serve(file, port=0, **options)


def test_bind_and_is_loopback_tell_addresses():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(WorkError, match="give another --port"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UsageError, match="no such address"):
        bind("no.such.host.invalid", 0)
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "fe80::1")))
