"""DeepStream: a folder with the model, its engine, and what tells nvinfer or the NvDCF tracker of them."""

import dataclasses
import os
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from hat.config import config_dataclass, config_from_dict
from hat.errors import UsageError
from hat.io.artifact import ArtifactInfo, info_to_json
from hat.io.atomic_output import METADATA_FILE, atomic_folder

from ..onnx_source import ExportSource, OnnxSource
from ..request import ExportRequest
from ..to_onnx import export_onnx
from .triton import check_tensors, render

ONNX_FILE = "hat.onnx"
ENGINE_FILE = "hat.engine"
NVINFER_FILE = "nvinfer_reid.txt"
TRACKER_FILE = "tracker_reid.yml"
READER_FILE = "read_embeddings.py"

_MODES = {"fp32": (0, 0), "fp16": (2, 1)}
"""``network-mode`` of nvinfer, where 1 is int8, and ``networkMode`` of the tracker, where 2 is."""

_HISTORY_BYTES = 32_000_000
"""Limit of a stream's past embeddings in the tracker: 100 of 4,096 numbers for each of 150 people would be 245 MB."""


@config_dataclass
class DeepStreamOptions:
    """Options of an export to DeepStream."""

    element: Literal["nvinfer", "tracker", "both"] = "nvinfer"
    """Element that embeds people: nvinfer, every detected person in every frame; or the NvDCF tracker, the people it follows,
    every few frames. With both, everybody is embedded twice."""

    engine: bool = False
    """Build the engine too: this machine has the GPU and the TensorRT that DeepStream is going to run with."""

    folder: str | None = None
    """Absolute path of the exported folder on the machine with DeepStream; None: where it is exported to. The
    tracker wants absolute paths."""

    gpu_id: int = Field(default=0, ge=0)
    """The GPU."""

    gie_id: int = Field(default=2, ge=1)
    """Number of the embedding stage among the stages of the pipeline."""

    detector_gie_id: int = Field(default=1, ge=1)
    """Number of the stage that detects people."""

    person_class_id: int = Field(default=0, ge=0)
    """The detector's class for people."""

    min_width: int = Field(default=16, ge=1)
    """Narrower detections are not embedded, in pixels of the stream."""

    min_height: int = Field(default=32, ge=1)
    """Lower detections are not embedded, in pixels of the stream."""

    history_size: int | None = Field(default=None, ge=1)
    """Embeddings that the tracker keeps of a person; None is as many as 32 MB a stream hold, 100 at the most."""

    min_similarity: float = Field(default=0.5, ge=0, le=1)
    """Smallest cosine at which the tracker takes a new track for a person that it had lost."""

    max_targets: int = Field(default=150, ge=1)
    """People that the tracker follows in a stream at a time."""

    workspace_mb: int = Field(default=1000, ge=1)
    """Memory for building the engine, in MB."""


def export_deepstream(model: ExportSource, path: str | os.PathLike[str], request: ExportRequest | None = None) -> ArtifactInfo:
    """Write a trained model, or an ONNX file as it is, as a folder for NVIDIA DeepStream; return its metadata.

    In the folder are ``hat.onnx``, the configuration of the element that embeds people, the metadata ``hat_reid.json``, for
    nvinfer lines that read the embeddings, and ``hat.engine`` where it was asked for.

    The model takes float pixels in 0-255, normalizes them and gives unit vectors, since nvinfer and the tracker have one scale
    for all channels and could not. Its precision, fp32 or fp16 (the default of a trained model), is in the graph, so that an
    engine that `hat export` builds of it is strongly typed and can be proven by `hat verify`: that one is used first. Where it
    is missing DeepStream builds one of its own at the first start, where TensorRT chooses which layers compute in halves. The
    largest batch of the profile is DeepStream's batch; ``options`` are those of `DeepStreamOptions`.
    """
    path = Path(path).expanduser()
    if request is None and isinstance(model, OnnxSource):
        request = model.request(input_type="float32")
    request = request or ExportRequest(name=path.name, precision="fp16", input_type="float32")
    options = config_from_dict(DeepStreamOptions, request.options, where="deepstream")
    if isinstance(model, OnnxSource):
        model.check_any_batch("DeepStream")
    if request.input_type != "float32":
        raise UsageError("DeepStream feeds floats: ask for the input type float32, got uint8")
    if request.precision not in _MODES:
        # Without a calibration table nvinfer builds int8 as fp16 and says so in a warning alone; a quantized graph has none.
        raise UsageError(
            f"DeepStream cannot build {request.precision} from a file of this package, it would take fp16 in its place: "
            f"expected {' or '.join(_MODES)}"
        )
    on_target = PurePosixPath(options.folder) if options.folder is not None else PurePosixPath(path.absolute().as_posix())
    if not on_target.is_absolute() or any(character in str(on_target) for character in '"\\\n'):
        raise UsageError(
            f"the folder on the machine with DeepStream is an absolute path without quotes, got {str(on_target)!r}"
        )
    if request.batch.min != 1:
        raise UsageError(f"DeepStream may send a single image: the batch profile must begin at 1, got {request.batch.min}")
    device = request.device or f"cuda:{options.gpu_id}"
    if options.engine and device.rpartition(":")[2] != str(options.gpu_id):
        raise UsageError(f"the engine would be built on {device} and run on gpu_id={options.gpu_id}: name one GPU")
    with atomic_folder(path, overwrite=request.overwrite) as folder:
        of_file = dataclasses.replace(request, options={}, calibration=None, overwrite=False)
        info = export_onnx(model, folder / ONNX_FILE, of_file)
        check_tensors(folder / ONNX_FILE, info)
        if options.engine:
            from ..tensorrt.builder import build_engine

            build_engine(folder / ONNX_FILE, folder / ENGINE_FILE, profile=request.batch, device=device)
        info = dataclasses.replace(info, batch=request.batch, details=info.details | {"onnx": ONNX_FILE, "engine": ENGINE_FILE})
        for name, text in _texts(info, options, on_target).items():
            (folder / name).write_text(text, encoding="utf-8")
    return info


def _texts(info: ArtifactInfo, options: DeepStreamOptions, on_target: PurePosixPath) -> dict[str, str]:
    """Return the folder's texts by their names; paths of the tracker's are those on the machine with DeepStream."""
    title = f"{' '.join(info.name.split())} ({info.precision}, {info.embed_dim} numbers), fingerprint {info.fingerprint[:16]}"
    height, width = info.preprocessing.size
    kept = history_size(info, options)
    values = {"info": info, "options": options, "batch": info.batch, "height": height, "width": width, "title": title}
    values |= {"history_size": kept, "history_mb": round(4 * info.embed_dim * kept * options.max_targets / 1e6)}
    nvinfer_mode, tracker_mode = _MODES[info.precision]
    texts = {METADATA_FILE: info_to_json(info) + "\n"}
    if options.element in ("nvinfer", "both"):
        own = {"mode": nvinfer_mode, "onnx": ONNX_FILE, "engine": ENGINE_FILE}
        texts[NVINFER_FILE] = render("nvinfer_reid.txt.jinja", **values, **own)
        texts[READER_FILE] = render("read_embeddings.py.jinja", **values)
    if options.element in ("tracker", "both"):
        own = {"mode": tracker_mode, "onnx": str(on_target / ONNX_FILE), "engine": str(on_target / ENGINE_FILE)}
        texts[TRACKER_FILE] = render("tracker_reid.yml.jinja", **values, **own)
    return texts


def history_size(info: ArtifactInfo, options: DeepStreamOptions) -> int:
    """Return how many embeddings the tracker keeps of a person."""
    if options.history_size is not None:
        return options.history_size
    return max(1, min(100, _HISTORY_BYTES // (4 * info.embed_dim * options.max_targets)))
