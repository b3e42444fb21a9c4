"""Triton: a model repository with a model's file and its ``config.pbtxt``."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hat.config import config_from_dict
from hat.errors import UsageError, WorkError
from hat.io.artifact import ArtifactInfo, info_to_json
from hat.io.atomic_output import FACTS_FILE, atomic_folder
from hat.runtime.tensorrt.library import load_tensorrt

from ..onnx_source import ExportSource
from ..request import ExportRequest
from ..to_onnx import default_request
from . import triton_model
from .triton_config import TritonOptions, check_tensors, config_pbtxt, preferred_batch_sizes, triton_name

_FILES = {
    "onnx": "model.onnx",
    "tensorrt": "model.plan",
    "openvino": "model.xml",
    "python-onnx": "model.onnx",
    "python-openvino": "model.xml",
}
"""What Triton's backends look for in a version's folder."""


def export_triton(model: ExportSource, path: str | os.PathLike[str], request: ExportRequest | None = None) -> ArtifactInfo:
    """Put a trained model into a Triton model repository.

    Args:
        model: The trained model, or an ONNX file of this package; it is left as it is.
        path: The repository, a folder; it is made where it is missing, and may hold other models.
        request: As for the file inside. Its batch profile gives Triton's largest and preferred batches. Its ``options`` are
            those of `hat.export.deploy.triton_config.TritonOptions`, and any others those of the file inside.

    Returns:
        The facts that the file inside holds about itself.

    Raises:
        UsageError: The model is there and is not to be replaced, an option is unknown, or the backend cannot run the precision.
        WorkError: The file cannot be made, or is not what Triton would be told.
        MissingExtraError: A library for exporting is not installed.
    """
    path = Path(path).expanduser()
    request = request or default_request(model, path.stem)
    options, of_file = _split_options(request.options)
    if request.input_type == "normalized":
        raise UsageError("normalized images are for trackers that open ONNX files: Triton takes uint8 or float32")
    if options.backend == "openvino":
        _check_openvino_precision(request)
    if options.backend == "tensorrt":
        _check_tensorrt(options)
    preferred_batch_sizes(options, request.batch)  # refused before the minutes that the file takes
    name = triton_name(options, request.name)
    made_here = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be a model repository: {error.strerror or error}") from None
    try:
        with atomic_folder(path / name, overwrite=request.overwrite) as folder:
            version = folder / str(options.version)
            version.mkdir()
            inner = dataclasses.replace(request, overwrite=False, options=of_file)
            file = version / _FILES[options.backend]
            info = _export_file(model, file, inner, options)
            if file.suffix != ".plan":  # an engine was read back by its own export
                check_tensors(file, info)
            if options.backend.startswith("python-"):
                shutil.copyfile(str(triton_model.__file__), version / "model.py")
            (folder / "config.pbtxt").write_text(config_pbtxt(info, options, request.batch, name=name), encoding="ascii")
            (folder / FACTS_FILE).write_text(info_to_json(info) + "\n", encoding="utf-8")
    except BaseException:
        if made_here and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        raise
    return info


def _split_options(given: Mapping[str, Any]) -> tuple[TritonOptions, dict[str, Any]]:
    """Return the options that are Triton's, and those of the file inside, which checks them itself."""
    names = {field.name for field in dataclasses.fields(TritonOptions)}
    own = {name: value for name, value in given.items() if name in names}
    return config_from_dict(TritonOptions, own, where="triton"), {key: value for key, value in given.items() if key not in own}


def _check_openvino_precision(request: ExportRequest) -> None:
    """Check the precision: Triton's OpenVINO backend can be told to compute in bfloat16 and cannot be told not to.

    Raises:
        UsageError: A file in another precision would be computed in bfloat16 on some processors, without a word.
    """
    precision = request.options.get("float_precision", "fp32") if request.precision == "int8" else request.precision
    if precision != "bf16":
        raise UsageError(
            f"Triton's OpenVINO backend cannot be held to {precision}, it takes bfloat16 where the processor has it: ask for "
            "bf16 (for int8 the option float_precision=bf16), or for backend=python-openvino, which computes as the file says"
        )


def _check_tensorrt(options: TritonOptions) -> None:
    """Check that the TensorRT that builds an engine is the one that opens it: another one fails only when Triton loads it.

    Raises:
        UsageError: The container's version was not said, is not the one that builds here, or instances were asked for on a CPU.
    """
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


def _export_file(model: ExportSource, file: Path, request: ExportRequest, options: TritonOptions) -> ArtifactInfo:
    if file.suffix == ".onnx":
        from ..to_onnx import export_onnx

        return export_onnx(model, file, request)
    if file.suffix == ".xml":
        from ..openvino.to_openvino import export_openvino

        return export_openvino(model, file, request)
    from ..tensorrt.to_tensorrt import export_tensorrt

    info = export_tensorrt(model, file, request)
    if info.batch is not None and info.batch.max != request.batch.max:
        raise WorkError(f"the engine takes {info.batch.max} images and Triton would send {request.batch.max}")
    return info
