"""Opening a model by its path: what the path is decides what runs it."""

from __future__ import annotations

import os
from pathlib import Path

from hat.checkpoint import load_checkpoint, load_released_weights
from hat.errors import CheckpointError
from hat.runtime.protocol import Runtime
from hat.runtime.torch_runtime import Precision, TorchRuntime, choose_device

__all__ = ["open_runtime"]


def open_runtime(path: str | os.PathLike[str], device: str | None = None, precision: Precision = "fp32") -> Runtime:
    """Open a trained model.

    Args:
        path: A checkpoint folder, or a ``.pth`` file of HAT's released code.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None takes a CUDA device where there is one.
        precision: Of a checkpoint: ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    Raises:
        CheckpointError: There is nothing at the path that can be opened.
        UsageError: The device is not there.
    """
    path = Path(path).expanduser()
    choose_device(device)
    if path.is_dir():
        return TorchRuntime(load_checkpoint(path), device, precision)
    if path.suffix in (".pth", ".pt"):
        model, _ = load_released_weights(path)
        return TorchRuntime(model, device, precision)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint or file")
    raise CheckpointError(f"{path} cannot be opened: expected a checkpoint folder or a .pth file of HAT's released code")
