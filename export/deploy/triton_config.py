"""What Triton is told of a model: ``config.pbtxt``, written in protobuf's text format."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from hat.config import config_dataclass
from hat.errors import UsageError, WorkError
from hat.io.artifact import METADATA_KEY, ArtifactInfo, BatchProfile, info_to_json
from hat.runtime.openvino_core import openvino_core

from ..templates import render

TENSOR_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}

_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}

_BACKENDS: dict[str, tuple[str, Literal["auto", "cpu", "gpu"]]] = {
    "onnx": ("onnxruntime", "auto"),
    "tensorrt": ("tensorrt", "gpu"),
    "openvino": ("openvino", "cpu"),
    "python-onnx": ("python", "cpu"),
    "python-openvino": ("python", "cpu"),
}
"""Triton's name for each and where it runs when nothing was said."""


@config_dataclass
class TritonOptions:
    """Options of an export to Triton."""

    backend: Literal["onnx", "tensorrt", "openvino", "python-onnx", "python-openvino"] = "onnx"
    """Which file is made and what of Triton's runs it. The two of ``python-`` run in Triton's Python backend, which every
    Triton has, with the onnxruntime or openvino of its Python; OpenVINO then computes as the file says, or refuses it."""

    model_name: str | None = None
    """What Triton calls the model; None makes it from the name of the export."""

    version: int = Field(default=1, ge=1)
    """The model's version: the folder that the file is in."""

    num_versions: int = Field(default=1, ge=1)
    """How many of the newest versions Triton serves."""

    preferred_batch_sizes: list[int] | None = None
    """Batch sizes that Triton waits for; None takes the optimum and the maximum of the batch profile."""

    max_queue_delay_us: int = Field(default=1000, ge=0)
    """How long a request may wait for others to share a batch with, in microseconds."""

    max_queue_size: int = Field(default=256, ge=0)
    """Requests that may wait; Triton refuses further ones at once, instead of answering all of them late. 0 is no limit."""

    warm_up: bool = True
    """Run once at each preferred batch size, and at 1, before the model counts as ready."""

    tensorrt_version: str | None = None
    """Version of the TensorRT in Triton's container, such as 10.3.0, for ``backend=tensorrt``: no other can open the engine, so
    the one that builds it must be of this version."""

    instances: int = Field(default=1, ge=1)
    """Copies of the model that run side by side on each device."""

    instance_kind: Literal["auto", "cpu", "gpu"] | None = None
    """Where they run; None is the GPU for TensorRT, Triton's choice for ONNX, the processor otherwise."""


class TensorSpec(NamedTuple):
    """An input or output as a file has it: name, type, and shape without the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def triton_name(options: TritonOptions, name: str) -> str:
    """Return what Triton calls the model: also a folder's name and part of URLs.

    Raises:
        UsageError: The name that was asked for cannot be one.
    """
    if options.model_name is None:
        return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "hat"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", options.model_name):
        raise UsageError(f"a model's name in Triton is made of letters, digits and _ . - alone, got {options.model_name!r}")
    return options.model_name


def preferred_batch_sizes(options: TritonOptions, batch: BatchProfile) -> list[int]:
    """Return the batch sizes that Triton waits for.

    Raises:
        UsageError: One of them is no batch that the model takes, or the model takes no single image.
    """
    if batch.min != 1:
        raise UsageError(f"Triton may send a single image at any time: the batch profile must begin at 1, got {batch.min}")
    sizes = options.preferred_batch_sizes
    if sizes is None:
        sizes = [batch.opt, batch.max]
    if any(not 1 <= size <= batch.max for size in sizes):
        raise UsageError(f"preferred batch sizes are from 1 to {batch.max}, the maximum of the batch profile, got {sizes}")
    return sorted(set(sizes))


def expected_tensors(info: ArtifactInfo) -> tuple[TensorSpec, TensorSpec]:
    """Return input and output of a model by its metadata."""
    return (
        TensorSpec("images", info.input_type, (3, *info.preprocessing.size)),
        TensorSpec("embeddings", "float32", (info.embed_dim,)),
    )


def model_tensors(path: Path) -> tuple[TensorSpec, TensorSpec]:
    """Return input and output of an ``.onnx`` or ``.xml`` file, read from the file.

    Raises:
        WorkError: It has more or fewer than one of each, or no batch of any size.
    """
    read = _onnx_tensors if path.suffix == ".onnx" else _openvino_tensors
    tensors = [(name, dtype, shape) for name, dtype, shape in read(path)]
    if len(tensors) != 2 or any(shape[0] is not None or None in shape[1:] for _, _, shape in tensors):
        raise WorkError(f"{path.name}: expected one input and one output with a batch of any size, got {tensors}")
    first, second = (TensorSpec(name, dtype, tuple(size for size in shape[1:] if size)) for name, dtype, shape in tensors)
    return first, second


def check_tensors(path: Path, info: ArtifactInfo) -> None:
    """Compare a file with what Triton is going to be told of it.

    Raises:
        WorkError: A name, a type or a size differs.
    """
    found, expected = model_tensors(path), expected_tensors(info)
    if found != expected:
        raise WorkError(f"{path.name} has {found} and Triton would be told {expected}")


def config_pbtxt(info: ArtifactInfo, options: TritonOptions, batch: BatchProfile, *, name: str) -> str:
    """Return the text of ``config.pbtxt``.

    Args:
        info: The metadata of the model's file; it goes into ``parameters``, where a client can ask for them.
        options: How it is to be served.
        batch: Batch sizes that it takes.
        name: What Triton calls it.

    Raises:
        UsageError: The batch sizes contradict each other.
    """
    images, embeddings = expected_tensors(info)
    kind = _KINDS[instance_kind(options, info)]
    parameters = {METADATA_KEY: info_to_json(info)}
    if options.backend == "openvino":
        # The backend gives the graph a fixed batch, the largest, and fills smaller ones up only when told to.
        parameters |= {"ENABLE_BATCH_PADDING": "YES", "HINT_BF16": "YES"}
    if options.backend == "onnx" and kind != "KIND_CPU":
        # By default cuDNN tries every algorithm whenever the batch size changes, which dynamic batching does all the time (1 is
        # heuristic), and the arena doubles (1 is as requested).
        parameters |= {"cudnn_conv_algo_search": "1", "arena_extend_strategy": "1"}
    if options.tensorrt_version is not None:
        parameters["tensorrt_version"] = options.tensorrt_version
    sizes = preferred_batch_sizes(options, batch)
    return render(
        "hat.export.deploy",
        "config.pbtxt.jinja",
        name=name,
        backend=_BACKENDS[options.backend][0],
        batch=batch,
        images=images,
        embeddings=embeddings,
        types=TENSOR_TYPES,
        sizes=sizes,
        options=options,
        kind=kind,
        warm_up=sorted({1, *sizes}) if options.warm_up else [],
        parameters=parameters,
    )


def instance_kind(options: TritonOptions, info: ArtifactInfo) -> Literal["auto", "cpu", "gpu"]:
    """Return where the instances run.

    Raises:
        UsageError: An int8 file that was made for CPUs was asked to run on a GPU, where its layers would go back and forth.
    """
    default = _BACKENDS[options.backend][1]
    made_for_cpu = info.precision == "int8" and info.details.get("quantization", {}).get("scheme") == "cpu"
    if made_for_cpu and options.instance_kind not in (None, "cpu"):
        raise UsageError(
            f"int8 made for CPUs is slow on a GPU: leave out instance_kind={options.instance_kind}, or take backend=tensorrt"
        )
    return "cpu" if made_for_cpu else options.instance_kind or default


def _onnx_tensors(path: Path) -> list[tuple[str, str, list[int | None]]]:
    import onnx

    from hat.io.onnx_file import read_onnx

    graph = read_onnx(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    tensors = []
    for value in [*(part for part in graph.input if part.name not in weights), *graph.output]:
        kind = value.type.tensor_type
        shape = [dim.dim_value or None for dim in kind.shape.dim]
        tensors.append((value.name, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape))
    return tensors


def _openvino_tensors(path: Path) -> list[tuple[str, str, list[int | None]]]:
    model = openvino_core("describing OpenVINO files").read_model(path)
    return [
        (
            part.get_any_name(),
            str(part.get_element_type().to_dtype()),
            [None if dim.is_dynamic else dim.get_length() for dim in part.get_partial_shape()],
        )
        for part in (*model.inputs, *model.outputs)
    ]
