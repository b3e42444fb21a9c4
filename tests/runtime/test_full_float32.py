"""float32 without TF32, in torch and in ONNX Runtime: switches and options, for a machine without a GPU."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_onnxruntime import info, write

from hat.runtime import TorchRuntime
from hat.runtime.onnxruntime_runtime import OnnxRuntime
from hat.runtime.torch_runtime import full_float32


@pytest.fixture(autouse=True)
def switches():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def tf32():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_full_float32_holds_until_the_last_thread_has_left():
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with full_float32():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    with full_float32():
        thread.start()
        inside.wait()
    assert tf32() == (False, False)
    leave.set()
    thread.join()
    assert tf32() == (True, True)


def test_a_torch_model_runs_without_tf32(tiny_model):
    runtime, seen = TorchRuntime(tiny_model, "cpu"), []
    tiny_model.mfe.register_forward_pre_hook(lambda *_: seen.append(tf32()))
    runtime.run(np.zeros((2, 3, *tiny_model.config.image_size), dtype=np.uint8))
    assert seen == [(False, False)] and tf32() == (True, True)


@pytest.fixture
def cuda_session(monkeypatch):
    """ONNX Runtime with a CUDA provider that takes options and says what it left to the CPU, and computes nothing."""
    import onnxruntime

    asked, real = {}, onnxruntime.InferenceSession
    left = [
        SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda name=name: [SimpleNamespace(op_type=name)])
        for name in ("Shape", "Gather", "LpNormalization")
    ]

    def session(path, options, providers):
        asked["providers"] = providers
        opened = real(path, options, providers=["CPUExecutionProvider"])
        names = {"get_providers": lambda: ["CUDAExecutionProvider"], "get_provider_graph_assignment_info": lambda: left}
        return SimpleNamespace(get_inputs=opened.get_inputs, get_outputs=opened.get_outputs, **names)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr("hat.runtime.onnxruntime_runtime.choose_device", lambda device: torch.device(device or "cuda"))
    return asked


def test_onnxruntime_on_cuda_computes_without_tf32_and_tells_what_stays_on_the_cpu(cuda_session, tmp_path, caplog):
    runtime = OnnxRuntime(write(tmp_path / "hand.onnx", info()), "cuda:1")
    ((provider, options),) = cuda_session["providers"]
    assert (provider, options["device_id"], options["use_tf32"]) == ("CUDAExecutionProvider", 1, "0")
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert runtime.on_cpu == {"LpNormalization": 1}
    assert "on the CPU what its CUDA provider lacks: 1 LpNormalization" in caplog.text


@pytest.mark.parametrize(("details", "chosen"), [({}, "cuda"), ({"quantization": {"scheme": "cpu"}}, "cpu")])
def test_an_int8_file_made_for_cpus_goes_to_no_gpu_by_itself(details, chosen, cuda_session, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        providers = dict.fromkeys(("cpu", "cuda"), "CUDAExecutionProvider")
        patch.setattr("hat.runtime.onnxruntime_runtime._PROVIDERS", providers)
        runtime = OnnxRuntime(write(tmp_path / "hand.onnx", info(details=details)))
    assert runtime.name == f"onnxruntime fp32 {chosen}"
