"""Adopting: another project's ONNX or OpenVINO file, with all that our files promise put around it.

Its graph stays as it is. Before it come the conversion from uint8 RGB to what it was trained on, after it the L2 norm, and
into the file the facts about itself, so that everything that takes one of our files takes this one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.config import config_from_dict
from hat.errors import UsageError, WorkError
from hat.io.artifact import AdoptedModel, ArtifactInfo, ArtifactPrecision, BatchProfile, fingerprint
from hat.io.atomic_output import atomic_output
from hat.io.openvino_file import weights_path
from hat.preprocessing import Preprocessing
from hat.runtime.opening import open_runtime
from hat.runtime.protocol import run_in_pieces

from .model import ForeignModel, Layout, affine, declared_model

__all__ = ["AdoptWarning", "Surrounded", "adopt", "has_own_rows", "is_same", "probe_images", "why_fixed"]

Run = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

_SAME, _SAME_ROUNDED = 1e-4, 0.05
"""Largest difference between two embeddings of one image, alone and in a batch, in float32 and in lower precisions. int8 rounds
sums that another order of additions puts beside a half the other way: 0.01 was seen."""

_CONSTANT = 1e-3
"""Where 1 - cosine between any two of the probe images is below it, a model does not see what they show."""

_UNMOVED = 1e-6
"""Where 1 - cosine is below it for every probe image, a change of the image has not changed its embedding."""

_NUM_PROBES = 8


class AdoptWarning(UserWarning):
    """The declared preprocessing of an adopted model is probably not the one that it was trained with."""


@dataclass(frozen=True, eq=False)
class Surrounded:
    """A foreign graph that takes uint8 RGB images and gives unit vectors, in memory.

    Attributes:
        graph: The graph of its library.
        size: (height, width) of its input.
        embed_dim: Width of an embedding.
        batch: The one batch size that it takes; None where it takes any.
        precision: In which it computes.
        layout: Order of the dimensions inside.
        output: Name of the output that became the embedding.
        source_sha256: Hash of the files that it came from.
        versions: Of the libraries that made it.
        details: Why the batch is fixed, where it is.
        run: Embeds (B, 3, H, W) uint8 RGB, B being ``batch`` where that is fixed.
    """

    graph: Any
    size: tuple[int, int]
    embed_dim: int
    batch: int | None
    precision: ArtifactPrecision
    layout: Layout
    output: str
    source_sha256: str
    versions: dict[str, str]
    details: dict[str, str]
    run: Run


def adopt(
    foreign: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    like: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    **declared: Any,
) -> ArtifactInfo:
    """Make one of our files of another project's: uint8 RGB images in, unit vectors out, the facts about itself inside.

    The batch is made dynamic where the graph computes the same with it, which is tried out; otherwise the file is run in pieces
    of its fixed size. Weights that an OpenVINO file stores in float16 are written in float32, so that it computes the same
    everywhere.

    Args:
        foreign: Its ``.onnx`` file, or its ``.xml`` file with the ``.bin`` beside it.
        path: The file to write, with the same ending.
        like: A family of `hat.export.foreign.model.FAMILIES`, which says how the model wants its images.
        name: What to call the model; by default the foreign file's name.
        overwrite: Replace a file that is there.
        **declared: Fields of `ForeignModel`: what no family says, or what differs from it. None leaves a field as it is.

    Returns:
        The facts that the file holds about itself.

    Raises:
        UsageError: The family or a field is unknown, what is needed was not said, or it does not fit the file.
        CheckpointError: The file is missing, damaged, of another kind, or one of ours already.
        WorkError: The graph cannot be run or written.
        MissingExtraError: The library for its kind of file is not installed.

    Warns:
        AdoptWarning: The output shows that the preprocessing cannot be the one that the model was trained with.
    """
    foreign, path = Path(foreign).expanduser(), Path(path).expanduser()
    model = declared_model(like, declared)
    ending = foreign.suffix.lower()
    if ending not in (".onnx", ".xml"):
        raise UsageError(f"{foreign} cannot be adopted: expected an ONNX file (.onnx) or an OpenVINO file (.xml)")
    if path.suffix.lower() != ending:
        raise UsageError(f"{path}: {foreign.name} stays what it is: expected a name that ends in {ending}")
    if path.resolve() == foreign.resolve():
        raise UsageError(f"{path} is the foreign file itself: give another name")
    for written in (path, weights_path(path)) if ending == ".xml" else (path,):
        if written.exists() and not overwrite:
            raise UsageError(f"{written} is there already: give another name, or --force to replace it")
    if ending == ".onnx":
        from .adopt_onnx import save_adopted, surround
    else:
        from .adopt_openvino import save_adopted, surround
    surrounded = surround(foreign, model)
    is_documented = like is not None and not any(declared.get(key) for key in ("value_range", "mean", "std"))
    for words in _doubts(surrounded, model, is_documented):
        warnings.warn(AdoptWarning(f"{foreign.name}: {words}"), stacklevel=2)
    with atomic_output(path, overwrite=overwrite) as temporary:
        info = save_adopted(surrounded, _describe(surrounded, model, foreign.name, name or foreign.stem, like), temporary)
        open_runtime(temporary, "cpu")  # checks the file's tensors and weights against what it says of itself
    return info


def probe_images(size: tuple[int, int], count: int = _NUM_PROBES) -> npt.NDArray[np.uint8]:
    """Draw (count, 3, H, W) uint8 images of soft random colors, the same at every call."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (count, 8, 4, 3), dtype=np.uint8)
    height, width = size
    large = [np.asarray(Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC)) for one in small]
    return np.ascontiguousarray(np.stack(large).transpose(0, 3, 1, 2))


def is_same(rows: npt.NDArray[np.float32], others: npt.NDArray[np.float32], precision: ArtifactPrecision) -> bool:
    """Whether two arrays of embeddings are of the same images, up to rounding."""
    limit = _SAME if precision == "fp32" else _SAME_ROUNDED
    return rows.shape == others.shape and bool(np.abs(rows - others).max() < limit)


def has_own_rows(run: Run, size: tuple[int, int], precision: ArtifactPrecision) -> bool:
    """Whether a graph gives one embedding for every image of a batch, the one that it gives the image alone."""
    images = probe_images(size, 3)
    together, alone = run(images), np.concatenate([run(image[None]) for image in images])
    return len(together) == len(images) and is_same(together, alone, precision)


def _doubts(surrounded: Surrounded, declared: ForeignModel, is_documented: bool) -> list[str]:
    """What shows that the declared preprocessing cannot be right, each as a sentence.

    An output that ignores the scale of the pixels is no mistake by itself: networks with instance norm do, those of Open Model
    Zoo among them. It is told where range, mean and std are the user's word alone (not ``is_documented``): they stay unproven.

    Raises:
        WorkError: The embeddings are not finite.
    """
    images = probe_images(surrounded.size)

    def embed(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        rows = run_in_pieces(surrounded.run, np.ascontiguousarray(pixels), surrounded.batch or len(pixels))
        return rows.astype(np.float64)

    rows = embed(images)
    if not np.isfinite(rows).all() or np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 1e-2:
        raise WorkError("the model gives no unit vectors: values overflow, are not finite, or are all zero")
    if 1 - (rows @ rows.T).min() < _CONSTANT:
        said = f"range 0-{declared.value_range}, mean {declared.mean}, std {declared.std}"
        return [f"quite different images get almost the same embedding, so {said} cannot be what it was trained with"]
    found = []
    dark = images // 4
    if not is_documented and 1 - (embed(dark * 4) * embed(dark)).sum(axis=1).min() < _UNMOVED:
        found.append("its output does not change with the scale of the pixels: check range, mean and std by hat eval")
    if 1 - (rows * embed(images[:, ::-1])).sum(axis=1).min() < _UNMOVED:
        found.append("its output does not change when red and blue are swapped: check that the output is the embedding")
    return found


def _describe(surrounded: Surrounded, declared: ForeignModel, file: str, name: str, like: str | None) -> ArtifactInfo:
    from importlib.metadata import version

    mean, std = affine(declared)
    preprocessing = config_from_dict(
        Preprocessing,
        {
            "height": surrounded.size[0],
            "width": surrounded.size[1],
            "mean": tuple(mean / 255),
            "std": tuple(std / 255),
            "resize": declared.resize,
        },
        where=file,
    )
    model = AdoptedModel(file=file, family=like, color=declared.color, layout=surrounded.layout, output=surrounded.output)
    batch = surrounded.batch
    return ArtifactInfo(
        name=name,
        adopted=model,
        preprocessing=preprocessing,
        embed_dim=surrounded.embed_dim,
        precision=surrounded.precision,
        batch=None if batch is None else BatchProfile(min=batch, opt=batch, max=batch),
        source_sha256=surrounded.source_sha256,
        fingerprint=fingerprint(model, preprocessing, surrounded.source_sha256, surrounded.precision),
        versions={"hat-reid": version("hat-reid"), **surrounded.versions},
        details=surrounded.details,
    )


def why_fixed(reasons: Sequence[str]) -> dict[str, str]:
    """Return the details that say why a batch is fixed; none where it is not."""
    return {"batch_fixed_because": "; ".join(reasons)} if reasons else {}
