"""Request of an export, calibration images included, the same for every target; and the targets by name."""

import hashlib
import importlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from hat.config import config_from_dict
from hat.data.datasets import JUNK_PID, ReIDDataset
from hat.data.loading import load_images
from hat.errors import DataError, UsageError, unknown_name
from hat.io.artifact import ArtifactInfo, ArtifactPrecision, BatchProfile, InputType
from hat.preprocessing import Preprocessing

T = TypeVar("T")

DEFAULT_OPSET = 18
"""Opset that every runtime of the last years reads. The exporter of torch starts here; 17 would silently become 18."""

FLOAT16_SCALE_OPSET = 19
"""From here on Q/DQ take scales in half precision, and float8."""

BFLOAT16_OPSET = 22
"""Before it, ONNX's convolutions take no bfloat16."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Images that a quantizer looks at to choose its ranges.

    Attributes:
        images: (n, 3, H, W) uint8 RGB, already resized by the model's preprocessing.
        paths: Where each came from, in order: recorded in the artifact.
        dataset: Name of the data set; the images are of its training split alone.
        seed: Seed of the choice.
    """

    images: npt.NDArray[np.uint8]
    paths: tuple[str, ...]
    dataset: str
    seed: int

    @property
    def details(self) -> dict[str, Any]:
        """Details that an artifact records of them: their number, their source, and a hash of their pixels."""
        return {
            "dataset": self.dataset,
            "split": "train",
            "seed": self.seed,
            "num_images": len(self.images),
            "pixels_sha256": hashlib.sha256(np.ascontiguousarray(self.images).tobytes()).hexdigest(),
            "images": list(self.paths),
        }


def calibration_from(
    dataset: ReIDDataset,
    preprocessing: Preprocessing,
    num_images: int = 512,
    seed: int = 0,
    *,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Choose calibration images from the training split alone: a file must not have seen what it is measured on.

    Args:
        dataset: The data set.
        preprocessing: The model's.
        num_images: How many; all there are where they are fewer.
        seed: The choice depends on it and on the data set alone, not on the order in which files were listed.
        progress: Called with the number of images that were just read.

    Returns:
        The images and their list. Each path is written from the training images' common folder on, so that the list is the
        same on every machine.

    Raises:
        DataError: The data set has no training images.
        ImageError: An image cannot be used.
        UsageError: ``num_images`` is below 1.
    """
    if num_images < 1:
        raise UsageError(f"calibration needs at least 1 image, got {num_images}")
    paths = sorted(sample.path for sample in dataset.train if sample.pid != JUNK_PID)
    if not paths:
        raise DataError(f"{dataset.name} has no training images to calibrate on, and test images are never used for it")
    names = _from_common_folder(paths)
    chosen = sorted(np.random.default_rng(seed).permutation(len(paths))[:num_images].tolist())
    images = load_images([paths[index] for index in chosen], preprocessing, progress=progress).numpy()
    return Calibration(images, tuple(names[index] for index in chosen), dataset.name, seed)


def _from_common_folder(paths: Sequence[str]) -> list[str]:
    """Return paths without the folders that they share, so that a list tells nothing of the machine that it was made on."""
    parts = [path.replace("\\", "/").split("/") for path in paths]
    folders = zip(*(path[:-1] for path in parts), strict=False)
    num_shared = sum(1 for _ in itertools.takewhile(lambda folder: len(set(folder)) == 1, folders))
    # The last shared folder is kept: it is the split's own name, which tells that the images are training images.
    return ["/".join(path[max(0, num_shared - 1) :]) for path in parts]


@dataclass(frozen=True)
class ExportRequest:
    """One export.

    Attributes:
        name: What to call the model in the artifact's metadata.
        precision: In which it is to compute.
        input_type: What it takes, as `hat.io.artifact.ArtifactInfo.input_type` has it.
        opset: ONNX operator set of the graph that it is made from; None takes a file's own, or of a checkpoint `graph_opset`.
        batch: Batch sizes to build for, where a target fixes them.
        calibration: Images for int8 and fp8.
        overwrite: Replace a file that is there.
        device: The GPU that an engine is built on, ``"cuda:1"``; None takes the current one.
        options: What is particular to a target, by name; an unknown name is refused.
        metrics: Metrics measured with the checkpoint, to be carried along.
    """

    name: str
    precision: ArtifactPrecision = "fp32"
    input_type: InputType = "uint8"
    opset: int | None = None
    batch: BatchProfile = field(default_factory=BatchProfile)
    calibration: Calibration | None = None
    overwrite: bool = False
    device: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def graph_opset(self) -> int:
        """The opset, or the lowest that has what the precision needs; int8 is TensorRT's unless the options say otherwise."""
        if self.opset is not None:
            return self.opset
        if self.precision == "fp8" or (self.precision == "int8" and self.options.get("scheme", "tensorrt") == "tensorrt"):
            return FLOAT16_SCALE_OPSET
        return BFLOAT16_OPSET if self.precision == "bf16" else DEFAULT_OPSET

    def take_options(self, options: type[T], where: str) -> tuple[T, dict[str, Any]]:
        """Return the options that are a target's own, and by name those that are left for others."""
        names = {entry.name for entry in fields(cast(Any, options))}
        own = {name: value for name, value in self.options.items() if name in names}
        left = {name: value for name, value in self.options.items() if name not in names}
        return config_from_dict(options, own, where=where), left


ExportFunction: TypeAlias = Callable[[Any, Path, ExportRequest], ArtifactInfo]
"""Writes a trained model, or an ONNX file of this package, to a path as requested, whole or not at all."""


class Target(NamedTuple):
    """A target's function as "module:function", and how its files end, by which they are opened later; folders do not."""

    function: str
    endings: tuple[str, ...] = ()


TARGETS = {
    "onnx": Target("hat.export.to_onnx:export_onnx", (".onnx",)),
    "tensorrt": Target("hat.export.tensorrt.builder:export_tensorrt", (".engine", ".plan")),
    "tensorrt-rtx": Target("hat.export.tensorrt.builder:export_tensorrt_rtx", (".engine", ".plan")),
    "openvino": Target("hat.export.openvino.to_openvino:export_openvino", (".xml",)),
    "triton": Target("hat.export.deploy.triton:export_triton"),
    "deepstream": Target("hat.export.deploy.deepstream:export_deepstream"),
}
"""Names that `export_function` takes, in the order of the help page."""


def export_function(target: str) -> ExportFunction:
    """Return the function that writes a target.

    Raises:
        UsageError: The target is unknown.
        MissingExtraError: A library that it needs to be imported is not installed.
    """
    if target not in TARGETS:
        raise UsageError(unknown_name(f"target {target!r}", target, TARGETS))
    module, _, function = TARGETS[target].function.partition(":")
    return cast(ExportFunction, getattr(importlib.import_module(module), function))


def check_ending(target: str, out: Path) -> None:
    """Check that what is going to be written can be opened by its name.

    Raises:
        UsageError: The target's files end otherwise, or the target is a folder and this is a file's name.
    """
    endings, known = TARGETS[target].endings, {ending for each in TARGETS.values() for ending in each.endings}
    if endings and out.suffix not in endings:
        better = out.with_suffix(endings[0]) if out.suffix in known else f"{out}{endings[0]}"
        raise UsageError(f"a file for {target} ends in {' or '.join(endings)}, got {out}: try --out {better}")
    if not endings and out.suffix in known:
        raise UsageError(f"{target} is a folder, and {out} is a file's name: try --out {out.with_suffix('')}")
