"""ONNX in every precision: the exact inference graph, with a dynamic batch and its metadata inside."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hat.errors import UsageError, WorkError
from hat.io.artifact import (
    METADATA_KEY,
    ArtifactInfo,
    ArtifactPrecision,
    fingerprint,
    info_to_json,
    tensor_contract,
    weights_sha256,
)
from hat.io.atomic_output import atomic_output
from hat.io.onnx_file import graph_precision, onnx_opset

from .onnx_source import ExportSource, OnnxSource, chosen_opset, float_graph, with_input_type, with_normalized_input
from .request import BFLOAT16_OPSET, ExportRequest

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, eq=False)
class BuiltGraph:
    """A finished ONNX model, checked, and for `ArtifactInfo.details` how it was made: calibration, layers left out."""

    proto: onnx.ModelProto
    details: dict[str, Any] = field(default_factory=dict)


def export_onnx(model: ExportSource, path: str | os.PathLike[str], request: ExportRequest | None = None) -> ArtifactInfo:
    """Write a trained model as an ONNX file.

    Args:
        model: The trained model, or an ONNX file of this package; it is left as it is.
        path: The file to write; one file with its weights inside, unless these are above 2 GB.
        request: Precision, input type, opset, calibration images; by default float32 with uint8 images. For int8 its
            ``options`` are those of `hat.export.int8.onnx_int8.QuantizationOptions`.

    Returns:
        The metadata that the file holds.

    Raises:
        UsageError: The file is there and is not to be replaced, or what was asked for cannot be had.
        WorkError: The graph cannot be exported, or is not what was asked for, or does not pass ONNX's checker.
        MissingExtraError: A library for exporting is not installed.
    """
    path = Path(path).expanduser()
    request = request or default_request(model, path.stem)
    if request.precision == "int8":
        made_for = model.scheme if isinstance(model, OnnxSource) and model.scheme else "cpu"
        request = dataclasses.replace(request, options={"scheme": made_for} | request.options)
    with atomic_output(path, overwrite=request.overwrite) as temporary:
        built = build_onnx(model, request)
        info = describe(model, request, built.details, name=path.stem)
        save_onnx(built.proto, info, temporary)
    return info


def build_onnx(model: ExportSource, request: ExportRequest) -> BuiltGraph:
    """Make the ONNX model of `export_onnx`, not written: ``images`` (batch, 3, H, W) to ``embeddings`` (batch, embed_dim).

    ``"fp16"`` and ``"bf16"`` keep norms, softmax and pixels in float32; ``"int8"`` and ``"fp8"`` take calibration images, and
    TensorRT's scheme unless the request's options say otherwise.
    """
    own = model.info.input_type if isinstance(model, OnnxSource) else None
    if own == "normalized" and request.input_type != own:
        raise UsageError(f"{model.path} takes normalized images: export the checkpoint, or a file that takes pixels")
    quantizes = request.precision in ("int8", "fp8") and not (isinstance(model, OnnxSource) and model.is_quantized)
    if own == "normalized" and quantizes:
        raise UsageError(
            f"{model.path} takes normalized images and calibration images are pixels: quantize the checkpoint, or a file that "
            "takes pixels, with --input normalized"
        )
    if isinstance(model, OnnxSource):
        asked = chosen_opset(model, request)
        if quantizes:
            from .int8.onnx_int8 import QUANTIZATION_OPSET

            asked = max(asked, QUANTIZATION_OPSET)
        if asked != model.opset and not (quantizes and asked > model.opset):
            raise UsageError(f"{model.path} has opset {model.opset} and {asked} was asked for: export the checkpoint in it")
        if asked > model.opset:
            model = model.with_opset(asked)
        request = dataclasses.replace(request, opset=asked)
    if request.input_type == "normalized" and own != "normalized":
        built = build_onnx(model, dataclasses.replace(request, input_type="float32"))
        proto = with_normalized_input(built.proto)
        check_built(proto, request)
        return BuiltGraph(proto, built.details)
    details: dict[str, Any] = {}
    if isinstance(model, OnnxSource) and model.is_quantized:
        proto = _as_quantized(model, request)
    elif quantizes:
        from .int8.onnx_int8 import quantized_graph

        proto, details = quantized_graph(model, request)
    else:
        if request.options:
            raise UsageError(f"an ONNX file in {request.precision} has no option {', '.join(sorted(request.options))}")
        if request.precision == "bf16" and request.graph_opset < BFLOAT16_OPSET:
            raise UsageError(
                f"ONNX has bfloat16 convolutions from opset {BFLOAT16_OPSET} on, got {request.graph_opset}: ask for that one"
            )
        proto = float_graph(model, request, request.precision)
    check_built(proto, request)
    return BuiltGraph(proto, {"opset": request.graph_opset} | details)


def default_request(source: object, name: str) -> ExportRequest:
    """Return what is exported where nothing else is asked for: float32 of a trained model, a file as it is."""
    return source.request() if isinstance(source, OnnxSource) else ExportRequest(name=name)


def _as_quantized(source: OnnxSource, request: ExportRequest) -> onnx.ModelProto:
    """Return the graph of a file that was quantized before."""
    options = dict(request.options)
    runs_on = {"cpu": "a CPU", "tensorrt": "TensorRT"}
    made_for, requested = runs_on.get(str(source.scheme)), runs_on.get(str(options.pop("scheme", "tensorrt")))
    if source.scheme is not None and made_for != requested:  # another project's file does not say
        raise UsageError(
            f"{source.path} was quantized for {made_for}, and {requested} computes another pattern: "
            "quantize the float32 file for it (--precision int8 --calibration-data)"
        )
    if request.precision != source.info.precision or request.calibration is not None or options:
        raise UsageError(
            f"{source.path} is quantized already ({source.info.precision}): "
            "quantize a float32 file or the checkpoint in its place"
        )
    return with_input_type(source.proto, request.input_type)


def check_built(proto: onnx.ModelProto, request: ExportRequest) -> None:
    """Read opset and precision back, and run ONNX's checker and shape inference.

    Raises:
        WorkError: They are others than were asked for, or the graph has a mistake.
    """
    import onnx

    if (opset := onnx_opset(proto)) != request.graph_opset:
        raise WorkError(f"opset {request.graph_opset} was asked for and the exporter made {opset}: ask for that one")
    built = graph_precision(proto)
    if built != request.precision:
        raise WorkError(f"{request.precision} was asked for and the graph computes in {built}")
    if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        return  # the checker reads larger models from a file alone, see save_onnx
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise WorkError(f"the exported graph does not pass ONNX's checker: {error}") from error


def describe(model: ExportSource, request: ExportRequest, details: dict[str, Any], *, name: str) -> ArtifactInfo:
    """Return the metadata of a file that is being made; that of an ONNX file of this package is carried on.

    ``name`` is for a request that gives none, ``details`` are particular to the target.
    """
    from importlib.metadata import version

    if isinstance(model, OnnxSource):
        info = in_precision(model.info, request.precision)
        return dataclasses.replace(
            info,
            name=request.name or info.name,
            input_type=request.input_type,
            versions=info.versions | {library: version(library) for library in ("hat-reid", "onnx")},
            details=info.details | details,
        )
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
        details=details,
        metrics=request.metrics,
    )


def in_precision(info: ArtifactInfo, precision: ArtifactPrecision) -> ArtifactInfo:
    """Return the metadata of the same model in another precision, which has another fingerprint."""
    if precision == info.precision:
        return info
    mark = fingerprint(info.architecture, info.preprocessing, info.source_sha256, precision)
    return dataclasses.replace(info, precision=precision, fingerprint=mark)


def save_onnx(proto: onnx.ModelProto, info: ArtifactInfo, path: Path) -> None:
    """Write a model with its metadata; weights above protobuf's 2 GB go into ``NAME.data`` beside it.

    Raises:
        WorkError: A large model does not pass ONNX's checker, which reads those from a file alone.
        OSError: It cannot be written.
    """
    import onnx

    onnx.helper.set_model_props(proto, {METADATA_KEY: info_to_json(info)})
    contract = tensor_contract(info)
    for tensor in (*proto.graph.input, *proto.graph.output):
        tensor.doc_string = contract.get(tensor.name, "")
    described = "; ".join(f"{name}: {text}" for name, text in contract.items())
    proto.doc_string = f"Person re-identification, {info.name}, {info.precision}. {described}"
    proto.producer_name, proto.producer_version = "hat-reid", info.versions["hat-reid"]
    if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        path.write_bytes(proto.SerializeToString())
        return
    onnx.save_model(proto, path, save_as_external_data=True, location=f"{path.name}.data")
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise WorkError(f"the exported graph does not pass ONNX's checker: {error}") from error
