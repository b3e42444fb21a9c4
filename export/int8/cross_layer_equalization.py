"""Cross-layer equalization: what one layer divides a channel by, the next one multiplies it with.

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

import copy
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..graph.onnx_activations import activations
from ..graph.onnx_trace import attributes_of

if TYPE_CHECKING:
    import onnx


_COMMUTING = ("Add", "Clip", "Identity", "MaxPool", "Relu")
"""Operators that a positive scale for each channel passes through unchanged; a Clip from zero if its bound is scaled too."""

_ALPHA = 0.8
"""SmoothQuant's exponent: the part of the spread that a dense convolution takes into its weights. One half is usual; GPTQ,
which rounds the weights here, makes more of it good."""

_HEADROOM = 1.25
"""Headroom of a channel beyond its range on the images, before a Clip ends it."""

_MIN_SHARE = 1 / 32
"""Channels of less than this part of the widest one are not widened further: they are all but silent."""

Array = npt.NDArray[np.float64]


@dataclass
class EqualizationGroup:
    """Tensors whose channels must share their scales, since nothing but commuting operators lies between them."""

    producers: list[onnx.NodeProto] = field(default_factory=list)  # convolutions that write them
    consumers: list[onnx.NodeProto] = field(default_factory=list)  # convolutions that read them
    clips: list[onnx.NodeProto] = field(default_factory=list)  # the ReLU6-like operators between
    bounds: set[float] = field(default_factory=set)  # where those cut
    is_closed: bool = True  # nothing else reads or writes them

    @property
    def can_be_scaled(self) -> bool:
        """Return whether convolutions alone write and read it, and all clips cut alike."""
        return self.is_closed and bool(self.producers) and bool(self.consumers) and len(self.bounds) <= 1


def equalize_channels(proto: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> tuple[onnx.ModelProto, int]:
    """Return a copy of a model that computes the same with channels of more equal ranges, and how many groups were changed.

    The model is float32 or float16 with its batch norms folded; ranges are measured on (n, 3, H, W) uint8 RGB images.
    """
    from onnx import numpy_helper

    equalized = copy.deepcopy(proto)
    constants = {tensor.name: tensor for tensor in equalized.graph.initializer}
    groups = _find_groups(equalized, constants)
    if not groups:
        return equalized, 0
    ranges = _channel_ranges(proto, [consumer.input[0] for group in groups for consumer in group.consumers], images)
    names = {name for group in groups for node in (*group.producers, *group.consumers) for name in node.input[1:] if name}
    weights: dict[str, Array] = {name: numpy_helper.to_array(constants[name]).astype(np.float64) for name in names}
    for group in groups:
        largest = np.maximum.reduce([ranges[consumer.input[0]] for consumer in group.consumers])
        if not largest.any():
            continue
        largest = np.maximum(largest, _MIN_SHARE * largest.max())
        if group.bounds:
            # Behind a Clip every channel must end at one number c. With s = r / c for what a channel may reach, r, it does: so
            # the weights have no say, and r is bounded by where the channel was cut before.
            reachable = np.minimum(_HEADROOM * largest, next(iter(group.bounds)))
            scale = _normalized(reachable)
            for clip in group.clips:
                dtype = numpy_helper.to_array(constants[clip.input[2]]).dtype
                clip.input[2] = f"{clip.name}/max"
                bound = np.asarray((reachable / scale)[0], dtype=dtype)
                equalized.graph.initializer.append(numpy_helper.from_array(bound, clip.input[2]))
        else:
            scale = _smoothing_scale(largest, [_input_shares(node, weights[node.input[1]]) for node in group.consumers])
        for node in group.producers:  # y / s = (W / s) x + b / s
            for name in node.input[1:]:
                weights[name] = weights[name] / scale.reshape(-1, *[1] * (weights[name].ndim - 1))
        for node in group.consumers:  # W y = (W s) (y / s)
            grouped = _grouped(node, weights[node.input[1]])
            scaled = grouped * scale.reshape(len(grouped), 1, -1, 1, 1)
            weights[node.input[1]] = scaled.reshape(weights[node.input[1]].shape)
    for name, value in weights.items():
        element = numpy_helper.to_array(constants[name]).dtype
        constants[name].CopyFrom(numpy_helper.from_array(value.astype(element), name))
    return equalized, len(groups)


def _smoothing_scale(largest: Array, shares: Sequence[Array | None]) -> Array:
    """Return SmoothQuant's scale of each channel, range^alpha / weight^(1 - alpha), with a geometric mean of 1.

    The weight is the largest of all consumers' `_input_shares`; depthwise ones have none, and a scale for every channel.
    """
    dense = [share for share in shares if share is not None]
    if not dense:
        return _normalized(largest)
    weight = np.maximum.reduce(dense)
    weight = np.maximum(weight, _MIN_SHARE * max(weight.max(), np.finfo(np.float32).tiny))
    return _normalized(largest**_ALPHA / weight ** (1 - _ALPHA))


def _normalized(values: Array) -> Array:
    scaled: Array = values / np.exp(np.log(values).mean())
    return scaled


def _grouped(node: onnx.NodeProto, weight: Array) -> Array:
    """View the weight of a convolution as (groups, outputs, inputs, kernel height, kernel width)."""
    return weight.reshape(attributes_of(node).get("group", 1), -1, *weight.shape[1:])


def _input_shares(node: onnx.NodeProto, weight: Array) -> Array | None:
    """Return the largest weight on each input channel, relative to its output channel's; None for a depthwise convolution."""
    grouped = _grouped(node, weight)
    if grouped.shape[2] == 1:
        return None
    size = np.abs(grouped).max(axis=(3, 4))
    largest = size.max(axis=2, keepdims=True)
    share: Array = (size / np.where(largest > 0, largest, 1)).max(axis=1).reshape(-1)
    return share


def _find_groups(proto: onnx.ModelProto, constants: dict[str, onnx.TensorProto]) -> list[EqualizationGroup]:
    """Return the groups of tensors whose channels can be scaled."""
    from onnx.numpy_helper import to_array
    from scipy.cluster.hierarchy import DisjointSet

    def tensors(node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if name and name not in constants]

    num_readers = Counter(name for node in proto.graph.node for name in node.input if name in constants)
    ends = [value.name for value in (*proto.graph.input, *proto.graph.output)]
    connected = DisjointSet([*ends, *(name for node in proto.graph.node for name in (*tensors(node), *node.output))])
    commuting = {node.name: node for node in proto.graph.node if _commutes(node, constants)}
    for node in commuting.values():
        for name in tensors(node):
            connected.merge(name, node.output[0])
    groups: defaultdict[str, EqualizationGroup] = defaultdict(EqualizationGroup)

    def group_of(name: str) -> EqualizationGroup:
        return groups[connected[name]]

    for name in ends:
        group_of(name).is_closed = False
    for node in proto.graph.node:
        if node.name in commuting:
            if node.op_type == "Clip":
                group = group_of(node.output[0])
                group.clips.append(node)
                group.bounds.add(float(to_array(constants[node.input[2]])))
        elif node.op_type == "Conv" and all(num_readers[name] == 1 for name in node.input[1:]):  # shared weights stay
            group_of(node.input[0]).consumers.append(node)
            group_of(node.output[0]).producers.append(node)
        else:
            for name in (*tensors(node), *node.output):
                group_of(name).is_closed = False
    return [group for group in groups.values() if group.can_be_scaled]


def _commutes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    from onnx.numpy_helper import to_array

    if node.op_type not in _COMMUTING or len(node.output) != 1:
        return False
    if node.op_type == "Add":
        return not any(name in constants for name in node.input)
    if node.op_type == "Clip":
        bounds = [constants[name] for name in node.input[1:] if name in constants]
        return len(bounds) == 2 and float(to_array(bounds[0])) == 0
    return True


def _channel_ranges(proto: onnx.ModelProto, names: Sequence[str], images: npt.NDArray[np.uint8]) -> dict[str, Array]:
    """Return the largest absolute value of each channel of each tensor."""
    ranges: dict[str, Array] = {}
    for values in activations(proto, list(dict.fromkeys(names)), images):
        for name, value in values.items():
            largest = np.abs(value).max(axis=(0, 2, 3)).astype(np.float64)
            ranges[name] = np.maximum(ranges[name], largest) if name in ranges else largest
    return ranges
