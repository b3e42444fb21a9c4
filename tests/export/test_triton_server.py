"""A real tritonserver loads an exported repository and gives the model's embeddings.

HAT_TRITONSERVER names a virtual environment with nvidia-pytriton, onnxruntime and openvino. That wheel ships the server and its
Python backend, which is run; of a repository for ONNX Runtime it accepts the configuration, and then looks for the backend.
"""

import os
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hat.export.deploy.triton import export_triton
from hat.export.request import ExportRequest
from hat.io.artifact import BatchProfile, info_from_json
from hat.io.atomic_output import METADATA_FILE
from hat.runtime import open_runtime, runtime_info

tritonclient = pytest.importorskip("tritonclient.http", reason="the extra triton is not installed")
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
    """The address of a running server, its repository and the metadata of each model."""
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
    libraries, path = package.parent / "nvidia_pytriton.libs", f"{folder / 'bin'}:{os.environ['PATH']}"
    variables = os.environ | {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(package.parent)}
    variables |= {"PATH": path, "VIRTUAL_ENV": str(folder)}
    command = [triton / "bin" / "tritonserver", "--model-repository", repository, "--backend-directory", triton / "backends"]
    command += ["--http-address", "127.0.0.1", "--http-port", str(port), "--allow-grpc", "false", "--allow-metrics", "false"]
    # The configuration must be complete as it is: nothing is to be guessed from the files.
    command += ["--disable-auto-complete-config", "--exit-on-error=false"]
    log, address = base / "log.txt", f"127.0.0.1:{port}"
    with log.open("wb") as output, subprocess.Popen(command, env=variables, stdout=output, stderr=output) as process:
        try:
            client = tritonclient.InferenceServerClient(address)
            wait_until_live(process, client, log)
            yield client, address, repository, log
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_until_live(process, client, log):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.skip(f"tritonserver cannot run here: {log.read_text().strip().splitlines()[-1]}")
        try:
            if client.is_server_live():
                return
        except OSError:  # it does not listen yet
            time.sleep(0.5)
    raise AssertionError(f"tritonserver did not start: {log.read_text()[-2000:]}")


@python_backends
def test_requests_of_many_clients_share_batches(name, server, pixels, reference):
    client, address, _, _ = server
    runtime = open_runtime(f"triton://{address}/{name}")
    (before,) = client.get_inference_statistics(name)["model_stats"]
    with ThreadPoolExecutor(12) as threads:
        rows = list(threads.map(lambda number: runtime.run(pixels[number : number + 1]), range(12)))
    np.testing.assert_allclose(np.concatenate(rows), reference, atol=1e-5)
    (after,) = client.get_inference_statistics(name)["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 12
    assert after["execution_count"] - before["execution_count"] < 12


@python_backends
def test_a_served_model_embeds_as_the_model_does_and_is_what_its_metadata_says(name, server, pixels, reference):
    client, address, repository, _ = server
    runtime = open_runtime(f"triton://{address}/{name}")
    assert runtime_info(runtime) == info_from_json((repository / name / METADATA_FILE).read_text(), "file")
    assert runtime.max_batch == 16
    for count in (1, 5, 12):
        np.testing.assert_allclose(runtime.run(pixels[:count]), reference[:count], atol=1e-5)
    config = client.get_model_config(name)
    assert config["backend"] == "python" and config["dynamic_batching"]["preferred_batch_size"] == [4, 16]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 50000


def test_images_of_another_size_are_refused_by_the_server(server):
    images = tritonclient.InferInput("images", [1, 3, 32, 32], "UINT8")
    images.set_data_from_numpy(np.zeros((1, 3, 32, 32), np.uint8))
    with pytest.raises(Exception, match="unexpected shape for input 'images'"):
        server[0].infer("python_onnx", [images])


def test_the_configuration_for_onnx_runtime_is_accepted(server, pixels, reference):
    client, address, _, log = server
    states = {entry["name"]: entry for entry in client.get_model_repository_index()}
    if states["onnx"].get("state") == "READY":
        np.testing.assert_allclose(open_runtime(f"triton://{address}/onnx").run(pixels), reference, atol=1e-5)
        return
    assert "unable to find backend library for backend 'onnxruntime'" in states["onnx"]["reason"]
    assert "failed to load 'onnx' version 1" in log.read_text()
