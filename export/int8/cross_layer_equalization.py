"""Channels of alike range: what one layer divides a channel by, the next one multiplies it with.

Eight bits give one scale to all channels of a tensor, so that a channel of small values beside one of large values is left with
few steps. A convolution may give each channel another scale, through any ReLU, pooling or sum, as long as those that read it
undo it: the graph computes the same (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
ICCV 2019, Sec. 4.1).

Differs: ranges are those of activations on images, as in SmoothQuant (Xiao et al., ICML 2023, Eq. 4), and not those of the
weights before them, since weights have a scale for each output channel anyway. What a depthwise convolution reads can so be
made equal for nothing; elsewhere a part of the spread moves into the weights. Behind a ReLU6 all channels end at one number
again: a channel that reached its six on the images still ends there, any other a little above what it reached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..graph.onnx_activations import activations

if TYPE_CHECKING:
    import onnx

__all__ = ["equalize_channels"]

_PASSED_BY = ("Add", "Clip", "Identity", "MaxPool", "Relu")
"""What a scale for each channel passes through unchanged; a Clip from zero to a number once all channels end at one."""

_SHARE = 0.8
"""Part of the spread that a dense convolution takes into its weights, which are rounded with care; one half is usual."""

_HEADROOM = 1.25
"""How far beyond what it reached on the images a channel may go before a Clip ends it."""

_LEAST = 1 / 32
"""Channels of less than this part of the widest one are not stretched further. They are all but silent, and their weights would
become so large that a quantizer which bounds how far the scales of a tensor may lie apart, as NNCF does, cuts into the rest."""


@dataclass
class _Stretch:
    """Tensors whose channels must share their scales: what makes them, what reads them, and where they are cut between."""

    makers: list[onnx.NodeProto] = field(default_factory=list)
    readers: list[onnx.NodeProto] = field(default_factory=list)
    clips: list[onnx.NodeProto] = field(default_factory=list)
    ends: set[float] = field(default_factory=set)
    is_free: bool = True

    @property
    def can_be_scaled(self) -> bool:
        """Whether convolutions alone make and read it, and all cuts are alike."""
        return self.is_free and bool(self.makers) and bool(self.readers) and len(self.ends) <= 1


def equalize_channels(proto: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> tuple[onnx.ModelProto, int]:
    """A copy of a model that computes the same with channels of more alike ranges.

    Args:
        proto: A floating-point model, float32 or float16, its batch norms folded.
        images: (n, 3, H, W) uint8 RGB, on which the ranges are looked up.

    Returns:
        The copy, and the number of stretches of the graph that were changed: those that begin and end at convolutions.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    stretches = _stretches(changed)
    if not stretches:
        return changed, 0
    ranges = _channel_ranges(proto, [reader.input[0] for stretch in stretches for reader in stretch.readers], images)
    weights = _Weights(changed)
    for stretch in stretches:
        reach = np.maximum.reduce([ranges[reader.input[0]] for reader in stretch.readers])
        if not reach.any():
            continue
        reach = np.maximum(reach, _LEAST * reach.max())
        if stretch.ends:
            reach = np.minimum(_HEADROOM * reach, next(iter(stretch.ends)))
            scale = _around_one(reach)
            weights.end_at(stretch.clips, float((reach / scale)[0]))
        else:
            scale = _scale(reach, [weights.by_input_channel(reader) for reader in stretch.readers])
        for maker in stretch.makers:
            weights.divide_outputs(maker, scale)
        for reader in stretch.readers:
            weights.multiply_inputs(reader, scale)
    weights.store()
    return changed, len(stretches)


def _scale(reach: npt.NDArray[np.float64], weights: Sequence[npt.NDArray[np.float64] | None]) -> npt.NDArray[np.float64]:
    """What to divide each channel by; its geometric mean is 1."""
    dense = [size for size in weights if size is not None]
    if not dense:
        return _around_one(reach)
    size = np.maximum.reduce(dense)
    size = np.maximum(size, _LEAST * max(size.max(), np.finfo(np.float32).tiny))
    return _around_one(reach**_SHARE / size ** (1 - _SHARE))


def _around_one(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled: npt.NDArray[np.float64] = values / np.exp(np.log(values).mean())
    return scaled


def _stretches(proto: onnx.ModelProto) -> list[_Stretch]:
    """The stretches whose channels can be scaled."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    sets = _DisjointSets()
    passing = [node for node in proto.graph.node if _passes(node, constants)]
    for node in passing:
        for name in _activations(node, constants):
            sets.join(name, node.output[0])
    found: defaultdict[str, _Stretch] = defaultdict(_Stretch)
    for value in (*proto.graph.input, *proto.graph.output):
        found[sets.find(value.name)].is_free = False
    for node in passing:
        if node.op_type == "Clip":
            found[sets.find(node.output[0])].clips.append(node)
            found[sets.find(node.output[0])].ends.add(_end(node, constants))
    names_passing = {node.name for node in passing}
    for node in proto.graph.node:
        if node.name in names_passing:
            continue
        read = [found[sets.find(name)] for name in _activations(node, constants)]
        made = [found[sets.find(name)] for name in node.output]
        if node.op_type == "Conv" and all(name in constants for name in node.input[1:]):
            read[0].readers.append(node)
            made[0].makers.append(node)
        else:
            for stretch in (*read, *made):
                stretch.is_free = False
    return [stretch for stretch in found.values() if stretch.can_be_scaled]


def _passes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    from onnx import numpy_helper

    if node.op_type not in _PASSED_BY or len(node.output) != 1:
        return False
    if node.op_type == "Add":
        return not any(name in constants for name in node.input)
    if node.op_type == "Clip":
        bounds = [constants.get(name) for name in node.input[1:]]
        return len(bounds) == 2 and None not in bounds and float(numpy_helper.to_array(bounds[0])) == 0
    return True


def _end(clip: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> float:
    from onnx import numpy_helper

    return float(numpy_helper.to_array(constants[clip.input[2]]))


def _activations(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[str]:
    return [name for name in node.input if name and name not in constants]


def _channel_ranges(
    proto: onnx.ModelProto, names: Sequence[str], images: npt.NDArray[np.uint8]
) -> dict[str, npt.NDArray[np.float64]]:
    """Largest absolute value of each channel of each tensor."""
    ranges: dict[str, npt.NDArray[np.float64]] = {}
    for values in activations(proto, list(dict.fromkeys(names)), images):
        for name, value in values.items():
            largest = np.abs(value).max(axis=(0, 2, 3)).astype(np.float64)
            ranges[name] = np.maximum(ranges[name], largest) if name in ranges else largest
    return ranges


class _Weights:
    """Weights and biases of a model's convolutions while they are scaled."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._graph = proto.graph
        self._tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._values: dict[str, npt.NDArray[np.float64]] = {}

    def by_input_channel(self, node: onnx.NodeProto) -> npt.NDArray[np.float64] | None:
        """Largest weight that reads each input channel, relative to its output channel; None for a depthwise convolution."""
        grouped = self._grouped(node)  # (groups, outputs, inputs, kernel...)
        if grouped.shape[2] == 1:
            return None
        size = np.abs(grouped).max(axis=(3, 4))
        largest = size.max(axis=2, keepdims=True)
        share: npt.NDArray[np.float64] = (size / np.where(largest > 0, largest, 1)).max(axis=1).reshape(-1)
        return share

    def divide_outputs(self, node: onnx.NodeProto, scale: npt.NDArray[np.float64]) -> None:
        """Let a convolution give each output channel divided by a number."""
        self._values[node.input[1]] = self._value(node.input[1]) / scale[:, None, None, None]
        if len(node.input) > 2:
            self._values[node.input[2]] = self._value(node.input[2]) / scale

    def multiply_inputs(self, node: onnx.NodeProto, scale: npt.NDArray[np.float64]) -> None:
        """Let a convolution read each input channel multiplied by a number."""
        grouped = self._grouped(node)
        shape = self._value(node.input[1]).shape
        self._values[node.input[1]] = (grouped * scale.reshape(len(grouped), 1, -1, 1, 1)).reshape(shape)

    def end_at(self, clips: Sequence[onnx.NodeProto], end: float) -> None:
        """Let some Clips cut at another number."""
        from onnx import numpy_helper

        for clip in clips:
            element: Any = numpy_helper.to_array(self._tensors[clip.input[2]]).dtype
            clip.input[2] = f"{clip.name}/end"
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(end, dtype=element), clip.input[2]))

    def store(self) -> None:
        """Write the values into the model."""
        from onnx import numpy_helper

        for name, value in self._values.items():
            element: Any = numpy_helper.to_array(self._tensors[name]).dtype
            self._tensors[name].CopyFrom(numpy_helper.from_array(value.astype(element), name))

    def _value(self, name: str) -> npt.NDArray[np.float64]:
        from onnx import numpy_helper

        if name not in self._values:
            self._values[name] = numpy_helper.to_array(self._tensors[name]).astype(np.float64)
        return self._values[name]

    def _grouped(self, node: onnx.NodeProto) -> npt.NDArray[np.float64]:
        groups = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
        value = self._value(node.input[1])
        return value.reshape(groups, -1, *value.shape[1:])


class _DisjointSets:
    """Which names belong together."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The name that stands for all that belong together with this one."""
        while (parent := self._parents.get(name, name)) != name:
            name = parent
        return name

    def join(self, first: str, second: str) -> None:
        """Let two names belong together."""
        self._parents[self.find(first)] = self.find(second)
