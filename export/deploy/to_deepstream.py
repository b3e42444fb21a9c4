"""DeepStream: a folder with the model, an nvinfer configuration and an NvDCF tracker configuration."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path, PurePosixPath

from hat.config import config_from_dict
from hat.errors import UsageError
from hat.io.artifact import ArtifactInfo, fingerprint, info_to_json
from hat.io.atomic_folder import FACTS_FILE, atomic_folder
from hat.model import HAT

from ..request import ExportRequest
from ..to_onnx import export_onnx
from .deepstream_config import NVINFER_MODES, DeepStreamOptions, nvinfer_config, tracker_config
from .triton_config import check_tensors

__all__ = ["NVINFER_FILE", "ONNX_FILE", "TRACKER_FILE", "export_deepstream"]

ONNX_FILE = "hat.onnx"

NVINFER_FILE = "nvinfer_reid.txt"

TRACKER_FILE = "tracker_reid.yml"


def export_deepstream(model: HAT, path: str | os.PathLike[str], request: ExportRequest | None = None) -> ArtifactInfo:
    """Write a trained model as a folder for NVIDIA DeepStream.

    The model takes float pixels in 0-255, normalizes them and gives unit vectors, since nvinfer and the tracker have one scale
    for all channels and could not. DeepStream builds the engines from it at the first start, in the precision that the
    configurations name: for ``"fp16"`` the file itself is in float32, and TensorRT chooses where it computes in halves.

    Args:
        model: The trained model; it is left as it is.
        path: The folder to write: ``hat.onnx``, ``nvinfer_reid.txt``, ``tracker_reid.yml`` and the facts, ``hat_reid.json``.
        request: ``"fp32"`` or ``"fp16"``, with ``input_type="float32"``. The largest batch of its profile is DeepStream's
            batch. Its ``options`` are those of `hat.export.deploy.deepstream_config.DeepStreamOptions`. By default fp16.

    Returns:
        The facts, with the precision that DeepStream is told to build.

    Raises:
        UsageError: The folder is there and is not to be replaced, an option is unknown, or the precision cannot be built.
        WorkError: The graph cannot be exported.
        MissingExtraError: A library for exporting is not installed.
    """
    path = Path(path).expanduser()
    request = request or ExportRequest(name=path.name, precision="fp16", input_type="float32")
    options = config_from_dict(DeepStreamOptions, request.options, where="deepstream")
    _check_request(request)
    on_target = PurePosixPath(options.folder) if options.folder is not None else PurePosixPath(path.absolute().as_posix())
    if not on_target.is_absolute() or any(character in str(on_target) for character in '"\\\n'):
        raise UsageError(
            f"the folder on the machine with DeepStream is an absolute path without quotes, got {str(on_target)!r}"
        )
    with atomic_folder(path, overwrite=request.overwrite) as folder:
        of_file = dataclasses.replace(request, precision="fp32", options={}, calibration=None, overwrite=False)
        inside = export_onnx(model, folder / ONNX_FILE, of_file)
        check_tensors(folder / ONNX_FILE, inside)
        engine = f"tracker_b{request.batch.max}_gpu{options.gpu_id}_{request.precision}.engine"
        info = dataclasses.replace(
            inside,
            precision=request.precision,
            fingerprint=fingerprint(inside.architecture, inside.preprocessing, inside.source_sha256, request.precision),
            batch=request.batch,
            details=inside.details | {"onnx": ONNX_FILE, "onnx_fingerprint": inside.fingerprint},
        )
        nvinfer = nvinfer_config(info, options, request.batch, onnx_name=ONNX_FILE)
        tracker = tracker_config(info, options, request.batch, onnx=on_target / ONNX_FILE, engine=on_target / engine)
        (folder / NVINFER_FILE).write_text(nvinfer, encoding="utf-8")
        (folder / TRACKER_FILE).write_text(tracker, encoding="utf-8")
        (folder / FACTS_FILE).write_text(info_to_json(info) + "\n", encoding="utf-8")
    return info


def _check_request(request: ExportRequest) -> None:
    if request.input_type != "float32":
        raise UsageError("DeepStream feeds floats: ask for the input type float32, got uint8")
    if request.precision not in NVINFER_MODES:
        # Without a calibration table nvinfer builds int8 as fp16 and says so in a warning alone; a quantized graph has none.
        raise UsageError(
            f"DeepStream cannot build {request.precision} from a file of this package, it would take fp16 in its place: "
            f"expected {' or '.join(NVINFER_MODES)}"
        )
