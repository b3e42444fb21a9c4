"""Other precisions of an adopted model: OpenVINO files in float32, float16, bfloat16, and in int8 by NNCF."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hat.errors import UsageError
from hat.io.artifact import ArtifactInfo, fingerprint
from hat.io.atomic_output import atomic_output
from hat.io.openvino_file import read_openvino_info, weights_path
from hat.runtime.openvino_core import openvino_core
from hat.runtime.openvino_runtime import read_openvino_model

from ..openvino.to_openvino import check_request, check_saved, save_openvino
from ..request import ExportRequest


def adopted_info(path: Path, target: str) -> ArtifactInfo:
    """Return the metadata of an adopted OpenVINO file that is to be exported.

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
    return info


def export_adopted(source: Path, path: Path, request: ExportRequest) -> ArtifactInfo:
    """Write an adopted model as an OpenVINO file in another precision; see `hat.export.openvino.to_openvino.export_openvino`.

    Args:
        source: The adopted file, in float32.
        path: The ``.xml`` file to write.
        request: Precision, and calibration images and options for int8.

    Returns:
        The facts that the file holds about itself.

    Raises:
        UsageError: A file is there and is not to be replaced, or what was asked for cannot be had.
        WorkError: The graph cannot be converted or quantized, or is not what was asked for.
        MissingExtraError: openvino, or nncf for int8, is not installed.
    """
    info = adopted_info(source, "openvino")
    if request.input_type != info.input_type:
        raise UsageError(f"{source} takes {info.input_type} images, and so does what is exported from it")
    check_request(path, request)
    core = openvino_core("exporting to OpenVINO")
    graph = read_openvino_model(source, info, core)
    details: dict[str, Any] = {key: value for key, value in info.details.items() if key != "weights_file_sha256"}
    if request.precision == "int8":
        from ..openvino.int8 import quantize_openvino

        graph, made = quantize_openvino(graph, request)
        details |= made
    info = replace(
        info,
        precision=request.precision,
        fingerprint=fingerprint(info.architecture, info.preprocessing, info.source_sha256, request.precision),
        details=details,
    )
    with atomic_output(path, overwrite=request.overwrite) as temporary:
        info = save_openvino(graph, info, temporary)
        check_saved(core, temporary, request, fixed_batch=info.batch is not None)
    assert weights_path(path).is_file()
    return info
