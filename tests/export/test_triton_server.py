"""A real tritonserver loads an exported repository and gives the model's embeddings.

HAT_TRITONSERVER names a virtual environment of its own, made by

    python -m venv /somewhere && /somewhere/bin/pip install nvidia-pytriton onnxruntime openvino

What that wheel ships of Triton is the server and its Python backend. So a repository for the Python backend is loaded and run;
of one for the ONNX Runtime backend the server reads and accepts the configuration, and then looks for the backend.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hat.export import verify
from hat.export.deploy.triton import export_triton
from hat.export.request import ExportRequest
from hat.io.artifact import BatchProfile, info_from_json
from hat.runtime import open_runtime, runtime_info

pytestmark = pytest.mark.slow

python_backends = pytest.mark.parametrize("name", ["python_onnx", "python_openvino"])


@pytest.fixture(scope="module")
def environment():
    """The virtual environment, and a copy of the server in it whose Python backend is of its Python's version."""
    folder = os.environ.get("HAT_TRITONSERVER")
    if not folder:
        pytest.skip("HAT_TRITONSERVER is unset: it names a virtual environment with nvidia-pytriton, onnxruntime and openvino")
    python = Path(folder) / "bin" / "python"
    code = "import sys, pytriton, onnxruntime, openvino; print(pytriton.__path__[0]); print('%d.%d' % sys.version_info[:2])"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip(f"{folder} lacks a package: {asked.stderr.strip().splitlines()[-1]}")
    package, version = asked.stdout.split()
    return Path(folder), Path(package), version


@pytest.fixture(scope="module")
def server(environment, small_model, tmp_path_factory):
    """The address of a running server, its repository and the facts of each model."""
    folder, package, version = environment
    base = tmp_path_factory.mktemp("tritonserver")
    repository = base / "models"
    for name in ("python_onnx", "python_openvino", "onnx"):
        options = {"backend": name.replace("_", "-"), "model_name": name, "max_queue_delay_us": 50000}
        export_triton(small_model, repository, ExportRequest(name=name, batch=BatchProfile(opt=4, max=16), options=options))
    triton = base / "triton"
    shutil.copytree(package / "tritonserver", triton)
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, triton / "backends" / "python")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    libraries = package.parent / "nvidia_pytriton.libs"
    variables = os.environ | {
        "LD_LIBRARY_PATH": str(libraries),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(package.parent),
        "VIRTUAL_ENV": str(folder),
    }
    command = [triton / "bin" / "tritonserver", "--model-repository", repository, "--backend-directory", triton / "backends"]
    command += ["--http-address", "127.0.0.1", "--http-port", str(port), "--allow-grpc", "false", "--allow-metrics", "false"]
    # The configuration must be complete as it is: nothing is to be guessed from the files.
    command += ["--disable-auto-complete-config", "--exit-on-error=false"]
    log = base / "log.txt"
    with log.open("wb") as output, subprocess.Popen(command, env=variables, stdout=output, stderr=output) as process:
        try:
            wait_until_live(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}", repository, log
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_until_live(process, address, log):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.skip(f"tritonserver cannot run here: {log.read_text().strip().splitlines()[-1]}")
        try:
            with urllib.request.urlopen(f"{address}/v2/health/live", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(f"tritonserver did not start: {log.read_text()[-2000:]}")


def ask(address, path, content=None):
    data = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{address}/v2/{path}", data), timeout=60) as response:
        return json.load(response)


def embed(address, name, images):
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
    (output,) = ask(address, f"models/{name}/infer", {"inputs": [tensor]})["outputs"]
    assert (output["name"], output["datatype"]) == ("embeddings", "FP32")
    return np.array(output["data"], np.float32).reshape(output["shape"])


@python_backends
def test_requests_of_many_clients_share_batches(name, server, pixels, reference):
    before = ask(server[0], f"models/{name}/stats")["model_stats"][0]
    with ThreadPoolExecutor(12) as clients:
        rows = list(clients.map(lambda number: embed(server[0], name, pixels[number : number + 1]), range(12)))
    np.testing.assert_allclose(np.concatenate(rows), reference, atol=1e-5)
    after = ask(server[0], f"models/{name}/stats")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 12
    assert after["execution_count"] - before["execution_count"] < 12


@python_backends
def test_a_served_model_embeds_as_the_model_does_and_is_a_runtime(name, server, pixels, reference):
    pytest.importorskip("tritonclient.http", reason="the extra triton is not installed")
    address, repository, _ = server
    for count in (1, 5, 12):
        np.testing.assert_allclose(embed(address, name, pixels[:count]), reference[:count], atol=1e-5)
    facts = info_from_json((repository / name / "hat_reid.json").read_text(), "file")
    config = ask(address, f"models/{name}/config")
    assert info_from_json(config["parameters"]["hat_reid"]["string_value"], "server") == facts
    assert (config["max_batch_size"], config["backend"]) == (16, "python")
    assert config["dynamic_batching"]["preferred_batch_size"] == [4, 16]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 50000
    assert [(part["data_type"], part["dims"]) for part in config["input"]] == [("TYPE_UINT8", [3, 64, 32])]
    assert [(part["data_type"], part["dims"]) for part in config["output"]] == [("TYPE_FP32", [facts.embed_dim])]
    runtime = open_runtime(f"{address.replace('http', 'triton')}/{name}")
    assert runtime_info(runtime) == facts and runtime.max_batch == 16
    np.testing.assert_allclose(runtime.run(pixels), reference, atol=1e-5)


def test_hat_verify_proves_a_served_model(server, small_model, pixels, tmp_path):
    pytest.importorskip("tritonclient.http", reason="the extra triton is not installed")
    for number, image in enumerate(pixels):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
    address = f"{server[0].replace('http', 'triton')}/python_onnx"
    report = verify(small_model, [address], tmp_path, device="cpu")
    assert [(result.name, result.failures) for result in report.candidates] == [(address, ())]


def test_images_of_another_size_are_refused_by_the_server(server, pixels):
    with pytest.raises(urllib.error.HTTPError) as caught:
        embed(server[0], "python_onnx", np.ascontiguousarray(pixels[:1, :, :32]))
    assert "unexpected shape for input 'images'" in json.load(caught.value)["error"]


def test_the_configuration_for_onnx_runtime_is_accepted(server, pixels, reference):
    address, _, log = server
    states = {entry["name"]: entry for entry in ask(address, "repository/index", {})}
    if states["onnx"].get("state") == "READY":
        np.testing.assert_allclose(embed(address, "onnx", pixels), reference, atol=1e-5)
        return
    assert "unable to find backend library for backend 'onnxruntime'" in states["onnx"]["reason"]
    assert "failed to load 'onnx' version 1" in log.read_text()
