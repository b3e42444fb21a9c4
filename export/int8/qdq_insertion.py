"""Pairs of QuantizeLinear and DequantizeLinear around the layers of a graph, as TensorRT reads them.

A layer's input is quantized by one scale for the tensor, its weight by one for each output channel (float8: one for all), both
symmetrically with the zero point 0. Biases and outputs stay as they are, in the type of the graph around: the layer after
decides whether it wants eight bits. With `switches` every pair can be turned on and off at run time, which is how precision
loss is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx


SWITCHES = "quantized_layers"
"""Input of a graph with switches: (number of layers,) bool."""

FLOAT16_SCALE_OPSET = 19
"""From here on Q/DQ take scales in half precision, and float8."""

_LARGEST = {"int8": 127.0, "fp8": 448.0}


@dataclass(frozen=True)
class QuantizableLayer:
    """A layer that can compute in eight bits.

    Attributes:
        name: Its name in the model: ``"dsa.tfc1.blocks.0.ffn.up"``.
        node: Name of its node.
        inputs: Tensors that enter its product: an activation and a weight, or two activations.
        weight: Name of the weight; None for a product of two activations.
        channel_axis: The axis of the weight that counts output channels.
        size: Number of values of the weight.
    """

    name: str
    node: str
    inputs: tuple[str, str]
    weight: str | None
    channel_axis: int
    size: int


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
    switches: bool = False,
) -> onnx.ModelProto:
    """Return a copy of a model whose layers compute in eight bits.

    Args:
        proto: A floating-point model, float32 or float16.
        layers: What to quantize, of `find_layers`.
        ranges: Tensor name -> its lowest and highest value, for the inputs of the layers.
        kind: ``"int8"``, or ``"fp8"`` (float8 e4m3).
        per_tensor: Give an int8 weight one scale, as float8 weights have, in place of one for each output channel.
        switches: Give the copy a further input `SWITCHES` that chooses which of the layers are quantized.
    """
    import onnx

    quantized = onnx.ModelProto()
    quantized.CopyFrom(proto)
    builder = _Builder(quantized, layers, ranges, kind, switches)
    builder.by_channel = kind == "int8" and not per_tensor
    by_node = {layer.node: (index, layer) for index, layer in enumerate(layers)}
    nodes = []
    for node in proto.graph.node:
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        if node.name in by_node:
            index, layer = by_node[node.name]
            for place, tensor in enumerate(layer.inputs):
                axis = layer.channel_axis if place == 1 and layer.weight is not None else None
                changed.input[place] = (
                    builder.weight(tensor, axis, index) if axis is not None else builder.activation(tensor, index)
                )
            nodes += builder.take_nodes()
        nodes.append(changed)
    builder.finish(nodes, len(layers))
    return quantized


class _Builder:
    """Nodes and constants of the Q/DQ pairs, each made once for every tensor that needs it."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        layers: Sequence[QuantizableLayer],
        ranges: Mapping[str, tuple[float, float]],
        kind: Literal["int8", "fp8"],
        switches: bool,
    ) -> None:
        import onnx

        self.proto, self.ranges, self.kind, self.switches = proto, ranges, kind, switches
        self.by_channel = kind == "int8"
        self.stored = onnx.TensorProto.INT8 if kind == "int8" else onnx.TensorProto.FLOAT8E4M3FN
        self.weights = {tensor.name: tensor for tensor in proto.graph.initializer}
        named = next((layer.weight for layer in layers if layer.weight is not None), None)
        self.element = self.weights[named].data_type if named is not None else onnx.TensorProto.FLOAT
        self.scale_type: Any = onnx.helper.tensor_dtype_to_np_dtype(self.element)
        self.nodes: list[onnx.NodeProto] = []
        self.done: dict[tuple[str, int | None, int | None], str] = {}

    def activation(self, tensor: str, layer: int) -> str:
        """Pass a tensor through a pair; layers that read the same tensor share it, unless they have switches."""
        key = (tensor, None, layer if self.switches else None)
        if key not in self.done:
            low, high = self.ranges[tensor]
            largest = max(abs(low), abs(high))
            scale, zero = self._constants(tensor, np.asarray(self._scale(np.array(largest))))
            name = self._name(tensor, layer)
            self._node("QuantizeLinear", [tensor, scale, zero], f"{name}/quantized")
            self._node("DequantizeLinear", [f"{name}/quantized", scale, zero], f"{name}/dequantized")
            self.done[key] = self._switched(f"{name}/dequantized", tensor, name, layer)
        return self.done[key]

    def weight(self, tensor: str, axis: int, layer: int) -> str:
        """Replace a weight by its eight bits and a DequantizeLinear."""
        import onnx
        from onnx import numpy_helper

        key = (tensor, axis, layer if self.switches else None)
        if key not in self.done:
            value = numpy_helper.to_array(self.weights[tensor]).astype(np.float32)
            # TensorRT fuses what follows a float8 product where its weight has one scale for the tensor.
            by_channel = self.by_channel
            others = tuple(place for place in range(value.ndim) if place != axis or not by_channel)
            scales = self._scale(np.asarray(np.abs(value).max(axis=others)))
            scale, zero = self._constants(f"{tensor}/weight", scales)
            # Divided by the scale as it is stored, which half precision has rounded.
            stored_scales = scales.astype(self.scale_type).astype(np.float32)
            shape = [-1 if place == axis and by_channel else 1 for place in range(value.ndim)]
            levels = np.clip(value / stored_scales.reshape(shape), -_LARGEST[self.kind], _LARGEST[self.kind])
            name = self._name(tensor, layer)
            if self.kind == "int8":
                packed = numpy_helper.from_array(np.rint(levels).astype(np.int8), f"{name}/quantized")
            else:
                dtype = onnx.helper.tensor_dtype_to_np_dtype(self.stored)
                packed = numpy_helper.from_array(levels.astype(dtype), f"{name}/quantized")
            self.proto.graph.initializer.append(packed)
            self._node(
                "DequantizeLinear", [packed.name, scale, zero], f"{name}/dequantized", **({"axis": axis} if by_channel else {})
            )
            self.done[key] = self._switched(f"{name}/dequantized", tensor, name, layer)
        return self.done[key]

    def take_nodes(self) -> list[onnx.NodeProto]:
        """Return the nodes that were made since the last call."""
        made, self.nodes = self.nodes, []
        return made

    def finish(self, nodes: list[onnx.NodeProto], num_layers: int) -> None:
        """Put the nodes into the graph, and drop weights that are read no more."""
        import onnx

        graph = self.proto.graph
        del graph.node[:]
        if self.switches:
            graph.input.append(onnx.helper.make_tensor_value_info(SWITCHES, onnx.TensorProto.BOOL, [num_layers]))
        graph.node.extend(nodes)
        read = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)

    def _scale(self, largest: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return scales for largest absolute values; 1 for a channel that is zero, or would be in half precision."""
        scale = np.asarray(largest / _LARGEST[self.kind], dtype=np.float32)
        return np.where(scale.astype(self.scale_type).astype(np.float32) > 0, scale, np.float32(1))

    def _constants(self, tensor: str, scale: npt.NDArray[np.float32]) -> tuple[str, str]:
        import onnx
        from onnx import numpy_helper

        names = (f"{tensor}/scale", f"{tensor}/zero_point")
        if names[0] not in self.weights:
            zero = np.zeros(scale.shape, dtype=onnx.helper.tensor_dtype_to_np_dtype(self.stored))
            for value, name in zip((scale.astype(self.scale_type), zero), names, strict=True):
                made = numpy_helper.from_array(value, name)
                self.weights[name] = made
                self.proto.graph.initializer.append(made)
        return names

    def _switched(self, quantized: str, tensor: str, name: str, layer: int) -> str:
        """Return the quantized tensor, or the tensor itself where the layer's switch is off."""
        import onnx
        from onnx import numpy_helper

        if not self.switches:
            return quantized
        index = numpy_helper.from_array(np.array([layer], dtype=np.int64), f"{name}/layer")
        self.proto.graph.initializer.append(index)
        self.nodes.append(onnx.helper.make_node("Gather", [SWITCHES, index.name], [f"{name}/switch"]))
        self._node("Where", [f"{name}/switch", quantized, tensor], f"{name}/switched")
        return f"{name}/switched"

    def _name(self, tensor: str, layer: int) -> str:
        return f"{tensor}/{layer}" if self.switches else tensor

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: int) -> None:
        import onnx

        self.nodes.append(onnx.helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes))
