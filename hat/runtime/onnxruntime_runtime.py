"""ONNX Runtime: the provider that was asked for is the one that runs, or an error says why not."""

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hat.errors import (
    CheckpointError,
    HatError,
    MissingExtraError,
    UsageError,
    WorkError,
    first_line,
    is_out_of_memory,
)
from hat.io.artifact import INPUT_NAME, OUTPUT_NAME, ArtifactInfo
from hat.io.onnx_file import read_own_onnx
from hat.processor import has_vnni
from hat.runtime.protocol import embed_images
from hat.runtime.torch_runtime import choose_device

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_CUDA_OPTIONS = {
    "use_tf32": "0",  # fp32 means fp32
    # Searching all algorithms takes seconds for each batch size that is new, in the middle of a service.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Doubling the arena at each growth takes memory that others on the GPU need.
    "arena_extend_strategy": "kSameAsRequested",
}
_SHAPE_OPERATORS = {
    *("Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "Mul"),
    *("Range", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze"),
}
"""Arithmetic on shapes, which ONNX Runtime leaves on the CPU on purpose."""
_LOG = logging.getLogger(__name__)


def add_in_32_bits(options: Any) -> None:
    """Make a session with these ``SessionOptions`` add int8 products in 32 bits on every processor.

    x86 processors without VNNI would add them in 16 bits, which overflow; the setting costs a few percent there. Those with
    VNNI add in 32 bits by themselves, and would take a quarter longer with it.
    """
    if not has_vnni():
        options.add_session_config_entry("session.x64quantprecision", "1")


class OnnxRuntime:
    """Runs an ``.onnx`` file of this package. Calls may come from several threads: a session is thread-safe.

    Where its weights are read from is checked before ONNX Runtime sees the file. A device of None is the CPU unless ONNX
    Runtime and torch both see a CUDA device, and for an int8 file that was quantized for CPUs, which a GPU would compute in
    float32 between conversions. ``num_threads`` are those of the CPU provider; None leaves the choice to ONNX Runtime.
    """

    max_batch: int | None = None

    on_cpu: dict[str, int]
    """Operator -> number of nodes that a CUDA session computes on the CPU, each with two copies; a warning names them."""

    def __init__(self, path: str | os.PathLike[str], device: str | None = None, *, num_threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "onnxruntime", "running ONNX files") from None
        path = Path(path)
        _, self.info = read_own_onnx(path)
        if device in (None, "auto") and _is_for_cpus(self.info):
            device = "cpu"
        chosen = _choose(device, onnxruntime.get_available_providers())
        provider = _PROVIDERS[chosen.type]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = num_threads or 0
        add_in_32_bits(options)
        arguments: dict[str, Any] = {}
        if chosen.type == "cuda":
            arguments = {"device_id": chosen.index or 0} | _CUDA_OPTIONS
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[(provider, arguments)])
        except Exception as error:  # noqa: BLE001 - its exceptions share no base below Exception
            raise CheckpointError(f"{path} cannot be opened by ONNX Runtime: {first_line(error)}") from None
        if provider not in self.session.get_providers():
            raise UsageError(
                f"{provider} was asked for and ONNX Runtime fell back to {', '.join(self.session.get_providers())}: "
                "its CUDA libraries could not be loaded"
            )
        self.on_cpu = _nodes_on_cpu(self.session) if chosen.type == "cuda" else {}
        if self.on_cpu:
            nodes = ", ".join(f"{count} {operator}" for operator, count in self.on_cpu.items())
            _LOG.warning("%s: ONNX Runtime computes on the CPU what its CUDA provider lacks: %s", path, nodes)
        self._check_tensors(path)
        self.preprocessing, self.embed_dim = self.info.preprocessing, self.info.embed_dim
        self.device, self.device_type = chosen, chosen.type
        self.name = f"onnxruntime {self.info.precision} {chosen.type}"

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed one batch; see `hat.runtime.Runtime.run`. No rows in give no rows out."""
        embed = self._embed_on_gpu if self.device.type == "cuda" else self._embed
        try:
            return embed_images(embed, images, self.info)
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
            if isinstance(error, HatError) or is_out_of_memory(error):
                raise
            raise WorkError(f"ONNX Runtime failed on {self.device}: {first_line(error)}") from error

    def _embed(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        (embeddings,) = self.session.run([OUTPUT_NAME], {INPUT_NAME: batch})
        return np.asarray(embeddings, dtype=np.float32)

    def _embed_on_gpu(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Run on torch's memory, which keeps page-locked and device blocks from call to call and shares them among threads."""
        images = torch.from_numpy(batch).pin_memory().to(self.device, non_blocking=True)
        rows = torch.empty((len(batch), self.embed_dim), dtype=torch.float32, device=self.device)
        torch.cuda.current_stream(self.device).synchronize()  # ONNX Runtime works on a stream of its own
        self._run_bound(images, rows)
        return rows.cpu().numpy()

    def _run_bound(self, images: torch.Tensor, rows: torch.Tensor) -> None:
        """Read images from a tensor on the device of the session, and write their embeddings into another."""
        device = self.device.type, self.device.index or 0
        element = np.uint8 if images.dtype == torch.uint8 else np.float32
        binding = self.session.io_binding()
        binding.bind_input(INPUT_NAME, *device, element, images.shape, images.data_ptr())
        binding.bind_output(OUTPUT_NAME, *device, np.float32, rows.shape, rows.data_ptr())
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    def _check_tensors(self, path: Path) -> None:
        element = "tensor(uint8)" if self.info.input_type == "uint8" else "tensor(float)"
        expected = (INPUT_NAME, element, [3, *self.info.preprocessing.size])
        got = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in self.session.get_inputs()]
        if got != [expected]:
            raise CheckpointError(f"{path} is not what it says of itself: expected the input {expected}, got {got}")
        outputs = [(tensor.name, tensor.shape[1:]) for tensor in self.session.get_outputs()]
        if outputs != [(OUTPUT_NAME, [self.info.embed_dim])]:
            raise CheckpointError(
                f"{path} is not what it says of itself: expected the output embeddings of {self.info.embed_dim} values, "
                f"got {outputs}"
            )


def _is_for_cpus(info: ArtifactInfo) -> bool:
    """Return whether a file was quantized in the pattern of a CPU's integer kernels."""
    quantization = info.details.get("quantization")
    return isinstance(quantization, dict) and quantization.get("scheme") == "cpu"


def _nodes_on_cpu(session: Any) -> dict[str, int]:
    """Count by operator the nodes that a session leaves to the CPU, shapes aside; an old ONNX Runtime does not say."""
    parts: list[Any] = getattr(session, "get_provider_graph_assignment_info", list)()
    on_cpu = [part for part in parts if part.ep_name == "CPUExecutionProvider"]
    counts = Counter(node.op_type for part in on_cpu for node in part.get_nodes())
    return {operator: count for operator, count in counts.items() if operator not in _SHAPE_OPERATORS}


def _choose(device: str | None, available: list[str]) -> torch.device:
    if device in (None, "auto") and _PROVIDERS["cuda"] not in available:
        device = "cpu"
    chosen = choose_device(device)
    if _PROVIDERS.get(chosen.type) not in available:
        raise UsageError(
            f"{device} was asked for and ONNX Runtime has only {', '.join(available)}: "
            "a GPU needs onnxruntime-gpu instead of onnxruntime (hat doctor tells which extra, gpu-cu12 or gpu-cu13)"
        )
    return chosen
