"""Weights on the grid of eight bits, rounded so that a layer's outputs change least, not its weights.

To the nearest step, every weight errs by itself, and the errors add up. Here each rounding error is made good by the weights
that are not rounded yet: the least squares update of Optimal Brain Quantization, in the order and with the Cholesky factor of
GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023, Algorithm
1). All that it needs to know of the images is which inputs of a layer go together: the second moments of what enters it.

Differs: the largest weight of a channel decides its scale and is kept as it is, so that whoever quantizes the result by the
usual rule, symmetric by the largest weight of each channel, finds these very steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph.onnx_activations import activations
from .qdq_insertion import QuantizableLayer

if TYPE_CHECKING:
    import onnx

__all__ = ["round_to_steps", "round_weights"]

_LARGEST = 127
_DAMPING = 0.01
"""Part of the mean second moment that is added to each: images that were not looked at differ from those that were."""

_BLOCK = 32
_MOST_INPUTS = 1024
"""Inputs whose second moments are looked at together; a layer of more is rounded in parts, since work grows with their cube."""

_MOST_PLACES = 16_384
"""Places in all images at which a layer's inputs are looked at; a map has thousands of them that differ little."""

_MOST_MOMENTS = 2**28
"""Second moments that are held at once, 1 GiB; where layers have more, the images are run again for the rest."""


def round_weights(
    proto: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    images: npt.NDArray[np.uint8],
    *,
    advance: Callable[[int], None] | None = None,
) -> onnx.ModelProto:
    """A copy of a model in which the weights of some layers are whole multiples of a 127th of each channel's largest.

    Args:
        proto: A floating-point model, float32 or float16.
        layers: Which, of `hat.export.int8.qdq_insertion.find_layers`; those without a weight are left alone.
        images: (n, 3, H, W) uint8 RGB, whose inputs to each layer decide.
        advance: Called with the number of layers that were just rounded.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    import onnx
    from onnx import numpy_helper

    rounded = onnx.ModelProto()
    rounded.CopyFrom(proto)
    weights = {tensor.name: tensor for tensor in rounded.graph.initializer}
    nodes = {node.name: node for node in proto.graph.node}
    parts = [_Part(layer, nodes[layer.node], weights[layer.weight]) for layer in layers if layer.weight is not None]
    for group in _in_groups(parts):
        names = list(dict.fromkeys(part.layer.inputs[0] for part in group))
        most = max(1, _MOST_PLACES // len(images))
        for values in activations(proto, names, images):
            for part in group:
                part.look_at(torch.from_numpy(values[part.layer.inputs[0]]), most)
        for part in group:
            before = numpy_helper.to_array(part.tensor)
            part.tensor.CopyFrom(numpy_helper.from_array(part.rounded(before).astype(before.dtype), part.tensor.name))
            if advance is not None:
                advance(1)
    return rounded


class _Part:
    """A layer, its weight, and the second moments of its inputs so far."""

    def __init__(self, layer: QuantizableLayer, node: onnx.NodeProto, tensor: onnx.TensorProto) -> None:
        from onnx import helper

        self.layer, self.tensor = layer, tensor
        self.is_convolution = node.op_type == "Conv"
        self.attributes: dict[str, Any] = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        self.num_groups = int(self.attributes.get("group", 1))
        num_inputs = layer.size // tensor.dims[layer.channel_axis]  # of one output channel
        self.num_parts = next(
            parts for parts in range(-(-num_inputs // _MOST_INPUTS), num_inputs + 1) if num_inputs % parts == 0
        )
        self.num_inputs = num_inputs // self.num_parts  # of one part
        self.moments = torch.zeros(0)
        self.num_moments = self.num_groups * self.num_parts * self.num_inputs**2
        self.generator = torch.Generator().manual_seed(0)

    def look_at(self, inputs: Tensor, most_of_an_image: int) -> None:
        """Add the second moments of some inputs, at a random choice of places."""
        rows = self._some_rows(inputs, most_of_an_image * len(inputs))
        by_part = rows.reshape(len(rows), -1, self.num_inputs).transpose(0, 1)  # (groups * parts, places, inputs)
        moments = by_part.transpose(1, 2) @ by_part
        self.moments = self.moments + moments if len(self.moments) else moments

    def _some_rows(self, inputs: Tensor, most: int) -> Tensor:
        """What enters the layer at some places: (places, groups * inputs)."""
        if not self.is_convolution:
            rows = inputs.reshape(-1, inputs.shape[-1])
            return rows[torch.randperm(len(rows), generator=self.generator)[:most]]
        top, left, bottom, right = self.attributes.get("pads", [0, 0, 0, 0])
        padded = F.pad(inputs, (left, right, top, bottom))  # (B, C, H, W)
        kernel = self.tensor.dims[2:]
        steps, spacing = self.attributes.get("strides", [1, 1]), self.attributes.get("dilations", [1, 1])
        reach = [gap * (size - 1) for gap, size in zip(spacing, kernel, strict=True)]
        height, width = ((size - far - 1) // step + 1 for size, far, step in zip(padded.shape[2:], reach, steps, strict=True))
        chosen = torch.randperm(len(padded) * height * width, generator=self.generator)[:most]
        image, row, column = chosen // (height * width), chosen // width % height, chosen % width
        rows = row[:, None] * steps[0] + torch.arange(kernel[0]) * spacing[0]  # (places, kernel height)
        columns = column[:, None] * steps[1] + torch.arange(kernel[1]) * spacing[1]  # (places, kernel width)
        patches = padded.permute(0, 2, 3, 1)[image[:, None, None], rows[:, :, None], columns[:, None, :]]
        return patches.permute(0, 3, 1, 2).reshape(len(chosen), -1)

    def rounded(self, weight: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The weight on its grid."""
        rows = torch.from_numpy(np.moveaxis(weight, self.layer.channel_axis, 0).astype(np.float64))
        by_group = rows.reshape(self.num_groups, -1, self.num_parts, self.num_inputs)
        scale = by_group.abs().amax(dim=(2, 3), keepdim=True) / _LARGEST
        scale = torch.where(scale > 0, scale, torch.ones_like(scale)).expand(-1, -1, self.num_parts, -1)
        by_part, scale = (part.transpose(1, 2).flatten(0, 1) for part in (by_group, scale))  # (groups * parts, channels, ...)
        done = round_to_steps(by_part, scale, self.moments.double())
        self.moments = torch.zeros(0)
        back = done.unflatten(0, (self.num_groups, self.num_parts)).transpose(1, 2).reshape(rows.shape)
        return np.moveaxis(back.numpy(), 0, self.layer.channel_axis)


def round_to_steps(rows: Tensor, scale: Tensor, moments: Tensor) -> Tensor:
    """Round the weights of output channels, in groups that share their inputs.

    Args:
        rows: (groups, channels, inputs) float64, no value beyond 127 steps.
        scale: (groups, channels, 1) float64, the size of a step.
        moments: (groups, inputs, inputs) float64, sums of the products of any two inputs.

    Returns:
        (groups, channels, inputs): whole multiples of the steps, at most 127; those that were 127 still are.
    """
    # What varies most is rounded first, while there are many left to make it good.
    order = torch.argsort(moments.diagonal(dim1=1, dim2=2), dim=1, descending=True)
    moments = moments.gather(1, order[:, :, None].expand_as(moments)).gather(2, order[:, None, :].expand_as(moments))
    factor = _factor(moments)
    # Inputs before channels: what is worked on together lies together.
    by_row = order[:, :, None].expand(-1, -1, rows.shape[1])
    left, scale = (
        rows.transpose(1, 2).gather(1, by_row),
        scale.transpose(1, 2),
    )  # (groups, inputs, channels), (groups, 1, channels)
    steps, errors = left / scale, torch.zeros_like(left)
    is_largest = steps.abs() > _LARGEST - 1e-6
    for start in range(0, left.shape[1], _BLOCK):
        end = min(start + _BLOCK, left.shape[1])
        for place in range(start, end):
            value, step = left[:, place], steps[:, place]  # (groups, channels)
            torch.where(is_largest[:, place], step, value / scale[:, 0], out=step)
            step.round_().clamp_(-_LARGEST, _LARGEST)
            errors[:, place] = (value - step * scale[:, 0]) / factor[:, place, place, None]
            left[:, place + 1 : end] -= factor[:, place, place + 1 : end, None] * errors[:, place, None]
        left[:, end:] -= factor[:, start:end, end:].transpose(1, 2) @ errors[:, start:end]
    return torch.empty_like(steps).scatter_(1, by_row, steps * scale).transpose(1, 2)


def _factor(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverses of damped moments, (groups, inputs, inputs).

    Where the inputs were always zero, there is nothing to make errors good with, and it is the identity.
    """
    identity = torch.eye(moments.shape[1], dtype=moments.dtype)
    mean = moments.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    is_silent = mean < 1e-24  # below it the squares of float32 are no longer told apart
    damped = torch.where(is_silent, identity, moments / mean.clamp(min=1e-24) + _DAMPING * identity)
    # M = R R' with an upper R, which is the lower factor of M turned about; then the inverse of M is R^-1' R^-1.
    turned = torch.linalg.cholesky(damped.flip(1, 2)).flip(1, 2)
    factor: Tensor = torch.linalg.solve_triangular(turned, identity.expand_as(turned), upper=True)
    return factor


def _in_groups(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Runs of layers whose moments fit into memory together."""
    group: list[_Part] = []
    for part in parts:
        if group and sum(other.num_moments for other in group) + part.num_moments > _MOST_MOMENTS:
            yield group
            group = []
        group.append(part)
    if group:
        yield group
