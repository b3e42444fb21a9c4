"""What is asked of an export, in one object, so that every target is called alike."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hat.io.artifact import ArtifactPrecision, BatchProfile, InputType


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
