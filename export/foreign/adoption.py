"""Adopting: another project's ONNX or OpenVINO file, with all that our files promise put around it.

Its graph stays as it is. Before it come the conversion from uint8 RGB to what it was trained on, after it the L2 norm, and
into the file its metadata, so that everything that takes one of our files takes this one.
"""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hat.config import config_from_dict
from hat.errors import UsageError, WorkError
from hat.io.artifact import AdoptedModel, ArtifactInfo, BatchProfile, fingerprint
from hat.io.atomic_output import atomic_output, check_output
from hat.io.openvino_file import weights_path
from hat.preprocessing import Preprocessing
from hat.runtime import open_runtime
from hat.runtime.protocol import run_in_pieces

from .adopt_onnx import OnnxFile
from .adopt_openvino import OpenVINOFile
from .model import ForeignFile, ForeignModel, GraphIO, WrappedGraph, affine, declared_model, resolve_io

_NUM_PROBES = 8

_SAME, _SAME_ROUNDED = 1e-4, 0.05
"""Largest difference between two embeddings of one image, alone and in a batch, in float32 and in lower precisions. int8 rounds
sums that another order of additions puts beside a half the other way: 0.01 was seen."""

_NO_UNIT_VECTORS = "the model gives no unit vectors: values overflow, are not finite, or are all zero"

_CONSTANT = 1e-3
"""Limit of 1 - cosine between any two of the probe images, below which a model does not see what they show."""

_UNMOVED = 1e-6
"""Limit of 1 - cosine, over all probe images, below which a change of the image has not changed its embedding."""


class AdoptWarning(UserWarning):
    """The declared preprocessing of an adopted model is probably not the one that it was trained with."""


def adopt(
    foreign: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    like: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    **declared: Any,
) -> ArtifactInfo:
    """Make one of our files of another project's: uint8 RGB images in, unit vectors out, its metadata inside.

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
        The file's metadata.

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
    if path.suffix != ending:
        raise UsageError(f"{path}: {foreign.name} stays what it is: expected a name that ends in {ending}")
    if path.resolve() == foreign.resolve():
        raise UsageError(f"{path} is the foreign file itself: give another name")
    for written in (path, weights_path(path)) if ending == ".xml" else (path,):
        check_output(written, overwrite=overwrite)
    file: ForeignFile = OnnxFile(foreign) if ending == ".onnx" else OpenVINOFile(foreign)
    probed = _probe_graph(file, model, str(foreign))
    is_documented = like is not None and not any(declared.get(key) for key in ("value_range", "mean", "std"))
    for warning in _preprocessing_warnings(probed, model, is_documented):
        warnings.warn(AdoptWarning(f"{foreign.name}: {warning}"), stacklevel=2)
    with atomic_output(path, overwrite=overwrite) as temporary:
        info = _describe(probed, file, model, foreign.name, name or foreign.stem, like)
        info = file.save(probed.graph, info, temporary)
        open_runtime(temporary, "cpu")  # checks the file's tensors and weights against what it says of itself
    return info


@dataclass(frozen=True, eq=False)
class _ProbedGraph:
    """Wrapped graph, with the results of running it on probe images."""

    graph: WrappedGraph
    io: GraphIO
    embed_dim: int
    batch: int | None  # the one that it takes; None where it takes any
    reasons: list[str]  # why the batch is fixed


def _probe_graph(file: ForeignFile, declared: ForeignModel, where: str) -> _ProbedGraph:
    """Try the graph with any batch, then with the one that it was made with, on images that show whether it is right."""
    io = resolve_io(file, declared, where)
    reasons: list[str] = []
    for batch in dict.fromkeys((None, io.fixed)):
        images = probe_images(io.size, batch or 3)
        try:
            graph = file.wrap(declared, io, batch)
            rows = graph.run(images)
            if not np.isfinite(rows).all():
                raise WorkError(_NO_UNIT_VECTORS)
            alone = rows if batch is not None else np.concatenate([graph.run(image[None]) for image in images])
            if len(rows) != len(images) or not _is_same(rows, alone, graph):
                reasons.append("images of one batch change each other's embeddings, or do not have one each")
                continue
            if batch is None and io.fixed is not None:
                original = run_in_pieces(file.wrap(declared, io, io.fixed).run, images, io.fixed)
                if not _is_same(rows, original, graph):
                    reasons.append("with an open batch it computes something else")
                    continue
            return _ProbedGraph(graph, io, rows.shape[1], batch, reasons)
        except WorkError as error:
            reasons.append(str(error))
    height, width = io.size
    raise WorkError(f"{where} cannot be run on images of {height} x {width}: {'; '.join(dict.fromkeys(reasons))}")


def probe_images(size: tuple[int, int], count: int = _NUM_PROBES) -> npt.NDArray[np.uint8]:
    """Draw (count, 3, H, W) uint8 images of soft random colors, the same at every call."""
    small = np.random.default_rng(0).integers(0, 256, (count, 8, 4, 3), dtype=np.uint8)
    height, width = size
    large = [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)) for image in small]
    return np.ascontiguousarray(np.stack(large).transpose(0, 3, 1, 2))


def _is_same(rows: npt.NDArray[np.float32], others: npt.NDArray[np.float32], graph: WrappedGraph) -> bool:
    """Return whether two arrays of embeddings are of the same images, up to rounding."""
    limit = _SAME if graph.precision == "fp32" else _SAME_ROUNDED
    return rows.shape == others.shape and bool(np.abs(rows - others).max() < limit)


def _preprocessing_warnings(probed: _ProbedGraph, declared: ForeignModel, is_documented: bool) -> list[str]:
    """Return warnings, one sentence each, where the output shows that the declared preprocessing cannot be right.

    An output that ignores the scale of the pixels is no mistake by itself: networks with instance norm do, those of Open Model
    Zoo among them. It is reported where only the user states range, mean and std (not ``is_documented``): they stay unproven.
    Embeddings that are not finite are a WorkError.
    """
    images = probe_images(probed.io.size)

    def embed(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        rows = run_in_pieces(probed.graph.run, np.ascontiguousarray(pixels), probed.batch or len(pixels))
        return rows.astype(np.float64)

    rows = embed(images)
    if not np.isfinite(rows).all() or np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 1e-2:
        raise WorkError(_NO_UNIT_VECTORS)
    if 1 - (rows @ rows.T).min() < _CONSTANT:
        stated = f"range 0-{declared.value_range}, mean {declared.mean}, std {declared.std}"
        return [f"quite different images get almost the same embedding, so {stated} cannot be what it was trained with"]
    messages = []
    dark = images // 4
    if not is_documented and 1 - (embed(dark * 4) * embed(dark)).sum(axis=1).min() < _UNMOVED:
        messages.append("its output does not change with the scale of the pixels: check range, mean and std by hat eval")
    if 1 - (rows * embed(images[:, ::-1])).sum(axis=1).min() < _UNMOVED:
        messages.append("its output does not change when red and blue are swapped: check that the output is the embedding")
    return messages


def _describe(
    probed: _ProbedGraph, foreign: ForeignFile, declared: ForeignModel, file: str, name: str, like: str | None
) -> ArtifactInfo:
    from importlib.metadata import version

    mean, std = affine(declared)
    batch, io, graph = probed.batch, probed.io, probed.graph
    fields: dict[str, Any] = {"height": io.size[0], "width": io.size[1], "resize": declared.resize}
    fields |= {"mean": tuple(mean / 255), "std": tuple(std / 255)}
    preprocessing = config_from_dict(Preprocessing, fields, where=file)
    output = foreign.outputs[io.output]
    model = AdoptedModel(file=file, family=like, color=declared.color, layout=io.layout, output=output)
    return ArtifactInfo(
        name=name,
        adopted=model,
        preprocessing=preprocessing,
        embed_dim=probed.embed_dim,
        precision=graph.precision,
        batch=None if batch is None else BatchProfile(min=batch, opt=batch, max=batch),
        source_sha256=foreign.sha256,
        fingerprint=fingerprint(model, preprocessing, foreign.sha256, graph.precision),
        versions={"hat-reid": version("hat-reid"), **foreign.versions},
        details={"batch_fixed_because": "; ".join(probed.reasons)} if probed.reasons else {},
    )
