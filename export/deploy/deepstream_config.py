"""What DeepStream is told of a model: an nvinfer file and an NvDCF tracker file, with the meaning of every key beside it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pydantic import Field

from hat.config import config_dataclass
from hat.io.artifact import ArtifactInfo, BatchProfile

__all__ = ["NVINFER_MODES", "TRACKER_MODES", "DeepStreamOptions", "nvinfer_config", "tracker_config"]

NVINFER_MODES = {"fp32": 0, "fp16": 2}
"""``network-mode`` of nvinfer, where 1 is int8."""

TRACKER_MODES = {"fp32": 0, "fp16": 1}
"""``networkMode`` of the tracker, where 2 is int8: the same numbers with other meanings than nvinfer's."""


@config_dataclass
class DeepStreamOptions:
    """Options of an export to DeepStream."""

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

    history_size: int = Field(default=100, ge=1)
    """Embeddings that the tracker keeps of a person."""

    min_similarity: float = Field(default=0.5, ge=0, le=1)
    """Smallest cosine at which the tracker takes a new track for a person that it had lost."""

    max_targets: int = Field(default=150, ge=1)
    """People that the tracker follows in a stream at a time."""

    workspace_mb: int = Field(default=1000, ge=1)
    """Memory for building the engine, in MB."""


class Key(NamedTuple):
    """A line of a configuration file."""

    name: str
    value: Any
    meaning: str


def nvinfer_config(info: ArtifactInfo, options: DeepStreamOptions, batch: BatchProfile, *, onnx_name: str) -> str:
    """The file for an nvinfer element behind the detector (and behind the tracker, where there is one).

    Args:
        info: The facts about the model; its precision is the one that DeepStream is to build.
        options: See `DeepStreamOptions`.
        batch: The largest is how many people are embedded at a time.
        onnx_name: The model, a file in the same folder.
    """
    height, width = info.preprocessing.size
    keys = [
        Key("gpu-id", options.gpu_id, "the GPU"),
        Key("onnx-file", onnx_name, "the model; paths are relative to this file"),
        Key(
            "model-engine-file",
            f"{onnx_name}_b{batch.max}_gpu{options.gpu_id}_{info.precision}.engine",
            "where the engine is kept that is built at the first start, under the name that nvinfer gives it",
        ),
        Key("network-mode", NVINFER_MODES[info.precision], "precision of the engine: 0 fp32, 1 int8, 2 fp16"),
        Key("batch-size", batch.max, "people that are embedded at a time"),
        Key("workspace-size", options.workspace_mb, "memory for building the engine, MB"),
        Key("process-mode", 2, "2: works on detected objects, not on whole frames"),
        Key("gie-unique-id", options.gie_id, "number of this stage"),
        Key("operate-on-gie-id", options.detector_gie_id, "number of the stage whose detections are embedded"),
        Key("operate-on-class-ids", options.person_class_id, "its class for people"),
        Key("input-object-min-width", options.min_width, "narrower detections are left out, pixels"),
        Key("input-object-min-height", options.min_height, "lower detections are left out, pixels"),
        Key("infer-dims", f"3;{height};{width}", "channels, height and width of the input"),
        Key("network-input-order", 0, "0: channels, height, width"),
        Key("model-color-format", 0, "0: RGB"),
        Key("net-scale-factor", "1.0", "1: pixels stay in 0-255, the model normalizes them itself, by channel"),
        Key("offsets", "0.0;0.0;0.0", "0: nothing is subtracted before the model, for the same reason"),
        Key("maintain-aspect-ratio", 0, "0: crops are stretched to the input, as they were in training"),
        Key("scaling-filter", 1, "1: bilinear"),
        Key("network-type", 100, "100: nothing is parsed, and everybody is embedded in every frame"),
        Key("output-blob-names", "embeddings", "the output"),
        Key("output-tensor-meta", 1, "1: the output is attached to every object as NvDsInferTensorMeta"),
    ]
    lines = [_title(info), "# Embeddings come out as unit vectors: compare them by their dot product.", "", "[property]"]
    for key in keys:
        lines += [f"# {key.meaning}", f"{key.name}={key.value}"]
    return "\n".join(lines) + "\n"


def tracker_config(
    info: ArtifactInfo, options: DeepStreamOptions, batch: BatchProfile, *, onnx: PurePosixPath, engine: PurePosixPath
) -> str:
    """The file for nvtracker's ``ll-config-file``: NvDCF, which takes lost people up again by their embeddings.

    Args:
        info: The facts about the model; its precision is the one that DeepStream is to build.
        options: See `DeepStreamOptions`.
        batch: The largest is how many people are embedded at a time.
        onnx: The model, absolute, on the machine with DeepStream.
        engine: Where the tracker keeps the engine that it builds; not nvinfer's, whose batches differ.
    """
    sections = _tracking(options) | {"ReID": _reid(info, options, batch, onnx, engine)}
    # The first line is not YAML's own directive, and is what DeepStream's files begin with.
    lines = ["%YAML:1.0", _title(info)]
    lines.append("# The values outside ReID and TrajectoryManagement are a beginning: tune them on your own streams.")
    for section, keys in sections.items():
        lines += ["", f"{section}:"]
        for key in keys:
            lines.append(f"  {key.name}: {key.value}  # {key.meaning}")
    return "\n".join(lines) + "\n"


def _reid(
    info: ArtifactInfo, options: DeepStreamOptions, batch: BatchProfile, onnx: PurePosixPath, engine: PurePosixPath
) -> list[Key]:
    height, width = info.preprocessing.size
    return [
        Key("reidType", 2, "0 none, 1 in NvDeepSORT, 2 to take lost people up again, 3 both"),
        Key("batchSize", batch.max, "people that are embedded at a time"),
        Key("workspaceSize", options.workspace_mb, "memory for building the engine, MB"),
        Key("reidFeatureSize", info.embed_dim, "numbers in an embedding"),
        Key("reidHistorySize", options.history_size, "embeddings that are kept of a person"),
        Key("inferDims", f"[3, {height}, {width}]", "channels, height and width of the input"),
        Key("networkMode", TRACKER_MODES[info.precision], "precision of the engine: 0 fp32, 1 fp16, 2 int8"),
        Key("inputOrder", 0, "0: channels, height, width"),
        Key("colorFormat", 0, "0: RGB"),
        Key("offsets", "[0.0, 0.0, 0.0]", "0: nothing is subtracted, the model normalizes pixels itself"),
        Key("netScaleFactor", 1.0, "1: pixels stay in 0-255, for the same reason"),
        Key("keepAspc", 0, "0: crops are stretched to the input, as they were in training"),
        Key("addFeatureNormalization", 0, "0: embeddings are unit vectors already"),
        Key("outputReidTensor", 1, "1: embeddings are attached to the tracked objects"),
        Key("onnxFile", f'"{onnx}"', "the model, absolute"),
        Key("modelEngineFile", f'"{engine}"', "where the engine is kept that is built at the first start, absolute"),
    ]


def _tracking(options: DeepStreamOptions) -> dict[str, list[Key]]:
    """All of the tracker but re-identification."""
    return {
        "BaseConfig": [Key("minDetectorConfidence", 0.2, "less certain detections are dropped")],
        "TargetManagement": [
            Key("enableBboxUnClipping", 1, "1: boxes that the frame's border cuts are completed"),
            Key("maxTargetsPerStream", options.max_targets, "people in a stream at a time, lost ones included"),
            Key("minIouDiff4NewTarget", 0.5, "detections that overlap a track by more start no new one"),
            Key("minTrackerConfidence", 0.2, "below it a track counts as lost"),
            Key("probationAge", 3, "frames before a track is reported"),
            Key("maxShadowTrackingAge", 40, "frames for which a lost track is followed unseen"),
            Key("earlyTerminationAge", 1, "frames after which a track on probation is given up"),
        ],
        "TrajectoryManagement": [
            Key("useUniqueID", 0, "0: track numbers count up"),
            Key("enableReAssoc", 1, "1: lost people are taken up again"),
            Key("reidExtractionInterval", 8, "frames between two embeddings of a person"),
            Key("minMatchingScore4ReidSimilarity", options.min_similarity, "smallest cosine to take somebody up again"),
            Key("matchingScoreWeight4ReidSimilarity", 0.6, "share of the cosine in the decision"),
            Key("matchingScoreWeight4TrackletSimilarity", 0.4, "share of the path in the decision"),
            Key("minMatchingScore4Overall", 0.4, "smallest weighted sum of both"),
            Key("minTrackletMatchingScore", 0.2, "smallest overlap of the foreseen and the seen path"),
            Key("minTrajectoryLength4Projection", 20, "frames that a track needs before its path is foreseen"),
            Key("prepLength4TrajectoryProjection", 40, "last frames from which it is foreseen"),
            Key("trajectoryProjectionLength", 40, "frames for which it is foreseen"),
            Key("maxAngle4TrackletMatching", 90, "largest difference in direction, degrees"),
            Key("minSpeedSimilarity4TrackletMatching", 0.1, "smallest similarity of speeds"),
            Key("minBboxSizeSimilarity4TrackletMatching", 0.2, "smallest similarity of box sizes"),
            Key("maxTrackletMatchingTimeSearchRange", 30, "frames to look for a match in"),
            Key("trajectoryProjectionProcessNoiseScale", 0.01, "noise of foreseen motion"),
            Key("trajectoryProjectionMeasurementNoiseScale", 100, "noise of seen positions"),
            Key("trackletSpacialSearchRegionScale", 0.1, "how far around the foreseen path a match may be"),
        ],
        "DataAssociator": [
            Key("dataAssociatorType", 0, "0 is the only one"),
            Key("associationMatcherType", 1, "1: certain detections first, then uncertain ones"),
            Key("checkClassMatch", 1, "1: classes must agree"),
            Key("minMatchingScore4Overall", 0.1, "smallest weighted sum of what follows"),
            Key("minMatchingScore4SizeSimilarity", 0.3, "smallest similarity of box sizes"),
            Key("minMatchingScore4Iou", 0.1, "smallest overlap"),
            Key("minMatchingScore4VisualSimilarity", 0.5, "smallest response of the correlation filter"),
            Key("matchingScoreWeight4VisualSimilarity", 0.4, "its share in the decision"),
            Key("matchingScoreWeight4SizeSimilarity", 0.3, "share of the box size"),
            Key("matchingScoreWeight4Iou", 0.3, "share of the overlap"),
            Key("tentativeDetectorConfidence", 0.3, "less certain detections are matched last"),
            Key("minMatchingScore4TentativeIou", 0.3, "smallest overlap for those"),
        ],
        "StateEstimator": [
            Key("stateEstimatorType", 1, "1: Kalman filter of position, size and velocity"),
            Key("processNoiseVar4Loc", 2.0, "variance of the position, pixels squared"),
            Key("processNoiseVar4Size", 1.0, "variance of the size, pixels squared"),
            Key("processNoiseVar4Vel", 0.1, "variance of the velocity"),
            Key("measurementNoiseVar4Detector", 4.0, "variance of detected boxes"),
            Key("measurementNoiseVar4Tracker", 16.0, "variance of boxes from the correlation filter"),
        ],
        "VisualTracker": [
            Key("visualTrackerType", 1, "0 none, 1 NvDCF, 2 NvDCF in VPI"),
            Key("useColorNames", 1, "1: color features"),
            Key("useHog", 1, "1: gradient features"),
            Key("featureImgSizeLevel", 3, "size of the feature map, 1 to 5"),
            Key("featureFocusOffsetFactor_y", -0.1, "center of attention, negative is up"),
            Key("filterLr", 0.075, "learning rate of the filter"),
            Key("filterChannelWeightsLr", 0.1, "learning rate of its channel weights"),
            Key("gaussianSigma", 0.75, "width of the wished response, pixels"),
        ],
    }


def _title(info: ArtifactInfo) -> str:
    name = " ".join(info.name.split())
    return f"# {name} ({info.precision}, {info.embed_dim} numbers), fingerprint {info.fingerprint[:16]}"
