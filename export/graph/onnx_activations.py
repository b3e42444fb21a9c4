"""Activations of an ONNX graph: the values of any of its tensors for a few images at a time, and their ranges."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hat.console import progress
from hat.errors import MissingExtraError, WorkError, first_line
from hat.io.artifact import INPUT_NAME
from hat.runtime.onnxruntime_runtime import add_in_32_bits

if TYPE_CHECKING:
    import onnx
    import onnxruntime


Range = tuple[float, float]
"""Lowest and highest value."""

CalibrationName = Literal["minmax", "percentile"]

_BATCH_SIZE = 4
"""All tensors of these images are in memory at once: a few hundred megabytes for the large models."""

_NUM_BINS = 4096


def open_session(
    proto: onnx.ModelProto, optimization: str = "ORT_ENABLE_ALL", *, optimized: Path | None = None
) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime on the CPU, and write what its optimization makes of it to ``optimized``.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "export", "quantizing") from None
    import onnx

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is raised, and need not be printed too
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, optimization)
    add_in_32_bits(options)
    # Threads of its own that find nothing to do would hold up what is computed of the values between two runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimized is not None:
        options.optimized_model_filepath = os.fspath(optimized)
    with tempfile.TemporaryDirectory(prefix="hat-onnx-") as folder:
        given: bytes | Path
        if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
            given = proto.SerializeToString()
        else:
            given = Path(folder) / "model.onnx"
            onnx.save_model(proto, given, save_as_external_data=True, location="model.onnx.data")
            onnx.load_external_data_for_model(proto, folder)  # writing has taken the weights out of the graph
        try:
            return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base below Exception
            raise _failure(error) from error


class GraphRunner:
    """A graph in ONNX Runtime on the CPU, which runs on images again and again; the errors are those of `open_session`.

    With ``optimize`` ONNX Runtime fuses nodes, Q/DQ pairs into integer kernels; without, it goes node by node.
    """

    def __init__(self, proto: onnx.ModelProto, *, optimize: bool = True) -> None:
        import onnx

        kind = proto.graph.input[0].type.tensor_type
        self.is_uint8 = kind.elem_type == onnx.TensorProto.UINT8
        self.fixed_batch: int | None = kind.shape.dim[0].dim_value or None
        self.session = open_session(proto, "ORT_ENABLE_ALL" if optimize else "ORT_DISABLE_ALL")

    def run(self, images: npt.NDArray[np.uint8], names: Sequence[str] | None = None) -> list[npt.NDArray[Any]]:
        """Return outputs, all or those named, for one batch of images, (B, 3, H, W) uint8 RGB."""
        feed = {INPUT_NAME: images if self.is_uint8 else images.astype(np.float32)}
        try:
            values: list[npt.NDArray[Any]] = self.session.run(names, feed)
        except Exception as error:  # its exceptions share no base below Exception
            raise _failure(error) from error
        return values

    def batches(self, images: npt.NDArray[np.uint8], names: Sequence[str] | None = None) -> Iterator[list[npt.NDArray[Any]]]:
        """Yield what `run` returns for a few images at a time; the last image is repeated to fill a fixed batch."""
        size = self.fixed_batch or _BATCH_SIZE
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            missing = size - len(piece) if self.fixed_batch else 0
            yield self.run(np.concatenate([piece, np.repeat(piece[-1:], missing, axis=0)]) if missing else piece, names)

    def embed(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the first output of all images, (n, embed_dim) float32."""
        return np.concatenate([values[0] for values in self.batches(images)])[: len(images)].astype(np.float32, copy=False)


def _failure(error: Exception) -> WorkError:
    return WorkError(f"the graph cannot be run: {first_line(error)}")


def activations(
    proto: onnx.ModelProto, names: Sequence[str], images: npt.NDArray[np.uint8]
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Yield the values of tensors of a model for the next few images, by name, float32 whatever it computes in.

    The errors are those of `open_session`; WorkError also where the graph does not tell the type of a tensor.
    """
    for values in GraphRunner(_with_outputs(proto, names)).batches(images, names):
        yield {name: value.astype(np.float32, copy=False) for name, value in zip(names, values, strict=True)}


def _with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    import onnx

    changed = copy.deepcopy(proto)
    types = {info.name: info.type for info in (*proto.graph.value_info, *proto.graph.output)}
    if not types.keys() >= set(names):  # graphs of other projects name few types
        changed = onnx.shape_inference.infer_shapes(changed)
        types = {info.name: info.type for info in (*changed.graph.value_info, *changed.graph.output)}
    if unknown := [name for name in names if name not in types]:
        raise WorkError(f"the graph does not tell the type of {unknown[0]}")
    given = {output.name for output in proto.graph.output}
    changed.graph.output.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in names if name not in given)
    return changed


def tensor_ranges(
    proto: onnx.ModelProto,
    operators: Sequence[str],
    images: npt.NDArray[np.uint8],
    *,
    method: CalibrationName = "minmax",
    percentile: float = 99.99,
) -> dict[str, Range]:
    """Return the range of every activation that enters or leaves operators of certain types, over (n, 3, H, W) uint8 images.

    ``"minmax"`` takes the extremes; ``"percentile"`` keeps that part of the values, in percent, and cuts off an equal part at
    both ends, for which the images are run a second time.

    Raises:
        WorkError: The model gives values that are not finite, or cannot be run.
    """
    weights = {tensor.name for tensor in proto.graph.initializer} | {"", INPUT_NAME}
    touched = (name for node in proto.graph.node if node.op_type in operators for name in (*node.input, *node.output))
    names = [name for name in dict.fromkeys(touched) if name not in weights]
    extremes = dict.fromkeys(names, (np.inf, -np.inf))
    for name, value in _values(proto, names, images, "extremes"):
        low, high = (float(end) for end in torch.aminmax(value))
        if not np.isfinite([low, high]).all():
            raise WorkError(f"calibration failed: the tensor {name} takes values that are not finite")
        extremes[name] = (min(extremes[name][0], low), max(extremes[name][1], high))
    if method == "minmax":
        return extremes
    histograms = {name: torch.zeros(_NUM_BINS, dtype=torch.float64) for name in names}
    for name, value in _values(proto, names, images, "percentiles"):
        low, high = extremes[name]
        if high > low:
            histograms[name] += torch.histc(value.flatten(), _NUM_BINS, low, high)
    return {name: _kept(histogram, extremes[name], percentile) for name, histogram in histograms.items()}


def _values(
    proto: onnx.ModelProto, names: Sequence[str], images: npt.NDArray[np.uint8], purpose: str
) -> Iterator[tuple[str, Tensor]]:
    with progress() as display:
        task = display.add_task("calibrating", total=len(images), info=purpose)
        for values in activations(proto, names, images):
            for name, value in values.items():
                yield name, torch.from_numpy(value)
            display.advance(task, len(value))


def _kept(counts: Tensor, ends: Range, percentile: float) -> Range:
    """Return the edges of the bins in which the values that are kept begin and end."""
    if not counts.any():  # one value alone
        return ends
    below = torch.cumsum(counts, 0) / counts.sum()
    cut = (1 - percentile / 100) / 2
    first = int(torch.searchsorted(below, cut, right=True))
    last = int(torch.searchsorted(below, 1 - cut))
    width = (ends[1] - ends[0]) / len(counts)
    return (ends[0] + width * min(first, len(counts) - 1), ends[0] + width * min(last + 1, len(counts)))
