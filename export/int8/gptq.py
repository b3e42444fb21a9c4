"""GPTQ: weights on the grid of eight bits, rounded so that a layer's outputs change least, not its weights.

To the nearest step, every weight errs by itself, and the errors add up. Here each rounding error is made good by the weights
that are not rounded yet: the least squares update of Optimal Brain Quantization, in the order and with the Cholesky factor of
GPTQ (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023, Algorithm
1). All that it needs to know of the images is the Hessian of the squared error of a layer's output, H = X X', the second
moments of what enters the layer.

Differs: the largest weight of a channel decides its scale and is kept as it is, so that whoever quantizes the result by the
usual rule, symmetric by the largest weight of each channel, finds these very steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hat.console import progress

from ..graph.onnx_activations import activations
from ..graph.onnx_trace import attributes_of
from .qdq_insertion import QuantizableLayer

if TYPE_CHECKING:
    import onnx


_LARGEST = 127
_DAMPING = 0.01
"""Part of the mean of the diagonal that is added to it, GPTQ's 1 %: other images differ from those of the calibration."""

_BLOCK = 32
_MAX_INPUTS = 1024
"""Inputs that share a Hessian; a layer of more is rounded in parts, since the work grows with their cube."""

_MAX_POSITIONS = 16_384
"""Positions in all images at which a layer's inputs are sampled; a map has thousands of them that differ little."""

_MAX_HESSIAN_ELEMENTS = 2**28
"""Elements of all Hessians that are held at once, 1 GiB; where layers have more, the images are run again for the rest."""


def round_weights(
    proto: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    images: npt.NDArray[np.uint8],
    *,
    per_tensor: bool = False,
) -> onnx.ModelProto:
    """Return a copy of a model in which the weights of some layers are whole multiples of a 127th of each channel's largest.

    The model is float32 or float16; what enters each layer for the images, (n, 3, H, W) uint8 RGB, decides. With ``per_tensor``
    it is a 127th of each tensor's largest for all of its channels. Layers without a weight are left alone.
    """
    from onnx import numpy_helper

    rounded = copy.deepcopy(proto)
    weights = {tensor.name: tensor for tensor in rounded.graph.initializer}
    nodes = {node.name: node for node in proto.graph.node}
    parts = [
        _Rounding(layer, nodes[layer.node], weights[layer.weight], per_tensor) for layer in layers if layer.weight is not None
    ]
    max_per_image = max(1, _MAX_POSITIONS // len(images))
    with progress() as display:
        task = display.add_task("rounding weights", total=len(parts), info="")
        for group in _in_groups(parts):
            names = list(dict.fromkeys(part.layer.inputs[0] for part in group))
            for values in activations(proto, names, images):
                for part in group:
                    part.accumulate_hessian(torch.from_numpy(values[part.layer.inputs[0]]), max_per_image)
            for part in group:
                before = numpy_helper.to_array(part.tensor)
                part.tensor.CopyFrom(numpy_helper.from_array(part.rounded(before).astype(before.dtype), part.tensor.name))
                display.advance(task)
    return rounded


class _Rounding:
    """A layer, its weight, and the Hessian of its inputs so far."""

    def __init__(self, layer: QuantizableLayer, node: onnx.NodeProto, tensor: onnx.TensorProto, per_tensor: bool) -> None:
        self.layer, self.tensor, self.per_tensor = layer, tensor, per_tensor
        self.is_convolution = node.op_type == "Conv"
        self.attributes = attributes_of(node)
        self.num_groups = int(self.attributes.get("group", 1))
        num_inputs = math.prod(tensor.dims) // tensor.dims[layer.channel_axis]  # of one output channel
        self.num_parts = next(
            parts for parts in range(-(-num_inputs // _MAX_INPUTS), num_inputs + 1) if num_inputs % parts == 0
        )
        self.num_inputs = num_inputs // self.num_parts  # of one part
        self.hessian = torch.zeros(0)
        self.hessian_size = self.num_groups * self.num_parts * self.num_inputs**2
        self.generator = torch.Generator().manual_seed(0)

    def accumulate_hessian(self, inputs: Tensor, max_per_image: int) -> None:
        """Add what some inputs give to the Hessian, X X', at a random choice of positions."""
        rows = self._rows(inputs)
        rows = rows[torch.randperm(len(rows), generator=self.generator)[: max_per_image * len(inputs)]]
        by_part = rows.reshape(len(rows), -1, self.num_inputs).transpose(0, 1)  # (groups * parts, positions, inputs)
        hessian = by_part.transpose(1, 2) @ by_part
        self.hessian = self.hessian + hessian if len(self.hessian) else hessian

    def _rows(self, inputs: Tensor) -> Tensor:
        """Return what enters the layer at each position: (positions, groups * inputs)."""
        if not self.is_convolution:
            return inputs.reshape(-1, inputs.shape[-1])
        top, left, bottom, right = self.attributes.get("pads", [0, 0, 0, 0])
        padded = F.pad(inputs, (left, right, top, bottom))  # (B, C, H, W)
        patches = F.unfold(
            padded,
            tuple(self.tensor.dims[2:]),
            dilation=self.attributes.get("dilations", 1),
            stride=self.attributes.get("strides", 1),
        )  # (B, groups * inputs, positions)
        return patches.transpose(1, 2).flatten(0, 1)

    def rounded(self, weight: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the weight on its grid."""
        rows = torch.from_numpy(np.moveaxis(weight, self.layer.channel_axis, 0).astype(np.float64))
        by_group = rows.reshape(self.num_groups, -1, self.num_parts, self.num_inputs)
        largest = by_group.abs().amax(dim=(2, 3), keepdim=True)
        scale = (largest.max().expand_as(largest) if self.per_tensor else largest) / _LARGEST
        scale = torch.where(scale > 0, scale, torch.ones_like(scale)).expand(-1, -1, self.num_parts, -1)
        by_part, scale = (part.transpose(1, 2).flatten(0, 1) for part in (by_group, scale))  # (groups * parts, channels, ...)
        done = round_to_steps(by_part, scale, self.hessian.double())
        self.hessian = torch.zeros(0)
        back = done.unflatten(0, (self.num_groups, self.num_parts)).transpose(1, 2).reshape(rows.shape)
        return np.moveaxis(back.numpy(), 0, self.layer.channel_axis)


def round_to_steps(rows: Tensor, scale: Tensor, hessian: Tensor) -> Tensor:
    """Round the weights of output channels to multiples of their steps, at most 127; those that were 127 still are.

    All are float64: ``rows`` and the result (groups, channels, inputs), no value beyond 127 steps; ``scale`` (groups, channels,
    1), the size of a step; ``hessian`` (groups, inputs, inputs), the products of any two inputs summed over positions.
    """
    # What varies most is rounded first (GPTQ's act-order), while there are many left to make it good.
    order = torch.argsort(hessian.diagonal(dim1=1, dim2=2), dim=1, descending=True)
    hessian = hessian.gather(1, order[:, :, None].expand_as(hessian)).gather(2, order[:, None, :].expand_as(hessian))
    factor = _factor(hessian)
    # Inputs before channels: what is worked on together lies together.
    by_row = order[:, :, None].expand(-1, -1, rows.shape[1])
    left = rows.transpose(1, 2).gather(1, by_row)  # (groups, inputs, channels): the weights with all corrections so far
    scale = scale.transpose(1, 2)  # (groups, 1, channels)
    steps, errors = left / scale, torch.zeros_like(left)
    is_largest = steps.abs() > _LARGEST - 1e-6
    for start in range(0, left.shape[1], _BLOCK):
        end = min(start + _BLOCK, left.shape[1])
        for place in range(start, end):
            value, step = left[:, place], steps[:, place]  # (groups, channels)
            torch.where(is_largest[:, place], step, value / scale[:, 0], out=step)
            step.round_().clamp_(-_LARGEST, _LARGEST)
            # Eq. 3 of the paper: the error of one weight, in units of the factor's diagonal, is spread over the weights behind
            # it in proportion to its row of the factor. Within a block at once, for all later blocks by one product.
            errors[:, place] = (value - step * scale[:, 0]) / factor[:, place, place, None]
            left[:, place + 1 : end] -= factor[:, place, place + 1 : end, None] * errors[:, place, None]
        left[:, end:] -= factor[:, start:end, end:].transpose(1, 2) @ errors[:, start:end]
    return torch.empty_like(steps).scatter_(1, by_row, steps * scale).transpose(1, 2)


def _factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factors of the inverses of damped Hessians, (groups, inputs, inputs).

    Where the inputs were always zero, there is nothing to make errors good with, and it is the identity.
    """
    identity = torch.eye(hessian.shape[1], dtype=hessian.dtype)
    mean = hessian.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    is_zero = mean < 1e-24  # below it the squares of float32 are no longer distinguished
    damped = torch.where(is_zero, identity, hessian / mean.clamp(min=1e-24) + _DAMPING * identity)
    # M = R R' with an upper R, which is the lower factor of M turned about; then the inverse of M is R^-1' R^-1.
    turned = torch.linalg.cholesky(damped.flip(1, 2)).flip(1, 2)
    factor: Tensor = torch.linalg.solve_triangular(turned, identity.expand_as(turned), upper=True)
    return factor


def _in_groups(parts: Sequence[_Rounding]) -> Iterator[list[_Rounding]]:
    """Yield runs of layers whose Hessians fit into memory together; a layer that does not fit goes alone."""
    group: list[_Rounding] = []
    for part in parts:
        if group and sum(other.hessian_size for other in (*group, part)) > _MAX_HESSIAN_ELEMENTS:
            yield group
            group = []
        group.append(part)
    if group:
        yield group
