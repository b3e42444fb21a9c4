"""What is asked of an export, in one object, so that every target is called alike; and the targets, imported when asked for."""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from hat.config import config_from_dict
from hat.errors import UsageError
from hat.io.artifact import ArtifactInfo, ArtifactPrecision, BatchProfile, InputType

T = TypeVar("T")


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


@dataclass(frozen=True)
class ExportRequest:
    """One export.

    Attributes:
        name: What to call the model in the artifact's metadata.
        precision: In which it is to compute.
        input_type: What it takes, as `hat.io.artifact.ArtifactInfo.input_type` has it.
        opset: ONNX operator set of the graph that it is made from.
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
    opset: int = 18
    batch: BatchProfile = field(default_factory=BatchProfile)
    calibration: Calibration | None = None
    overwrite: bool = False
    device: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

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
"""In the order of the help page."""


def list_targets() -> list[str]:
    """Return the names that `export_function` takes."""
    return list(TARGETS)


def export_function(target: str) -> ExportFunction:
    """Return the function that writes a target.

    Raises:
        UsageError: The target is unknown.
        MissingExtraError: A library that it needs to be imported is not installed.
    """
    if target not in TARGETS:
        near = difflib.get_close_matches(target, TARGETS, n=1)
        raise UsageError(f"unknown target {target!r}; {f'did you mean {near[0]}? ' if near else ''}known: {', '.join(TARGETS)}")
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
