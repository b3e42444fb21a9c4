"""Metadata of an exported file: the same for ONNX and OpenVINO files, and for the sidecars of engines."""

import hashlib
import json
import stat
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from hat.config import config_dataclass, config_to_dict, metadata_from_dict
from hat.errors import CheckpointError, ConfigError
from hat.model import ModelConfig
from hat.preprocessing import Preprocessing

METADATA_KEY = "hat_reid"
"""Under this name a file's metadata holds an `ArtifactInfo` as JSON."""

INPUT_NAME, OUTPUT_NAME = "images", "embeddings"
"""Tensors of every exported file."""

FORMAT_VERSION = 2
"""Version 1 knew no adopted models."""

InputType = Literal["uint8", "float32", "normalized"]

ArtifactPrecision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]

T = TypeVar("T")


@config_dataclass
class BatchProfile:
    """Batch sizes that a file was built for."""

    min: int = 1
    """The smallest."""

    opt: int = 8
    """The one that it is tuned for."""

    max: int = 32
    """The largest."""

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"a batch profile needs 1 <= min <= opt <= max, got {self.min}, {self.opt}, {self.max}")


@config_dataclass
class AdoptedModel:
    """A model of another project, and how its own graph takes images; `ArtifactInfo.preprocessing` has their size and range."""

    file: str
    """Name of the file that it was adopted from."""

    family: str | None = None
    """The family, of `hat.export.foreign.model.FAMILIES`, that its preprocessing was taken from."""

    color: Literal["rgb", "bgr"]
    """Order of the channels inside the file; what is given to the file is RGB."""

    layout: Literal["nchw", "nhwc"]
    """Order of the dimensions inside the file; what is given to the file is NCHW."""

    output: str
    """The output of the foreign graph that became the embedding."""


@config_dataclass
class ArtifactInfo:
    """Metadata of an exported file."""

    format_version: int = FORMAT_VERSION
    """Version of these fields; a newer one than this package knows is refused."""

    name: str
    """Name of the model when it was exported: its checkpoint's folder."""

    model: ModelConfig | None = None
    """The architecture of a HAT; None of an adopted model."""

    adopted: AdoptedModel | None = None
    """Properties of an adopted model; None of a HAT."""

    preprocessing: Preprocessing
    """Preprocessing of images: the host converts to RGB and resizes, the rest is inside the file."""

    embed_dim: int
    """Width of an embedding."""

    precision: ArtifactPrecision
    """Precision in which the file computes; norms, softmax and the L2 norm stay in float32 in every one."""

    input_type: InputType = "uint8"
    """Type of the input: ``"uint8"`` or ``"float32"`` in the range 0-255, or ``"normalized"``: float32 in the range 0-1 less
    ImageNet's mean and divided by its standard deviation, as trackers feed it."""

    batch: BatchProfile | None = None
    """Batch sizes that the file takes; None where any size runs."""

    source_sha256: str
    """Hash of the trained weights, `weights_sha256`: two files of the same weights share it, whatever their precision."""

    fingerprint: str
    """Hash of what decides an embedding, `fingerprint`: what a gallery is bound to."""

    versions: dict[str, str]
    """Versions of the libraries that made the file."""

    device: str | None = None
    """The GPU or compute capability that an engine was built for; None where the file runs anywhere."""

    details: dict[str, Any] = Field(default_factory=dict)
    """Details of the target: opset, calibration images, layers left in higher precision, hash of the ONNX."""

    metrics: dict[str, Any] = Field(default_factory=dict)
    """Metrics that were measured with the checkpoint."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.adopted is None):
            raise ValueError("a file holds a HAT (model) or an adopted model (adopted): expected one of the two")

    @property
    def architecture(self) -> ModelConfig | AdoptedModel:
        """The one of `model` and `adopted` that is there."""
        model = self.model or self.adopted
        assert model is not None
        return model


def weights_sha256(module: nn.Module) -> str:
    """Hash everything of a model that an embedding depends on: names, shapes, types and values; classifiers are left out.

    Names are those of the first release, so that a renamed layer changes no hash.
    """
    digest = hashlib.sha256()
    state = {name.replace(".patch_embed.", ".to_tokens."): value for name, value in module.state_dict().items()}
    for name, value in sorted(state.items()):
        if name.startswith("classifiers.") or name.endswith("num_batches_tracked"):
            continue
        dense: Tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(dense.shape)} {dense.dtype};".encode())
        digest.update(dense.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


_FINGERPRINT_1: dict[str, tuple[str, ...]] = {
    "": (
        *("image_size", "backbone", "transformer", "depths", "widths", "downscale", "num_bottlenecks"),
        *("bottleneck_reduction", "mfe_supervision", "auxiliary_loss", "nea", "last_nea"),
    ),
    "backbone": ("name", "last_stride", "stem_relu", "stride_in_1x1"),
    "transformer": ("norm_order", "num_heads", "head_dim", "attention_scale", "ffn_dim", "ffn_ratio", "dropout"),
}
"""Fields of `ModelConfig` and its sections that version 1 always hashes. Fields that came later are hashed where they differ
from their defaults, so that what was made before them keeps its fingerprint."""

_FINGERPRINT_2 = ("color", "layout", "output")
"""Fields of `AdoptedModel` that version 2 hashes: the others say where the file came from and change no embedding."""


def fingerprint(
    model: ModelConfig | AdoptedModel, preprocessing: Preprocessing, source_sha256: str, precision: ArtifactPrecision
) -> str:
    """Hash of all that decides what an embedding means; embeddings of different fingerprints must not be compared unproven.

    Version 1 is a HAT's: its architecture, preprocessing, weights and precision. Version 2 is an adopted model's, with its
    version inside. Both hash lists of fields that are written down here, since galleries and files are bound to what they were.
    """
    hashed: Any
    if isinstance(model, AdoptedModel):
        described = config_to_dict(model)
        hashed = {"version": 2, "model": {name: described[name] for name in _FINGERPRINT_2}}
        hashed |= {"preprocessing": config_to_dict(preprocessing), "source_sha256": source_sha256, "precision": precision}
    else:
        architecture = _known_or_changed(config_to_dict(model), config_to_dict(ModelConfig()))
        hashed = [architecture, config_to_dict(preprocessing), source_sha256, precision]
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def _known_or_changed(fields: dict[str, Any], defaults: dict[str, Any], section: str = "") -> dict[str, Any]:
    """Return fields of version 1, and later ones that are not at their defaults."""
    hashed = {}
    for name, value in fields.items():
        if name in _FINGERPRINT_1[section] or value != defaults[name]:
            hashed[name] = _known_or_changed(value, defaults[name], name) if name in _FINGERPRINT_1 else value
    return hashed


def info_to_json(info: ArtifactInfo) -> str:
    """Return an artifact's metadata as one line of JSON."""
    return json.dumps(config_to_dict(info), sort_keys=True)


def info_from_json(text: str | bytes, source: str) -> ArtifactInfo:
    """Read an artifact's metadata, as `info_to_json` writes it; anything else, or a newer version, is a `CheckpointError`."""
    return metadata_from_json(ArtifactInfo, text, newest=FORMAT_VERSION, source=source)


def metadata_from_json(cls: type[T], text: str | bytes, *, newest: int, source: str) -> T:
    """Build an object with a field ``format_version`` from JSON, see `hat.config.metadata_from_dict`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{source}: its metadata cannot be read: expected a JSON object")
    return metadata_from_dict(cls, content, newest=newest, source=source)


def read_model_file(path: Path, kind: str, max_bytes: int = 2**28) -> bytes:
    """Return the content of an untrusted file, which should be ``kind`` and of at most ``max_bytes`` bytes.

    What is missing, larger, no ordinary file, a pointer or a web page in its place is a `CheckpointError`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: not an ordinary file, expected {kind}")
        if status.st_size > max_bytes:
            raise CheckpointError(f"{path}: {status.st_size:,} bytes, {kind} has at most {max_bytes:,}")
        if reason := placeholder_reason(path):
            raise CheckpointError(reason)
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def file_sha256(path: Path) -> str:
    """Hash a file in pieces; one that cannot be read is a `CheckpointError`."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def placeholder_reason(path: Path) -> str | None:
    """Return what stands in the place of a model's file, in one sentence: a Git LFS pointer or a web page; None for neither.

    A file that cannot be read is left to whoever opens it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    except OSError:
        return None
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer and not the file itself: run `git lfs pull` where it came from"
    # A graph of OpenVINO is XML too; XHTML pages and the error messages of file servers are not.
    is_xml = start.startswith(b"<?xml") and (path.suffix.lower() != ".xml" or b"<html" in start or b"<error" in start)
    if is_xml or start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return f"{path} is a web page and not a model: the download asked for a login or a confirmation; repeat it"
    return None


def checked_artifact_precision(precision: str) -> ArtifactPrecision:
    """Return a precision as typed by a user; a `ConfigError` where it is none that is known."""
    if precision not in get_args(ArtifactPrecision):
        raise ConfigError(f"unknown precision {precision!r}: expected {', '.join(get_args(ArtifactPrecision))}")
    return cast(ArtifactPrecision, precision)


def tensor_contract(info: ArtifactInfo) -> dict[str, str]:
    """Describe a file's input and output by name, for people who have the file and not this package."""
    height, width = info.preprocessing.size
    batch = info.batch.max if info.batch is not None and info.batch.min == info.batch.max else "batch"
    values = {
        "uint8": "uint8 in 0-255; the normalization is inside",
        "float32": "float32 in 0-255; the normalization is inside",
        "normalized": "float32: pixels / 255, less the mean 0.485, 0.456, 0.406, divided by 0.229, 0.224, 0.225",
    }
    return {
        INPUT_NAME: (
            f"({batch}, 3, {height}, {width}), NCHW, RGB, {values[info.input_type]}; "
            f"crops of one person, resized ({info.preprocessing.resize}) to {height} x {width} (height x width), "
            "aspect ratio not kept"
        ),
        OUTPUT_NAME: f"({batch}, {info.embed_dim}) float32, rows of unit length: compare them by their dot product",
    }
