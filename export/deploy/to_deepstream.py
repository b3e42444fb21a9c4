"""DeepStream: a folder with the model, its engine, and what tells nvinfer or the NvDCF tracker of them."""

import dataclasses
import os
from pathlib import Path, PurePosixPath

from hat.config import config_from_dict
from hat.errors import UsageError
from hat.io.artifact import ArtifactInfo, info_to_json
from hat.io.atomic_output import FACTS_FILE, atomic_folder

from ..onnx_source import ExportSource, OnnxSource
from ..request import ExportRequest
from ..to_onnx import export_onnx
from .deepstream_config import NVINFER_MODES, DeepStreamOptions, nvinfer_config, read_embeddings, tracker_config
from .triton_config import check_tensors

ONNX_FILE = "hat.onnx"

ENGINE_FILE = "hat.engine"

NVINFER_FILE = "nvinfer_reid.txt"

TRACKER_FILE = "tracker_reid.yml"

READER_FILE = "read_embeddings.py"


def export_deepstream(model: ExportSource, path: str | os.PathLike[str], request: ExportRequest | None = None) -> ArtifactInfo:
    """Write a trained model as a folder for NVIDIA DeepStream.

    The model takes float pixels in 0-255, normalizes them and gives unit vectors, since nvinfer and the tracker have one scale
    for all channels and could not. Its precision is in the graph, so that an engine that `hat export` builds of it is strongly
    typed and can be proven by `hat verify`: that one is used first. Where it is missing DeepStream builds one of its own at the
    first start, where TensorRT chooses which layers compute in halves.

    Args:
        model: The trained model, or an ONNX file of this package; it is left as it is.
        path: The folder to write: ``hat.onnx``, the configuration of the element that embeds people, the metadata
            ``hat_reid.json``, for nvinfer lines that read the embeddings, and ``hat.engine`` where it was asked for.
        request: ``"fp32"`` or ``"fp16"``, with ``input_type="float32"``. The largest batch of its profile is DeepStream's
            batch. Its ``options`` are those of `hat.export.deploy.deepstream_config.DeepStreamOptions`. By default fp16 of a
            trained model, and an ONNX file's own precision.

    Returns:
        The metadata.

    Raises:
        UsageError: The folder is there and is not to be replaced, an option is unknown, or the precision cannot be built.
        WorkError: The graph cannot be exported, or its engine not be built.
        MissingExtraError: A library for exporting is not installed.
    """
    path = Path(path).expanduser()
    if request is None and isinstance(model, OnnxSource):
        request = model.request(input_type="float32")
    request = request or ExportRequest(name=path.name, precision="fp16", input_type="float32")
    options = config_from_dict(DeepStreamOptions, request.options, where="deepstream")
    _check_request(request)
    on_target = PurePosixPath(options.folder) if options.folder is not None else PurePosixPath(path.absolute().as_posix())
    if not on_target.is_absolute() or any(character in str(on_target) for character in '"\\\n'):
        raise UsageError(
            f"the folder on the machine with DeepStream is an absolute path without quotes, got {str(on_target)!r}"
        )
    with atomic_folder(path, overwrite=request.overwrite) as folder:
        of_file = dataclasses.replace(request, options={}, calibration=None, overwrite=False)
        info = export_onnx(model, folder / ONNX_FILE, of_file)
        check_tensors(folder / ONNX_FILE, info)
        if options.engine:
            from ..tensorrt.builder import build_engine

            build_engine(folder / ONNX_FILE, folder / ENGINE_FILE, profile=request.batch)
        info = dataclasses.replace(info, batch=request.batch, details=info.details | {"onnx": ONNX_FILE, "engine": ENGINE_FILE})
        texts = {FACTS_FILE: info_to_json(info) + "\n"}
        if options.element in ("nvinfer", "both"):
            texts[NVINFER_FILE] = nvinfer_config(info, options, request.batch, onnx=ONNX_FILE, engine=ENGINE_FILE)
            texts[READER_FILE] = read_embeddings(info, options, request.batch)
        if options.element in ("tracker", "both"):
            places = {"onnx": on_target / ONNX_FILE, "engine": on_target / ENGINE_FILE}
            texts[TRACKER_FILE] = tracker_config(info, options, request.batch, **places)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
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
