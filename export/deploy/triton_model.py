"""Runs an exported file in Triton's Python backend.

This file is copied into a model repository as it is, where this package is not installed: it needs numpy and onnxruntime, or
openvino, and nothing else.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported, which happens below

# fp32 is fp32; and no search among all of cuDNN's algorithms whenever the batch size changes.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}


class TritonPythonModel:
    """Model of Triton's Python backend, which requires this class name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the file that lies beside this one; what is raised because it cannot run here, Triton logs."""
        config = json.loads(args["model_config"])
        self.metadata = json.loads(config["parameters"]["hat_reid"]["string_value"])
        folder = Path(args["model_repository"]) / args["model_version"]
        on_gpu, device = args["model_instance_kind"] == "GPU", int(args["model_instance_device_id"])
        if (folder / "model.onnx").is_file():
            self.run = _open_onnx(folder / "model.onnx", device if on_gpu else None)
        else:
            self.run = _open_openvino(folder / "model.xml", on_gpu, self.metadata)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Embed the images of all requests of a batch in one run."""
        import triton_python_backend_utils as triton  # type: ignore[import-not-found] # Triton puts it on the path

        images = [triton.get_input_tensor_by_name(request, "images").as_numpy() for request in requests]
        embeddings = self.run(np.concatenate(images))
        parts = np.split(embeddings, np.cumsum([len(part) for part in images])[:-1])
        return [triton.InferenceResponse([triton.Tensor("embeddings", np.ascontiguousarray(part))]) for part in parts]


def _open_onnx(path: Path, gpu: int | None) -> Any:
    import onnxruntime

    provider: Any = "CPUExecutionProvider" if gpu is None else ("CUDAExecutionProvider", {"device_id": gpu, **_CUDA_OPTIONS})
    options = onnxruntime.SessionOptions()
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "vnni" not in cpuinfo.read_text():
        options.add_session_config_entry("session.x64quantprecision", "1")  # or int8 sums overflow
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    name = provider if gpu is None else provider[0]
    if name not in session.get_providers():
        raise RuntimeError(f"{name} was asked for and ONNX Runtime fell back to {session.get_providers()}")
    return lambda images: session.run(None, {"images": images})[0]


def _open_openvino(path: Path, on_gpu: bool, metadata: dict[str, Any]) -> Any:
    import openvino

    core, device = openvino.Core(), "GPU" if on_gpu else "CPU"
    precision = metadata["details"].get("float_precision", "fp32") if metadata["precision"] == "int8" else metadata["precision"]
    capabilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if precision == "fp16" and "FP16" not in capabilities:
        precision = "fp32"  # weights in float16, computed in float32
    if precision.upper() not in capabilities:
        raise RuntimeError(f"the model computes in {precision} and {device} has {capabilities}")
    hint = precision.replace("fp", "f")  # f32, f16, bf16
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint}
    if not on_gpu:
        options["ENABLE_CPU_PINNING"] = False  # every instance is a process of its own, and would pin the same cores
    request = core.compile_model(core.read_model(path), device, options).create_infer_request()

    def run(images: Any) -> Any:
        return request.infer({0: images})[0].copy()

    return run
