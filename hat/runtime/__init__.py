"""Runtimes: one contract, a file each; what a path is decides what runs it."""

import os
from pathlib import Path
from typing import Any, cast

import torch

from hat.errors import CheckpointError, UsageError
from hat.io.checkpoint import load_checkpoint, load_released_weights, locate_model, read_checkpoint_info
from hat.runtime.protocol import Runtime, runtime_info
from hat.runtime.torch_runtime import Precision, TorchRuntime, checked_precision, choose_device
from hat.runtime.triton_runtime import TritonRuntime, is_triton_address

__all__ = ["ARTIFACT_ENDINGS", "Runtime", "TorchRuntime", "choose_device", "open_runtime", "runtime_info"]

ARTIFACT_ENDINGS = (".onnx", ".engine", ".plan", ".xml")
"""Endings of exported files."""


def open_runtime(
    path: str | os.PathLike[str],
    device: str | torch.device | None = None,
    precision: Precision = "fp32",
    *,
    num_threads: int | None = None,
    **options: Any,
) -> Runtime:
    """Open a trained model.

    Args:
        path: A checkpoint folder, a ``.pth`` file of HAT's released code, or an exported file: ``.onnx``, ``.engine`` or
            ``.plan`` (TensorRT), ``.xml`` (OpenVINO); ``triton://host:port/model``, a model on a Triton server; or
            ``"hat_mobilenet_v2_market1501"``, the trained model that comes with the package.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None takes a CUDA device where there is one and the file runs on it.
        precision: Of a checkpoint: ``"fp32"``, ``"bf16"`` or ``"fp16"``. An exported file has its own.
        num_threads: For whatever computes on the CPU; for a checkpoint torch's own, of the whole process.
        **options: Further keyword arguments of the runtime's class.

    Raises:
        CheckpointError: There is nothing at the path that can be opened.
        UsageError: The device is not there, the precision is unknown, or one was asked for of an exported file.
        WorkError: A server cannot be reached.
        MissingExtraError: What runs the file is not installed.
    """
    precision = checked_precision(precision)
    device = None if device is None else str(device)
    if num_threads is not None and num_threads < 1:
        raise UsageError(f"num_threads is at least 1, got {num_threads}")
    if is_triton_address(address := os.fspath(path)):
        if device not in (None, "auto") or precision != "fp32":
            raise UsageError(f"{address} runs where and as its server runs it: leave out the device and the precision")
        return TritonRuntime(address, **options)
    path = locate_model(path)
    ending = path.suffix.lower()
    if ending in ARTIFACT_ENDINGS and not path.is_dir():
        if precision != "fp32":
            raise UsageError(f"{path} computes in the precision that it was exported in: leave out the precision {precision}")
        return _open_artifact(path, ending, device, num_threads, options)
    choose_device(device)  # before what takes seconds
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if path.is_dir():
        metrics = read_checkpoint_info(path).metrics
        name = path.resolve().name
        return TorchRuntime(load_checkpoint(path), device, precision, model_name=name, metrics=metrics, **options)
    if ending in (".pth", ".pt"):
        model, _ = load_released_weights(path)
        return TorchRuntime(model, device, precision, model_name=path.stem, **options)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint or file")
    raise CheckpointError(
        f"{path} cannot be opened: expected a checkpoint folder, a .pth file of HAT's released code, or an exported file "
        f"({', '.join(ARTIFACT_ENDINGS)})"
    )


def _open_artifact(path: Path, ending: str, device: str | None, num_threads: int | None, options: dict[str, Any]) -> Runtime:
    if ending == ".onnx":
        from hat.runtime.onnxruntime_runtime import OnnxRuntime

        return OnnxRuntime(path, device, num_threads=num_threads, **options)
    if ending == ".xml":
        from hat.runtime.openvino_runtime import OpenVINORuntime

        return OpenVINORuntime(path, device, num_threads=num_threads, **options)
    from hat.runtime.tensorrt.runtime import TensorRTRuntime

    return cast(Runtime, TensorRTRuntime(path, device, **options))  # it leaves the CPU nothing to compute
