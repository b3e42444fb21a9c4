"""Triton: a model repository with a model's file and its ``config.pbtxt``, in protobuf's text format."""

import dataclasses
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from hat.config import config_dataclass
from hat.errors import UsageError, WorkError
from hat.io.artifact import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ArtifactInfo, BatchProfile, info_to_json
from hat.io.atomic_output import METADATA_FILE, atomic_folder
from hat.io.onnx_file import read_onnx
from hat.runtime.openvino_runtime import openvino_core
from hat.runtime.tensorrt.library import load_tensorrt

from ..onnx_source import ExportSource, OnnxSource
from ..request import ExportRequest, export_function
from ..to_onnx import default_request
from . import triton_model


class _Backend(NamedTuple):
    """Triton backend of an exported file."""

    name: str
    kind: Literal["auto", "cpu", "gpu"]  # where, when nothing was said
    target: str  # of `hat export`, which makes the file
    file: str  # its name in the folder of a version


_BACKENDS = {
    "onnx": _Backend("onnxruntime", "auto", "onnx", "model.onnx"),
    "tensorrt": _Backend("tensorrt", "gpu", "tensorrt", "model.plan"),
    "openvino": _Backend("openvino", "cpu", "openvino", "model.xml"),
    "python-onnx": _Backend("python", "cpu", "onnx", "model.onnx"),
    "python-openvino": _Backend("python", "cpu", "openvino", "model.xml"),
}


@config_dataclass
class TritonOptions:
    """Options of an export to Triton."""

    backend: Literal["onnx", "tensorrt", "openvino", "python-onnx", "python-openvino"] = "onnx"
    """Kind of the file, and the Triton backend that runs it. The two of ``python-`` run in Triton's Python backend, which every
    Triton has, with the onnxruntime or openvino of its Python; OpenVINO then computes as the file says, or refuses it."""

    model_name: str | None = None
    """Name of the model in Triton; None makes it from the name of the export."""

    version: int = Field(default=1, ge=1)
    """The model's version: the folder that the file is in, and the only one. What Triton tells of a model holds for all of its
    versions, so that another model takes its place as a whole, or has a name of its own."""

    preferred_batch_sizes: list[int] | None = None
    """Batch sizes that Triton waits for; None takes the optimum and the maximum of the batch profile."""

    max_queue_delay_us: int = Field(default=1000, ge=0)
    """Longest time that a request waits for others to share a batch with, in microseconds."""

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
    """Device of the instances; None is the GPU for TensorRT, Triton's choice for ONNX, the processor otherwise."""


def export_triton(model: ExportSource, path: str | os.PathLike[str], request: ExportRequest | None = None) -> ArtifactInfo:
    """Put a trained model, or an ONNX file as it is, into a Triton model repository, which may be new or hold other models.

    The batch profile gives Triton's largest and preferred batches. The request's ``options`` are those of `TritonOptions`, and
    any others those of the file inside, whose metadata is returned.
    """
    path = Path(path).expanduser()
    request = request or default_request(model, path.stem)
    options, of_file = request.take_options(TritonOptions, "triton")  # the file's own target checks the others
    if isinstance(model, OnnxSource):
        model.check_any_batch("Triton")
    _check_request(request, options)
    name = _triton_name(options, request.name)
    made_here = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be a model repository: {error.strerror or error}") from None
    try:
        with atomic_folder(path / name, overwrite=request.overwrite) as folder:
            version = folder / str(options.version)
            version.mkdir()
            backend = _BACKENDS[options.backend]
            file = version / backend.file
            inner = dataclasses.replace(request, overwrite=False, options=of_file)
            info = export_function(backend.target)(model, file, inner)
            if options.backend != "tensorrt":  # an engine was read back by its own export
                check_tensors(file, info)
            elif info.batch is not None and info.batch.max != request.batch.max:
                raise WorkError(f"the engine takes {info.batch.max} images and Triton would send {request.batch.max}")
            if backend.name == "python":
                shutil.copyfile(str(triton_model.__file__), version / "model.py")
            (folder / "config.pbtxt").write_text(config_pbtxt(info, options, request.batch, name=name), encoding="ascii")
            (folder / METADATA_FILE).write_text(info_to_json(info) + "\n", encoding="utf-8")
    except BaseException:
        if made_here:
            with suppress(OSError):  # somebody else has put a model there meanwhile
                path.rmdir()
        raise
    return info


def _check_request(request: ExportRequest, options: TritonOptions) -> None:
    """Refuse what Triton cannot be held to before the minutes that the file takes."""
    if request.input_type == "normalized":
        raise UsageError("normalized images are for trackers that open ONNX files: Triton takes uint8 or float32")
    _preferred_batch_sizes(options, request.batch)
    if options.backend == "openvino":
        # The backend has a setting to compute in bfloat16 and none not to.
        precision = request.options.get("float_precision", "fp32") if request.precision == "int8" else request.precision
        if precision != "bf16":
            raise UsageError(
                f"Triton's OpenVINO backend cannot be held to {precision}, it takes bfloat16 where the processor has it: ask "
                "for bf16 (for int8 the option float_precision=bf16), or for backend=python-openvino, which computes as the "
                "file says"
            )
    if options.backend == "tensorrt":
        # An engine of another TensorRT fails only when Triton loads it.
        if options.instance_kind == "cpu":
            raise UsageError("TensorRT runs on GPUs alone: instance_kind is gpu or auto")
        if options.tensorrt_version is None:
            raise UsageError(
                "backend=tensorrt needs tensorrt_version=..., that of Triton's container (dpkg -l libnvinfer10 in it tells): "
                "an engine opens with no other"
            )
        building = load_tensorrt("tensorrt").version
        if building.split(".")[:3] != options.tensorrt_version.split(".")[:3]:
            raise UsageError(
                f"TensorRT {building} would build the engine and Triton would open it with {options.tensorrt_version}: "
                "export inside the container, or install its version"
            )


def _triton_name(options: TritonOptions, name: str) -> str:
    """Return what Triton calls the model: also a folder's name and part of URLs."""
    if options.model_name is None:
        return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "hat"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", options.model_name):
        raise UsageError(f"a model's name in Triton is made of letters, digits and _ . - alone, got {options.model_name!r}")
    return options.model_name


def _preferred_batch_sizes(options: TritonOptions, batch: BatchProfile) -> list[int]:
    """Return the batch sizes that Triton waits for."""
    if batch.min != 1:
        raise UsageError(f"Triton may send a single image at any time: the batch profile must begin at 1, got {batch.min}")
    sizes = [batch.opt, batch.max] if options.preferred_batch_sizes is None else options.preferred_batch_sizes
    if any(not 1 <= size <= batch.max for size in sizes):
        raise UsageError(f"preferred batch sizes are from 1 to {batch.max}, the maximum of the batch profile, got {sizes}")
    return sorted(set(sizes))


class _Tensor(NamedTuple):
    """An input or output as a file has it; None stands for any size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def _expected_tensors(info: ArtifactInfo) -> list[_Tensor]:
    """Return input and output of a model by its metadata."""
    images = _Tensor(INPUT_NAME, info.input_type, (None, 3, *info.preprocessing.size))
    return [images, _Tensor(OUTPUT_NAME, "float32", (None, info.embed_dim))]


def check_tensors(path: Path, info: ArtifactInfo) -> None:
    """Raise `WorkError` where name, type or size of a ``.onnx`` or ``.xml`` file's tensors differ from the configuration."""
    tensors = _onnx_tensors(path) if path.suffix == ".onnx" else _openvino_tensors(path)
    if tensors != (expected := _expected_tensors(info)):
        raise WorkError(f"{path.name} has {tensors} and Triton's configuration would say {expected}")


def _onnx_tensors(path: Path) -> list[_Tensor]:
    import onnx

    graph = read_onnx(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    tensors = []
    for value in [*(part for part in graph.input if part.name not in weights), *graph.output]:
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value or None for dim in kind.shape.dim)
        tensors.append(_Tensor(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape))
    return tensors


def _openvino_tensors(path: Path) -> list[_Tensor]:
    model = openvino_core("describing OpenVINO files").read_model(path)
    tensors = []
    for part in (*model.inputs, *model.outputs):
        shape = tuple(None if dim.is_dynamic else dim.get_length() for dim in part.get_partial_shape())
        tensors.append(_Tensor(part.get_any_name(), str(part.get_element_type().to_dtype()), shape))
    return tensors


def config_pbtxt(info: ArtifactInfo, options: TritonOptions, batch: BatchProfile, *, name: str) -> str:
    """Return the text of ``config.pbtxt``; the model's metadata goes into ``parameters``, where a client can ask for it."""
    images, embeddings = _expected_tensors(info)
    kind = instance_kind(options, info)
    parameters = {METADATA_KEY: info_to_json(info)}
    if options.backend == "openvino":
        # The backend gives the graph a fixed batch, the largest, and fills smaller ones up only with this setting.
        parameters |= {"ENABLE_BATCH_PADDING": "YES", "HINT_BF16": "YES"}
    if options.backend == "onnx" and kind != "cpu":
        # By default cuDNN tries every algorithm at each new batch size, and dynamic batching has new ones all the time (1 is
        # heuristic); and the arena doubles (1 is as requested).
        parameters |= {"cudnn_conv_algo_search": "1", "arena_extend_strategy": "1"}
    if options.tensorrt_version is not None:
        parameters["tensorrt_version"] = options.tensorrt_version
    sizes = _preferred_batch_sizes(options, batch)
    return render(
        "config.pbtxt.jinja",
        name=name,
        backend=_BACKENDS[options.backend].name,
        batch=batch,
        images=images,
        embeddings=embeddings,
        types={"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"},
        sizes=sizes,
        options=options,
        kind=f"KIND_{kind.upper()}",
        warm_up=sorted({1, *sizes}) if options.warm_up else [],
        parameters=parameters,
    )


def instance_kind(options: TritonOptions, info: ArtifactInfo) -> Literal["auto", "cpu", "gpu"]:
    """Return where the instances run; an int8 file made for CPUs, whose layers would go back and forth, never on a GPU."""
    made_for_cpu = info.precision == "int8" and info.details.get("quantization", {}).get("scheme") == "cpu"
    if made_for_cpu and options.instance_kind not in (None, "cpu"):
        raise UsageError(
            f"int8 made for CPUs is slow on a GPU: leave out instance_kind={options.instance_kind}, or take backend=tensorrt"
        )
    return "cpu" if made_for_cpu else options.instance_kind or _BACKENDS[options.backend].kind


def render(template: str, **values: Any) -> str:
    """Return a template of this room with its values; a value that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hat.export.deploy"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # A string of protobuf's text format, for ASCII on one line.
    environment.filters["quoted"] = lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return environment.get_template(template).render(values)
