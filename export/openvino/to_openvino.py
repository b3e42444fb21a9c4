"""OpenVINO: a graph (``.xml``) and its weights (``.bin``), with its metadata in the graph's ``rt_info``."""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hat.errors import CheckpointError, UsageError, WorkError, last_line
from hat.io.artifact import METADATA_KEY, ArtifactInfo, file_sha256, info_to_json
from hat.io.atomic_output import atomic_output, check_output
from hat.io.openvino_file import read_openvino_info, stored_as, weights_path
from hat.runtime.openvino_runtime import openvino_core, read_openvino_model

from ..onnx_source import ExportSource, OnnxSource
from ..request import ExportRequest
from ..to_onnx import build_onnx, default_request, describe, in_precision, save_onnx
from .int8 import check_quantization, keep_in_float32, quantize_openvino

if TYPE_CHECKING:
    import onnx
    import openvino


PRECISIONS = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class AdoptedFile:
    """An adopted OpenVINO file in float32, of which other precisions are made."""

    path: Path
    info: ArtifactInfo


def open_adopted(path: Path, target: str) -> AdoptedFile:
    """Read the metadata of an adopted OpenVINO file that is to be exported.

    Raises:
        UsageError: It is a file of a HAT, computes in another precision than float32, or cannot become what was asked for.
        CheckpointError: It cannot be read, or was not adopted yet.
    """
    info = read_openvino_info(path)
    if info.adopted is None:
        raise UsageError(f"{path} is an exported file already: export the checkpoint that it was made from")
    if target != "openvino":
        raise UsageError(f"{path} is an adopted model and can be exported to openvino alone, got {target}")
    if info.precision != "fp32":
        raise UsageError(f"{path} computes in {info.precision}: other precisions are made from a file in fp32")
    return AdoptedFile(path, info)


def export_openvino(
    model: ExportSource | AdoptedFile, path: str | os.PathLike[str], request: ExportRequest | None = None
) -> ArtifactInfo:
    """Write a trained model, an ONNX file of this package or an adopted OpenVINO file as an OpenVINO file.

    It is made from the ONNX graph, not from PyTorch: so it is the very graph that all other targets have and that ONNX's
    checker passed, its layers have names that a list of exceptions can use, and height and width are fixed. (Converted from
    PyTorch, OpenVINO forgets the name of the output and takes height and width for unknown.)

    What a precision is:

    - ``"fp32"``: weights and computation in float32;
    - ``"bf16"``: weights in float16, which is finer than bfloat16; the file asks its runtime to compute in bfloat16;
    - ``"fp16"``: weights in float16. Most processors compute it in float32 all the same: it halves the file, not the time. What
      can, computes the layers in float16, and pixels, necks and L2 norm in float32;
    - ``"int8"``: convolutions and linear layers in int8 with the ranges of the calibration images; see
      `hat.export.openvino.int8.OpenVINOQuantization` for the options.

    The weights go into a ``.bin`` beside the ``.xml``. The request's batch profile has no effect: every size runs.

    Raises:
        UsageError: A file is there and is not to be replaced, or what was asked for cannot be had.
        WorkError: The graph cannot be exported, or is not what was asked for.
        MissingExtraError: openvino, or nncf for int8, is not installed.
    """
    path = Path(path).expanduser()
    request = request or default_request(model, path.stem)
    if isinstance(model, OnnxSource) and model.is_quantized:
        raise UsageError(
            f"{model.path} is in {model.info.precision}: OpenVINO's int8 is made from a float32 file "
            "(--precision int8 --calibration-data)"
        )
    if isinstance(model, AdoptedFile) and request.input_type != model.info.input_type:
        raise UsageError(f"{model.path} takes {model.info.input_type} images, and so does what is exported from it")
    check_request(path, request)
    core = openvino_core("exporting to OpenVINO")
    with atomic_output(path, overwrite=request.overwrite) as temporary:
        if isinstance(model, AdoptedFile):
            graph, info = read_openvino_model(model.path, model.info, core), in_precision(model.info, request.precision)
        else:
            built = build_onnx(model, replace(request, precision="fp32", calibration=None, options={}))
            info = describe(model, request, built.details, name=path.stem)
            graph = _convert(built.proto, info)
        if request.precision == "int8":
            graph, details = quantize_openvino(graph, request)
            info = replace(info, details=info.details | details)
        info = save_openvino(graph, info, temporary)
        check_saved(core, temporary, request, fixed_batch=info.batch is not None)
    return info


def check_request(path: Path, request: ExportRequest) -> None:
    """Refuse what cannot be had before the minutes that making it takes.

    Raises:
        UsageError: A precision, a name or an option that OpenVINO files do not have, or a file is there already.
    """
    if request.precision not in PRECISIONS:
        raise UsageError(f"OpenVINO has no {request.precision}: expected {', '.join(PRECISIONS)}")
    if request.input_type == "normalized":
        raise UsageError("normalized images are for trackers that open ONNX files: OpenVINO takes uint8 or float32")
    if path.suffix != ".xml":
        raise UsageError(f"{path}: an OpenVINO file ends in .xml; its weights go into a .bin beside it")
    check_output(weights_path(path), overwrite=request.overwrite)
    if request.precision == "int8":
        check_quantization(request)
    elif request.options:
        raise UsageError(f"an OpenVINO file in {request.precision} has no option {', '.join(sorted(request.options))}")


def _convert(proto: onnx.ModelProto, info: ArtifactInfo) -> openvino.Model:
    """Return a float32 graph in OpenVINO's operations, by way of an ONNX file that is not kept."""
    import openvino

    with tempfile.TemporaryDirectory(prefix="hat-openvino-") as folder:
        file = Path(folder) / "model.onnx"
        save_onnx(proto, info, file)
        try:
            return openvino.convert_model(file)
        except (RuntimeError, ValueError) as error:
            raise WorkError(f"OpenVINO cannot convert the graph: {error}") from error


def save_openvino(graph: openvino.Model, info: ArtifactInfo, path: Path) -> ArtifactInfo:
    """Write a graph with its metadata, among it the hash of its weights, which exist once they are written.

    A word of the hash's length stands in the ``.xml`` for it until then, so that the weights are written once.
    """
    import openvino

    versions = info.versions | {"openvino": str(openvino.get_version())}
    if info.precision == "int8":
        from importlib.metadata import version

        versions["nncf"] = version("nncf")
    if info.precision == "fp16":
        keep_in_float32(graph)
    awaited = secrets.token_hex(32)
    info = replace(info, versions=versions, details=info.details | {"weights_file_sha256": awaited})
    graph.set_rt_info(info_to_json(info), [METADATA_KEY])
    try:
        openvino.save_model(graph, path, compress_to_fp16=info.precision in ("fp16", "bf16"))
    except RuntimeError as error:
        raise WorkError(f"OpenVINO cannot write {path.name}: {last_line(error)}") from error
    digest = file_sha256(weights_path(path))
    content = path.read_bytes()
    if content.count(awaited.encode()) != 1:
        raise WorkError(f"OpenVINO did not write the metadata into {path.name}")
    path.write_bytes(content.replace(awaited.encode(), digest.encode()))
    return replace(info, details=info.details | {"weights_file_sha256": digest})


def check_saved(core: openvino.Core, path: Path, request: ExportRequest, *, fixed_batch: bool) -> None:
    """Read the file back and compare its types and its batch with what was asked for.

    Raises:
        WorkError: They are others.
    """
    written = core.read_model(path, weights_path(path))
    try:
        built = stored_as(written)
    except CheckpointError as error:
        raise WorkError(f"{request.precision} was asked for: {error}") from None
    if built != ("fp16" if request.precision == "bf16" else request.precision):
        raise WorkError(f"{request.precision} was asked for and the weights are stored in {built}")
    if not fixed_batch and not written.inputs[0].get_partial_shape()[0].is_dynamic:
        raise WorkError("the graph has lost its dynamic batch")
