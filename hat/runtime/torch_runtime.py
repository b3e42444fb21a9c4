"""PyTorch as a runtime: the reference that every exported file is compared with."""

from __future__ import annotations

from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch

from hat.errors import UsageError
from hat.model import HAT

__all__ = ["Precision", "TorchRuntime", "checked_precision", "choose_device"]

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime:
    """Runs a model as it is, under autocast for the lower precisions. Calls may come from several threads.

    Args:
        model: The model; it is moved to the device and put into evaluation mode.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None takes a CUDA device where there is one.
        precision: ``"fp32"``, or ``"bf16"`` and ``"fp16"`` by autocast.
        channels_last: Lay images and convolutions out by pixel, which convolutions on CPUs and tensor cores prefer.

    Raises:
        UsageError: The device is not there.
    """

    max_batch: int | None = None

    def __init__(
        self, model: HAT, device: str | None = None, precision: Precision = "fp32", *, channels_last: bool = True
    ) -> None:
        self.device = choose_device(device)
        self.precision = precision
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=self.memory_format).eval()
        self.embed_dim = model.embed_dim
        self.preprocessing = model.preprocessing
        self.name = f"torch {precision} {self.device.type}"

    @torch.inference_mode()
    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed one batch; see `Runtime.run`."""
        batch = self.preprocessing.normalise(torch.from_numpy(images).to(self.device))
        batch = batch.contiguous(memory_format=self.memory_format)
        with torch.autocast(self.device.type, dtype=_DTYPES.get(self.precision), enabled=self.precision in _DTYPES):
            embeddings = self.model(batch)
        result: npt.NDArray[np.float32] = embeddings.float().cpu().numpy()
        return result


def checked_precision(precision: str) -> Precision:
    """A precision as typed by a user.

    Raises:
        UsageError: It is none of ``"fp32"``, ``"bf16"`` and ``"fp16"``.
    """
    for known in get_args(Precision):
        if precision == known:
            return cast(Precision, known)
    raise UsageError(f"unknown precision {precision!r} for torch: expected {', '.join(get_args(Precision))}")


def choose_device(device: str | None) -> torch.device:
    """The device that was asked for, or the best one where None was.

    Raises:
        UsageError: It is not there, or its name means nothing.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UsageError(f"unknown device {device!r}: expected auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"{device} was asked for and torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices")
    return chosen
