"""ONNX in every precision: the exact inference graph, with a dynamic batch and the facts about itself inside."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hat.errors import UsageError, WorkError
from hat.io.artifact import METADATA_KEY, ArtifactInfo, ArtifactPrecision, fingerprint, info_to_json, weights_sha256
from hat.io.atomic_output import atomic_output
from hat.io.onnx_file import graph_precision, onnx_opset
from hat.model import HAT
from hat.model.inference import InferenceModel

from .graph.onnx_float16 import half_inference_model
from .graph.onnx_trace import trace_onnx
from .request import Calibration, ExportRequest

if TYPE_CHECKING:
    import onnx

__all__ = ["DEFAULT_OPSET", "BuiltGraph", "build_onnx", "describe", "export_onnx", "onnx_model", "save_onnx"]

DEFAULT_OPSET = 18
"""What every runtime of the last years reads. The exporter of torch starts here; 17 would silently become 18."""

BFLOAT16_OPSET = 22
"""Before it, ONNX's convolutions take no bfloat16."""


@dataclass(frozen=True, eq=False)
class BuiltGraph:
    """A finished ONNX model and what is worth recording of how it was made.

    Attributes:
        proto: The model, checked; its precision was read back.
        details: For `ArtifactInfo.details`: opset, calibration images, layers left out of quantization.
    """

    proto: onnx.ModelProto
    details: dict[str, Any] = field(default_factory=dict)


def export_onnx(model: HAT, path: str | os.PathLike[str], request: ExportRequest | None = None) -> ArtifactInfo:
    """Write a trained model as an ONNX file.

    Args:
        model: The trained model; it is left as it is.
        path: The file to write; one file with its weights inside, unless these are above 2 GB.
        request: Precision, input type, opset, calibration images; by default float32 with uint8 images. For int8 its
            ``options`` are those of `hat.export.int8.onnx_int8.QuantizationOptions`.

    Returns:
        The facts that the file holds about itself.

    Raises:
        UsageError: The file is there and is not to be replaced, or what was asked for cannot be had.
        WorkError: The graph cannot be exported, or is not what was asked for, or does not pass ONNX's checker.
        MissingExtraError: A library for exporting is not installed.
    """
    path = Path(path).expanduser()
    request = request or ExportRequest(name=path.stem)
    if request.precision == "int8":
        request = dataclasses.replace(request, options={"scheme": "cpu"} | request.options)
    with atomic_output(path, overwrite=request.overwrite) as temporary:
        built = build_onnx(model, request)
        info = describe(model, request, name=path.stem, details=built.details)
        save_onnx(built.proto, info, temporary)
    return info


def onnx_model(
    model: HAT,
    precision: ArtifactPrecision = "fp32",
    input_type: Literal["uint8", "float32"] = "uint8",
    opset: int = DEFAULT_OPSET,
    calibration: Calibration | None = None,
    options: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """The ONNX model of a trained model, in memory; see `build_onnx`."""
    request = ExportRequest(
        name="", precision=precision, input_type=input_type, opset=opset, calibration=calibration, options=options or {}
    )
    return build_onnx(model, request).proto


def build_onnx(model: HAT, request: ExportRequest) -> BuiltGraph:
    """Make the ONNX model of a trained model, without writing it.

    Args:
        model: The trained model; it is left as it is.
        request: ``"fp32"``; ``"fp16"`` and ``"bf16"`` with norms, softmax and pixels kept in float32; ``"int8"`` and ``"fp8"``
            with calibration images, in TensorRT's scheme unless the request's options say otherwise.

    Returns:
        The model: input ``images`` (batch, 3, H, W), output ``embeddings`` (batch, embed_dim) float32.

    Raises:
        UsageError: int8 or fp8 without calibration images, or with options that are unknown.
        WorkError: The graph cannot be exported, is of another opset or precision than was asked for, or does not pass ONNX's
            checker.
        MissingExtraError: A library for exporting is not installed.
    """
    details: dict[str, Any] = {}
    if request.precision in ("int8", "fp8"):
        from .int8.onnx_int8 import quantized_graph

        proto, details = quantized_graph(model, request)
    else:
        if request.options:
            raise UsageError(f"an ONNX file in {request.precision} has no option {', '.join(sorted(request.options))}")
        if request.precision == "bf16" and request.opset < BFLOAT16_OPSET:
            raise UsageError(
                f"ONNX has bfloat16 convolutions from opset {BFLOAT16_OPSET} on, got {request.opset}: ask for that one"
            )
        proto = trace_onnx(inference_module(model, request.precision), opset=request.opset, input_type=request.input_type)
    check_built(proto, request)
    return BuiltGraph(proto, details)


def inference_module(model: HAT, precision: ArtifactPrecision) -> InferenceModel:
    """The module that is traced for a floating-point precision."""
    if precision == "fp16":
        return half_inference_model(model, torch.float16)
    if precision == "bf16":
        return half_inference_model(model, torch.bfloat16)
    return InferenceModel(model).cpu()


def check_built(proto: onnx.ModelProto, request: ExportRequest) -> None:
    """Read back what was really made.

    Raises:
        WorkError: The opset or the precision is another one, or the checker or the shape inference of ONNX finds a mistake.
    """
    import onnx

    if onnx_opset(proto) != request.opset:
        raise WorkError(f"opset {request.opset} was asked for and the exporter made {onnx_opset(proto)}: ask for that one")
    built = graph_precision(proto)
    if built != request.precision:
        raise WorkError(f"{request.precision} was asked for and the graph computes in {built}")
    if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        return  # the checker reads larger models from a file alone, see save_onnx
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise WorkError(f"the exported graph does not pass ONNX's checker: {error}") from error


def describe(model: HAT, request: ExportRequest, *, name: str, details: dict[str, Any] | None = None) -> ArtifactInfo:
    """The facts about a file that is being made from a trained model.

    Args:
        model: The trained model.
        request: What was asked for.
        name: What to call the model where the request gives no name.
        details: What is particular to the target.
    """
    from importlib.metadata import version

    source = weights_sha256(model)
    return ArtifactInfo(
        name=request.name or name,
        model=model.config,
        preprocessing=model.preprocessing,
        embed_dim=model.embed_dim,
        precision=request.precision,
        input_type=request.input_type,
        source_sha256=source,
        fingerprint=fingerprint(model.config, model.preprocessing, source, request.precision),
        versions={library: version(library) for library in ("hat-reid", "torch", "onnx")},
        details={"opset": request.opset} | (details or {}),
        metrics=request.metrics,
    )


def save_onnx(proto: onnx.ModelProto, info: ArtifactInfo, path: Path) -> None:
    """Write a model with the facts about itself; weights above protobuf's 2 GB go into ``NAME.data`` beside it.

    Raises:
        WorkError: A large model does not pass ONNX's checker, which reads those from a file alone.
        OSError: It cannot be written.
    """
    import onnx

    onnx.helper.set_model_props(proto, {METADATA_KEY: info_to_json(info)})
    proto.producer_name, proto.producer_version = "hat-reid", info.versions["hat-reid"]
    if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        path.write_bytes(proto.SerializeToString())
        return
    onnx.save_model(proto, path, save_as_external_data=True, location=f"{path.name}.data")
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise WorkError(f"the exported graph does not pass ONNX's checker: {error}") from error
