"""PyTorch as a runtime: the reference that every exported file is compared with."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hat.errors import UsageError, WorkError, first_line
from hat.io.artifact import ArtifactInfo, fingerprint, weights_sha256
from hat.model import HAT
from hat.model.inference import InferenceModel
from hat.processor import emulation

Precision = Literal["fp32", "bf16", "fp16"]

_LOG = logging.getLogger(__name__)

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision -> what autocast computes in; the others do without it."""

_TF32_LOCK = threading.Lock()
_tf32_depth = 0
_tf32_outside = (True, False)


@contextmanager
def full_float32() -> Iterator[None]:
    """Switch TF32 off in torch, for as long as any thread is inside.

    torch's switches belong to the process and not to a thread: they are turned back when the last thread leaves. cuDNN's is on
    by default, so that a float32 model would differ by 1e-3 between a CPU and any GPU from Ampere on.
    """
    global _tf32_depth, _tf32_outside  # noqa: PLW0603 - the switches are the process's too
    with _TF32_LOCK:
        if _tf32_depth == 0:
            _tf32_outside = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        _tf32_depth += 1
    try:
        yield
    finally:
        with _TF32_LOCK:
            _tf32_depth -= 1
            if _tf32_depth == 0:
                torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = _tf32_outside


class TorchRuntime:
    """Runs a model as it is, under autocast for the lower precisions. Calls may come from several threads.

    Calls of a compiled runtime wait for each other: compiling happens inside a call and is not thread-safe.

    Args:
        model: The model; it is moved to the device and put into evaluation mode.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None takes a CUDA device where there is one.
        precision: ``"fp32"``, or ``"bf16"`` and ``"fp16"`` by autocast.
        channels_last: Lay images and convolutions out by pixel, which convolutions on CPUs and tensor cores prefer.
        inference_graph: Run the exact inference graph (`hat.model.inference.InferenceModel`, which is exported too) instead of
            the training module: the same embeddings with fewer operations. The model's weights are copied and the model itself
            is not kept.
        compiled: Run through ``torch.compile``. The first calls with new batch sizes compile, which takes seconds to minutes.
        model_name: What to call the model in `info`.
        metrics: Figures that were measured with the model, for `info`.
    """

    max_batch: int | None = None

    def __init__(
        self,
        model: HAT,
        device: str | None = None,
        precision: Precision = "fp32",
        *,
        channels_last: bool = True,
        inference_graph: bool = False,
        compiled: bool = False,
        model_name: str = "model",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        self.device, self.precision = choose_device(device), checked_precision(precision)
        self.config, self.preprocessing, self.embed_dim = model.config, model.preprocessing, model.embed_dim
        self.inference_graph, self.compiled = inference_graph, compiled
        self.model_name, self.metrics = model_name, dict(metrics or {})
        # Removed branches cannot be hashed later; otherwise only a caller that reads the metadata waits for the hash.
        self._source_sha256 = weights_sha256(model) if inference_graph else None
        self._model = None if inference_graph else model
        with full_float32():  # the graph is compared with the model, where that is
            network = InferenceModel(model) if inference_graph else model
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network = network.to(self.device).to(memory_format=self.memory_format).eval()  # type: ignore[call-overload]
        self._network: nn.Module = cast(nn.Module, torch.compile(network)) if compiled else network
        self._turn: AbstractContextManager[Any] = threading.Lock() if compiled else nullcontext()
        self.device_type = self.device.type
        if (slow := emulation(self.device_type, precision)) is not None:
            _LOG.warning("%s: %s", model_name, slow)
        variant = f"{' inference graph' if inference_graph else ''}{' compiled' if compiled else ''}"
        self.name = f"torch {precision}{variant} {self.device.type}"

    @property
    def model(self) -> HAT:
        """The training module, where it was not left behind for the exact inference graph."""
        if self._model is None:
            raise UsageError("the exact inference graph has no training module to look into: open the checkpoint without it")
        return self._model

    @cached_property
    def info(self) -> ArtifactInfo:
        """Metadata of the running model, as an exported file holds it."""
        source = self._source_sha256 or weights_sha256(self.model)
        return ArtifactInfo(
            name=self.model_name,
            model=self.config,
            preprocessing=self.preprocessing,
            embed_dim=self.embed_dim,
            precision=self.precision,
            source_sha256=source,
            fingerprint=fingerprint(self.config, self.preprocessing, source, self.precision),
            versions={library: version(library) for library in ("hat-reid", "torch")},
            metrics=self.metrics,
        )

    @torch.inference_mode()
    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed one batch; see `Runtime.run`. No rows in give no rows out."""
        if not len(images):
            return np.empty((0, self.embed_dim), dtype=np.float32)
        batch = torch.from_numpy(images).to(self.device)
        if not self.inference_graph:  # the graph has the normalization inside
            batch = self.preprocessing.normalize(batch)
        batch = batch.contiguous(memory_format=self.memory_format)
        half = AUTOCAST_TYPES.get(self.precision)
        autocast = torch.autocast(self.device.type, dtype=half, enabled=half is not None)
        with self._turn, full_float32(), autocast:
            embeddings = self._compiled_call(batch) if self.compiled else self._network(batch)
        result: npt.NDArray[np.float32] = embeddings.float().cpu().numpy()
        return result

    def _compiled_call(self, batch: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return cast(Tensor, self._network(batch))
        except TorchDynamoException as error:
            raise WorkError(
                f"torch.compile failed: {first_line(error)}; it needs a C++ compiler on a CPU and Triton on a GPU: "
                "install them, or run without it"
            ) from error


def checked_precision(precision: str) -> Precision:
    """Return a precision of torch as typed by a user; a `UsageError` where it is none."""
    if precision not in get_args(Precision):
        raise UsageError(f"unknown precision {precision!r} for torch: expected {', '.join(get_args(Precision))}")
    return cast(Precision, precision)


def choose_device(device: str | None, local_rank: int = 0) -> torch.device:
    """Return the device that was asked for, or the best one where None or ``"auto"`` was.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        local_rank: Which CUDA device ``"cuda"`` alone means: the number of this process on its machine.

    Raises:
        UsageError: It is not there, or its name means nothing.
    """
    if device is None or device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = device.partition(":")
    if device == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (colon and not number.isdigit()):
        raise UsageError(f"unknown device {device!r}: expected auto, cpu, cuda or cuda:N")
    index, num_devices = int(number) if colon else local_rank, torch.cuda.device_count()
    if index >= num_devices:
        raise UsageError(f"device cuda:{index} was asked for and torch {torch.__version__} sees {num_devices} CUDA devices")
    return torch.device("cuda", index)
