"""ONNX Runtime: the provider that was asked for is the one that runs, or an error says why not."""

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.errors import CheckpointError, MissingExtraError, UsageError
from hat.io.artifact import METADATA_KEY, ArtifactInfo, info_from_json
from hat.io.onnx_file import read_onnx
from hat.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from hat.runtime.protocol import check_images, fixed_batch, run_in_pieces
from hat.runtime.torch_runtime import choose_device

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_INPUT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)", "normalized": "tensor(float)"}
_CUDA_OPTIONS = {
    "use_tf32": "0",  # fp32 means fp32
    # Searching all algorithms takes seconds for each batch size that is new, in the middle of a service.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Doubling the arena at each growth takes memory that others on the GPU need.
    "arena_extend_strategy": "kSameAsRequested",
}
_SHAPE_OPERATORS = frozenset(
    {
        "Cast",
        "Concat",
        "ConstantOfShape",
        "Expand",
        "Gather",
        "Mul",
        "Range",
        "Reshape",
        "Shape",
        "Slice",
        "Squeeze",
        "Unsqueeze",
    }
)
"""Arithmetic on shapes, which ONNX Runtime leaves on the CPU on purpose."""
_LOG = logging.getLogger(__name__)


class OnnxRuntime:
    """Runs an ``.onnx`` file of this package. Calls may come from several threads: a session is thread-safe.

    Args:
        path: The file. What its weights are read from is checked before ONNX Runtime sees it.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None is the CPU unless ONNX Runtime and torch both see a CUDA device, and
            for an int8 file that was quantized for CPUs, which a GPU would compute in float32 between conversions.
        num_threads: Threads of the CPU provider; None leaves the choice to ONNX Runtime.

    Attributes:
        info: The facts that the file holds about itself.
        on_cpu: How many nodes of which operator a CUDA session computes on the CPU, each with two copies; a warning names them.

    Raises:
        CheckpointError: The file cannot be read, was not made by this package, or is not what it says of itself.
        UsageError: The provider for the device is not there, or ONNX Runtime fell back to another one.
        MissingExtraError: ONNX Runtime is not installed.
    """

    max_batch: int | None = None

    def __init__(self, path: str | os.PathLike[str], device: str | None = None, *, num_threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "onnxruntime", "running ONNX files") from None
        path = Path(path)
        self.info: ArtifactInfo = read_onnx_info(path)
        if device in (None, "auto") and _is_for_cpus(self.info):
            device = "cpu"
        chosen = _choose(device, onnxruntime.get_available_providers())
        provider = _PROVIDERS[chosen.type]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if num_threads is not None:
            if num_threads < 1:
                raise UsageError(f"num_threads is at least 1, got {num_threads}")
            options.intra_op_num_threads = num_threads
        arguments: dict[str, Any] = {}
        if chosen.type == "cuda":
            arguments = {"device_id": chosen.index or 0} | _CUDA_OPTIONS
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[(provider, arguments)])
        except Exception as error:  # noqa: BLE001 - its exceptions share no base below Exception
            raise CheckpointError(f"{path} cannot be opened by ONNX Runtime: {str(error).splitlines()[0]}") from None
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
        self.preprocessing = self.info.preprocessing
        self.embed_dim = self.info.embed_dim
        self._fixed_batch = fixed_batch(self.info)
        self.device_type = chosen.type
        self.name = f"onnxruntime {self.info.precision} {chosen.type}"

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed one batch; see `hat.runtime.Runtime.run`. No rows in give no rows out.

        Raises:
            UsageError: The images are of another shape or type.
        """
        check_images(images, self.preprocessing.size)
        if not len(images):
            return np.empty((0, self.embed_dim), dtype=np.float32)
        if self._fixed_batch not in (None, len(images)):
            return run_in_pieces(self.run, images, self._fixed_batch)
        batch: npt.NDArray[Any] = images if self.info.input_type == "uint8" else images.astype(np.float32)
        if self.info.input_type == "normalized":
            mean, std = (np.array(value, np.float32).reshape(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
            batch = (batch / np.float32(255) - mean) / std
        (embeddings,) = self.session.run(["embeddings"], {"images": np.ascontiguousarray(batch)})
        return np.asarray(embeddings, dtype=np.float32)

    def _check_tensors(self, path: Path) -> None:
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        expected = ("images", _INPUT_TYPES[self.info.input_type], [3, *self.info.preprocessing.size])
        got = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in inputs]
        if got != [expected]:
            raise CheckpointError(f"{path} is not what it says of itself: expected the input {expected}, got {got}")
        if [(tensor.name, tensor.shape[1:]) for tensor in outputs] != [("embeddings", [self.info.embed_dim])]:
            raise CheckpointError(
                f"{path} is not what it says of itself: expected the output embeddings of {self.info.embed_dim} values, "
                f"got {[(tensor.name, tensor.shape[1:]) for tensor in outputs]}"
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


def read_onnx_info(path: str | os.PathLike[str]) -> ArtifactInfo:
    """Read the facts that an ONNX file holds about itself.

    Raises:
        CheckpointError: The file cannot be read or is refused by `hat.io.onnx_file.read_onnx`, or is not of this package.
        MissingExtraError: onnx is not installed.
    """
    facts = next((entry.value for entry in read_onnx(path).metadata_props if entry.key == METADATA_KEY), None)
    if facts is None:
        raise CheckpointError(
            f"{path} was not made by hat export: its metadata has no {METADATA_KEY!r}; "
            "a model of another project becomes one of ours by hat adopt"
        )
    return info_from_json(facts, str(path))


def _choose(device: str | None, available: list[str]) -> Any:
    if device in (None, "auto") and _PROVIDERS["cuda"] not in available:
        device = "cpu"
    chosen = choose_device(device)
    if _PROVIDERS.get(chosen.type) not in available:
        raise UsageError(
            f"{device} was asked for and ONNX Runtime has only {', '.join(available)}: "
            "a GPU needs onnxruntime-gpu instead of onnxruntime (hat doctor tells which extra, gpu-cu12 or gpu-cu13)"
        )
    return chosen
