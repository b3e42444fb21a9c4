"""Pairs of QuantizeLinear and DequantizeLinear around the layers of a graph, as TensorRT reads them.

A layer's input is quantized by one scale for the tensor, its weight by one for each output channel (float8: one for all), both
symmetrically with the zero point 0. Biases and outputs stay as they are, in the type of the graph around: the layer after
decides whether it wants eight bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx


FLOAT16_SCALE_OPSET = 19
"""From here on Q/DQ take scales in half precision, and float8."""

_LARGEST = {"int8": 127.0, "fp8": 448.0}


@dataclass(frozen=True)
class QuantizableLayer:
    """A layer that can compute in eight bits."""

    name: str  # in the model: "dsa.tfc1.blocks.0.ffn.up"
    node: str  # in the graph
    inputs: tuple[str, str]  # tensors that enter its product: an activation and a weight, or two activations
    weight: str | None  # None for a product of two activations
    channel_axis: int  # which axis of the weight counts output channels
    size: int  # number of values of the weight


def find_layers(proto: onnx.ModelProto, *, attention: bool) -> list[QuantizableLayer]:
    """Return the layers of a graph that do most of its work, in order of computation.

    Args:
        proto: A floating-point model.
        attention: Count attention's products of two activations too.
    """
    from onnx import helper

    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    layers = []
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[0] in weights:
            continue
        weight = weights.get(node.input[1])
        if weight is None and not (attention and node.op_type == "MatMul"):
            continue
        transposed = any(entry.name == "transB" and helper.get_attribute_value(entry) for entry in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        size = int(np.prod(weight.dims)) if weight is not None else 0
        name = node.name.rsplit("/", 1)[0] if node.name.endswith(("/Conv", "/MatMul", "/Gemm")) else node.name
        layers.append(QuantizableLayer(name, node.name, (node.input[0], node.input[1]), weight and weight.name, axis, size))
    return layers


def insert_qdq(
    proto: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    ranges: Mapping[str, tuple[float, float]],
    *,
    kind: Literal["int8", "fp8"] = "int8",
    per_tensor: bool = False,
    residual_sums: bool = False,
) -> onnx.ModelProto:
    """Return a copy of a model whose layers compute in eight bits.

    Args:
        proto: A floating-point model, float32 or float16.
        layers: What to quantize, of `find_layers`.
        ranges: Tensor name -> its lowest and highest value, for the inputs of the layers.
        kind: ``"int8"``, or ``"fp8"`` (float8 e4m3).
        per_tensor: Give an int8 weight one scale, as float8 weights have, in place of one for each output channel.
        residual_sums: Quantize what is added to the output of a quantized convolution too; `ranges` has those tensors.
    """
    import onnx

    quantized = onnx.ModelProto()
    quantized.CopyFrom(proto)
    graph = quantized.graph
    pairs = _Pairs(graph, layers, ranges, kind, kind == "int8" and not per_tensor)
    by_node = {layer.node: layer for layer in layers}
    convolved = {node.output[0] for node in proto.graph.node if node.op_type == "Conv" and node.name in by_node}
    del graph.node[:]
    for node in proto.graph.node:
        places = []
        if (layer := by_node.get(node.name)) is not None:
            axes = (None, None if layer.weight is None else layer.channel_axis)
            places = [pairs.dequantized(name, axis) for name, axis in zip(layer.inputs, axes, strict=True)]
        elif residual_sums and node.op_type == "Add" and convolved.intersection(node.input):
            # The convolution's own output stays as it is: TensorRT adds the other one in its kernel, and reads that in int8.
            places = list(node.input)
            other = 0 if places[0] not in convolved else 1
            if places[other] not in pairs.weights:
                places[other] = pairs.dequantized(places[other], None)
        graph.node.append(node)
        for place, name in enumerate(places):
            graph.node[-1].input[place] = name
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return quantized


class _Pairs:
    """Nodes and constants of the Q/DQ pairs, each put into the graph once for every tensor that needs it."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        layers: Sequence[QuantizableLayer],
        ranges: Mapping[str, tuple[float, float]],
        kind: Literal["int8", "fp8"],
        by_channel: bool,
    ) -> None:
        from onnx import TensorProto, helper

        self.graph, self.ranges, self.by_channel = graph, ranges, by_channel
        self.largest = _LARGEST[kind]
        dtype_of = helper.tensor_dtype_to_np_dtype
        self.stored: Any = dtype_of(TensorProto.INT8 if kind == "int8" else TensorProto.FLOAT8E4M3FN)
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        named = next((layer.weight for layer in layers if layer.weight is not None), None)
        self.scale_type: Any = dtype_of(self.weights[named].data_type if named is not None else TensorProto.FLOAT)
        self.done: set[tuple[str, int | None]] = set()

    def dequantized(self, tensor: str, axis: int | None) -> str:
        """Return a tensor after its pair: an activation, or with the axis of its output channels a weight."""
        if (tensor, axis) not in self.done:
            self.done.add((tensor, axis))
            if axis is None:
                scale, zero = self._constants(tensor, self._scale(np.array(max(map(abs, self.ranges[tensor])))))
                self._node("QuantizeLinear", [tensor, scale, zero], f"{tensor}/quantized")
                self._node("DequantizeLinear", [f"{tensor}/quantized", scale, zero], f"{tensor}/dequantized")
            else:
                self._dequantize_weight(tensor, axis)
        return f"{tensor}/dequantized"

    def _dequantize_weight(self, tensor: str, axis: int) -> None:
        """Replace a weight by its eight bits and a DequantizeLinear."""
        from onnx import numpy_helper

        value = numpy_helper.to_array(self.weights[tensor]).astype(np.float32)
        # TensorRT fuses what follows a float8 product where its weight has one scale for the tensor.
        others = tuple(place for place in range(value.ndim) if place != axis or not self.by_channel)
        scales = self._scale(np.asarray(np.abs(value).max(axis=others)))
        scale, zero = self._constants(f"{tensor}/weight", scales)
        # Divided by the scale as it is stored, which half precision has rounded.
        shape = [-1 if place == axis and self.by_channel else 1 for place in range(value.ndim)]
        levels = np.clip(value / scales.astype(np.float32).reshape(shape), -self.largest, self.largest)
        levels = np.rint(levels) if self.stored == np.int8 else levels
        self._constant(levels.astype(self.stored), f"{tensor}/quantized")
        attributes = {"axis": axis} if self.by_channel else {}
        self._node("DequantizeLinear", [f"{tensor}/quantized", scale, zero], f"{tensor}/dequantized", **attributes)

    def _scale(self, largest: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return scales for largest absolute values; 1 for a channel that is zero, or would be in half precision."""
        scale = np.asarray(largest / self.largest, dtype=np.float32).astype(self.scale_type)
        return np.where(scale > 0, scale, np.ones((), self.scale_type))

    def _constants(self, tensor: str, scale: npt.NDArray[Any]) -> tuple[str, str]:
        names = (f"{tensor}/scale", f"{tensor}/zero_point")
        if names[0] not in self.weights:
            self._constant(scale, names[0])
            self._constant(np.zeros(scale.shape, dtype=self.stored), names[1])
        return names

    def _constant(self, value: npt.NDArray[Any], name: str) -> None:
        from onnx import numpy_helper

        self.weights[name] = numpy_helper.from_array(value, name)
        self.graph.initializer.append(self.weights[name])

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: int) -> None:
        from onnx import helper

        self.graph.node.append(helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes))
