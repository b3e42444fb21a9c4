"""What DeepStream is told of a model: the options of its files, and the values that their templates take."""

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from hat.config import config_dataclass
from hat.io.artifact import ArtifactInfo, BatchProfile

from ..templates import render

NVINFER_MODES = {"fp32": 0, "fp16": 2}
"""``network-mode`` of nvinfer, where 1 is int8."""

TRACKER_MODES = {"fp32": 0, "fp16": 1}
"""``networkMode`` of the tracker, where 2 is int8: the same numbers with other meanings than nvinfer's."""

_HISTORY_BYTES = 32_000_000
"""What the tracker may hold of past embeddings of a stream: 100 of 4,096 numbers for each of 150 people would be 245 MB."""


@config_dataclass
class DeepStreamOptions:
    """Options of an export to DeepStream."""

    element: Literal["nvinfer", "tracker", "both"] = "nvinfer"
    """What embeds people: an nvinfer element, every detected person in every frame; or the NvDCF tracker, whom it follows,
    every few frames. With both, everybody is embedded twice."""

    engine: bool = False
    """Build the engine too: this machine has the GPU and the TensorRT that DeepStream is going to run with."""

    folder: str | None = None
    """Where the exported folder is going to lie on the machine with DeepStream, absolute; None: where it is exported to. The
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


def nvinfer_config(info: ArtifactInfo, options: DeepStreamOptions, batch: BatchProfile, *, onnx: str, engine: str) -> str:
    """Return the file for an nvinfer element behind the detector (and behind the tracker, where there is one).

    Args:
        info: The model's metadata.
        options: See `DeepStreamOptions`.
        batch: The largest is how many people are embedded at a time.
        onnx: The model, a file in the same folder.
        engine: Its engine, in the same folder too.
    """
    values = {"mode": NVINFER_MODES[info.precision], "onnx": onnx, "engine": engine}
    return render("hat.export.deploy", "nvinfer_reid.txt.jinja", **_values(info, options, batch), **values)


def tracker_config(
    info: ArtifactInfo, options: DeepStreamOptions, batch: BatchProfile, *, onnx: PurePosixPath, engine: PurePosixPath
) -> str:
    """Return the file for nvtracker's ``ll-config-file``: NvDCF, which takes lost people up again by their embeddings.

    Args:
        info: The model's metadata.
        options: See `DeepStreamOptions`.
        batch: The largest is how many people are embedded at a time.
        onnx: The model, absolute, on the machine with DeepStream.
        engine: Its engine, absolute too.
    """
    kept = history_size(info, options)
    values = {"mode": TRACKER_MODES[info.precision], "onnx": onnx, "engine": engine, "history_size": kept}
    values["history_mb"] = round(4 * info.embed_dim * kept * options.max_targets / 1e6)
    return render("hat.export.deploy", "tracker_reid.yml.jinja", **_values(info, options, batch), **values)


def read_embeddings(info: ArtifactInfo, options: DeepStreamOptions, batch: BatchProfile) -> str:
    """Return a Python file that reads the embeddings that nvinfer attaches to people."""
    return render("hat.export.deploy", "read_embeddings.py.jinja", **_values(info, options, batch))


def history_size(info: ArtifactInfo, options: DeepStreamOptions) -> int:
    """Return how many embeddings the tracker keeps of a person."""
    if options.history_size is not None:
        return options.history_size
    return max(1, min(100, _HISTORY_BYTES // (4 * info.embed_dim * options.max_targets)))


def _values(info: ArtifactInfo, options: DeepStreamOptions, batch: BatchProfile) -> dict[str, Any]:
    height, width = info.preprocessing.size
    title = f"{' '.join(info.name.split())} ({info.precision}, {info.embed_dim} numbers), fingerprint {info.fingerprint[:16]}"
    return {"info": info, "options": options, "batch": batch, "height": height, "width": width, "title": title}
