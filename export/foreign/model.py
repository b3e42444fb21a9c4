"""Declared properties of another project's model, which its file does not hold, and the interface of readers of such files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hat.config import config_dataclass, config_from_dict
from hat.errors import CheckpointError, UsageError, unknown_name
from hat.io.artifact import ArtifactInfo, ArtifactPrecision
from hat.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Layout = Literal["nchw", "nhwc"]

_CHANNELS: dict[Layout, int] = {"nchw": 1, "nhwc": 3}
"""Index of the channels in a layout."""

_MAX_SIDE = 2048
"""Pixels of a side: what is larger is a mistake in typing, and takes more memory than there is."""

Run = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@config_dataclass
class ForeignModel:
    """Properties that cannot be read from another project's file: its preprocessing, and which output is the embedding."""

    color: Literal["rgb", "bgr"]
    """Order of the channels."""

    value_range: Literal[1, 255]
    """Pixels are scaled to 0-1, or left at 0-255, before the mean is subtracted."""

    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (0.0, 0.0, 0.0)
    """Subtracted from each channel, in units of `value_range`, in the order R, G, B whatever `color` is."""

    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)
    """Each channel is divided by it after the mean is subtracted; R, G, B as well."""

    resize: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize to the model's size."""

    image_size: tuple[int, int] | None = None
    """(height, width), where the file leaves them open."""

    layout: Layout | None = None
    """Order of the dimensions, where the position of the 3 does not determine it."""

    output: str | None = None
    """Name of the output that is the embedding, where there are several."""


FAMILIES: dict[str, dict[str, Any]] = {
    "omz": {"color": "bgr", "value_range": 255},
    "torchreid": {"color": "rgb", "value_range": 1, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    "fastreid": {"color": "rgb", "value_range": 255, "resize": "bicubic"},
    "boxmot": {"color": "rgb", "value_range": 1, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
}
"""Family -> fields of `ForeignModel`, as the family's own code or documents have them.

- ``omz``: Open Model Zoo, person-reidentification-retail-*: its model descriptions (shape 1, 3, 256, 128, "the expected color
  order is BGR"), and the files' own ``conversion_parameters``, which say that mean, std and the swap of channels are inside the
  graph. Their accuracy configuration resizes with Pillow, bilinear.
- ``torchreid``: KaiyangZhou/deep-person-reid, ``torchreid/utils/feature_extractor.py``: RGB by Pillow, torchvision's ``Resize``
  (bilinear), ``ToTensor`` (0-1), ImageNet's mean and std.
- ``fastreid``: JDAI-CV/fast-reid, ``tools/deploy/onnx_inference.py``: RGB, bicubic by OpenCV, floats from 0 to 255;
  ``fastreid/modeling/meta_arch/baseline.py`` subtracts the mean and divides by std in the graph. Early versions did not.
- ``boxmot``: mikel-brostrom/boxmot, ``boxmot/reid/core/preprocessing.py`` and ``boxmot/reid/backends/base_backend.py``: RGB,
  bilinear by OpenCV, 0-1, ImageNet's mean and std.

Pillow widens the filter when it shrinks an image and OpenCV does not: crops larger than the model's input give slightly other
embeddings than in a project that resizes by OpenCV.
"""


@dataclass(frozen=True)
class GraphIO:
    """Input and output of a foreign graph."""

    layout: Layout
    size: tuple[int, int]  # (height, width)
    fixed: int | None  # the one batch that the file says
    output: int  # of the outputs, which is the embedding


@dataclass(frozen=True, eq=False)
class WrappedGraph:
    """A foreign graph that takes uint8 RGB images and gives unit vectors, in memory."""

    graph: Any  # of its library
    precision: ArtifactPrecision
    run: Run  # embeds (B, 3, H, W) uint8 RGB, B being the batch where that is fixed


class ForeignFile(Protocol):
    """A file of another project, as its library reads it; opening one refuses what takes anything else than images."""

    shape: list[int | None]  # of its one input; None is an open dimension
    outputs: list[str]  # their names
    aliases: list[set[str]]  # all names of each
    sha256: str
    versions: dict[str, str]  # of the libraries that read it

    def wrap(self, declared: ForeignModel, io: GraphIO, batch: int | None) -> WrappedGraph:
        """Put conversion in front of a copy of the graph and the L2 norm behind it, for one batch size or, None, for any.

        Raises:
            CheckpointError: The precision in which it computes cannot be determined.
            WorkError: The library cannot run it.
        """
        ...

    def save(self, graph: WrappedGraph, info: ArtifactInfo, path: Path) -> ArtifactInfo:
        """Write a graph with its metadata, and return that."""
        ...


def declared_model(like: str | None, declared: Mapping[str, Any]) -> ForeignModel:
    """Return what a family and a user say together.

    Raises:
        UsageError: The family is unknown, or color and range were not said.
        ConfigError: A field is unknown or has a wrong value.
    """
    if like is not None and like not in FAMILIES:
        raise UsageError(unknown_name(f"family {like!r}", like, FAMILIES))
    given = {key: value for key, value in declared.items() if value is not None}
    family = dict(FAMILIES.get(like or "", {}))
    if {"value_range", "mean"} <= family.keys() and given.get("value_range") in (1, 255):
        unit = given["value_range"] / family["value_range"]  # the family's numbers, in the units of the range that was said
        family |= {key: tuple(unit * value for value in family[key]) for key in ("mean", "std")}
    fields = {**family, **given}
    if missing := [key for key in ("color", "value_range") if key not in fields]:
        raise UsageError(
            f"a file does not say how its model wants its images, and {' and '.join(missing)} were not given: name a family "
            f"with --like ({', '.join(FAMILIES)}), or say --color, --range and, where it has them, --mean and --std"
        )
    return config_from_dict(ForeignModel, fields, where="adopt")


def resolve_io(file: ForeignFile, declared: ForeignModel, where: str) -> GraphIO:
    """Resolve the layout and size of the input, by its shape and what was declared of it, and the output that is the embedding.

    Raises:
        UsageError: It takes no RGB images, is of another size than was said, leaves open what was not said, or has several
            outputs and not the one that was chosen.
    """
    shape, shown = file.shape, " x ".join("?" if side is None else str(side) for side in file.shape)
    if len(shape) != 4:
        raise UsageError(
            f"{where} takes an array of {len(shape)} dimensions ({shown}), expected images: (batch, 3, height, width)"
        )
    certain = [layout for layout, axis in _CHANNELS.items() if shape[axis] == 3]
    possible = certain or [layout for layout, axis in _CHANNELS.items() if shape[axis] is None]
    if declared.layout is not None:
        possible = [layout for layout in possible if layout == declared.layout]
    if not possible:
        raise UsageError(
            f"{where} takes {shown}, which is no batch of RGB images{f' in {declared.layout}' if declared.layout else ''}"
        )
    if len(possible) > 1:
        raise UsageError(f"{where} takes {shown}, which does not say where the channels are: say --layout nchw or nhwc")
    declared_size = declared.image_size or (None, None)
    size = []
    for side, expected in zip(shape[2:] if possible[0] == "nchw" else shape[1:3], declared_size, strict=True):
        if side is None and expected is None:
            raise UsageError(f"{where} takes images of any size ({shown}): say which with --image-size, such as 256x128")
        if side is not None and expected not in (None, side):
            raise UsageError(f"{where} takes {shown}, so the image size {declared_size[0]}x{declared_size[1]} does not fit")
        size.append(side or expected or 0)
    outputs = " or ".join(file.outputs)
    if declared.output is None and len(file.outputs) > 1:
        raise UsageError(f"{where} has {len(file.outputs)} outputs: say which is the embedding, --output {outputs}")
    named = [index for index, names in enumerate(file.aliases) if declared.output in (None, *names)]
    if not named:
        raise UsageError(f"{where} has no output {declared.output!r}: expected {outputs}")
    config_from_dict(Preprocessing, {"height": size[0], "width": size[1]}, where=where)  # refuses what is too small
    if max(size) > _MAX_SIDE:
        raise UsageError(f"{where}: images of {size[0]} x {size[1]} are more than the limit of {_MAX_SIDE} pixels a side")
    return GraphIO(possible[0], (size[0], size[1]), shape[0], named[0])


def affine(declared: ForeignModel) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (mean, std), each (3,) in R, G, B, of pixels from 0 to 255."""
    unit = 255 / declared.value_range
    return np.array(declared.mean) * unit, np.array(declared.std) * unit


def refuse_own(is_own: bool, path: Path) -> None:
    """Raise CheckpointError for a file that is one of ours."""
    if is_own:
        raise CheckpointError(f"{path} is one of this package's files already: there is nothing to adopt")
