"""Pairs of QuantizeLinear and DequantizeLinear around the layers of a graph, in the pattern that a kind of runtime matches.

`insert_qdq` writes what TensorRT reads: a layer's input is quantized by one scale for the tensor, its weight by one for each
output channel (float8: one for all), both symmetrically with the zero point 0. Biases and outputs stay as they are, in the type
of the graph around: the layer after decides whether it wants eight bits. `quantize_for_cpu` writes what ONNX Runtime reads.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..graph.onnx_activations import Range
from ..graph.onnx_trace import attributes_of, quiet

if TYPE_CHECKING:
    import onnx


LAYERS = ("Conv", "Gemm", "MatMul")

BETWEEN = ("Add", "Clip", "MaxPool", "Relu")
"""Operators between two convolutions that have an integer kernel in ONNX Runtime, or disappear into one."""

_LARGEST = {"int8": 127.0, "fp8": 448.0}


@dataclass(frozen=True)
class QuantizableLayer:
    """A layer that can compute in eight bits."""

    name: str  # in the model: "dsa.tfc1.blocks.0.ffn.up"
    node: str  # in the graph
    inputs: tuple[str, str]  # tensors that enter its product: an activation and a weight, or two activations
    weight: str | None  # None for a product of two activations
    channel_axis: int  # which axis of the weight counts output channels


def find_layers(proto: onnx.ModelProto, *, attention: bool) -> list[QuantizableLayer]:
    """Return the layers of a floating-point graph that do most of its work, in order of computation.

    With ``attention`` its products of two activations are among them.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    layers = []
    for node in proto.graph.node:
        if node.op_type not in LAYERS or node.input[0] in weights:
            continue
        weight = node.input[1] if node.input[1] in weights else None
        if weight is None and not (attention and node.op_type == "MatMul"):
            continue
        axis = 0 if node.op_type == "Conv" or attributes_of(node).get("transB") else 1
        name = node.name.removesuffix(f"/{node.op_type}")
        layers.append(QuantizableLayer(name, node.name, (node.input[0], node.input[1]), weight, axis))
    return layers


def insert_qdq(
    proto: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    ranges: Mapping[str, Range],
    *,
    kind: Literal["int8", "fp8"] = "int8",
    per_tensor: bool = False,
    residual_sums: bool = False,
) -> onnx.ModelProto:
    """Return a copy of a float32 or float16 model some layers of which compute in int8, or in float8 (e4m3fn).

    ``per_tensor`` gives an int8 weight one scale, as float8 weights have, in place of one for each output channel.
    ``residual_sums`` also quantizes what is added to the output of a quantized convolution; ``ranges`` then has those tensors.
    """
    quantized = copy.deepcopy(proto)
    graph = quantized.graph
    pairs = _Pairs(graph, layers, ranges, kind, kind == "int8" and not per_tensor)
    by_node = {layer.node: layer for layer in layers}
    convolved = {node.output[0] for node in proto.graph.node if node.op_type == "Conv" and node.name in by_node}
    del graph.node[:]
    for node in proto.graph.node:
        inputs = list(node.input)
        if (layer := by_node.get(node.name)) is not None:
            inputs[0] = pairs.dequantized(inputs[0], None)
            inputs[1] = pairs.dequantized(inputs[1], None if layer.weight is None else layer.channel_axis)
        elif residual_sums and node.op_type == "Add" and convolved.intersection(inputs):
            # The convolution's own output stays as it is: TensorRT adds the other one in its kernel, and reads that in int8.
            other = 0 if inputs[0] not in convolved else 1
            if inputs[other] not in pairs.weights:
                inputs[other] = pairs.dequantized(inputs[other], None)
        graph.node.append(node)
        graph.node[-1].input[:] = inputs
    read = {name for node in graph.node for name in node.input}
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)
    return quantized


class _Pairs:
    """Nodes and constants of the Q/DQ pairs, each put into the graph once for every tensor that needs it."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        layers: Sequence[QuantizableLayer],
        ranges: Mapping[str, Range],
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
        scales = self._scale(np.asarray(np.abs(value).max(axis=others, keepdims=True)))
        scale, zero = self._constants(f"{tensor}/weight", scales.reshape(-1) if self.by_channel else scales.reshape(()))
        # Divided by the scale as it is stored, which half precision has rounded.
        levels = np.clip(value / scales.astype(np.float32), -self.largest, self.largest)
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


def quantize_for_cpu(
    proto: onnx.ModelProto, layers: Sequence[QuantizableLayer], ranges: Mapping[str, Range]
) -> onnx.ModelProto:
    """Return a copy of a float32 model some layers of which compute in ONNX Runtime's integer kernels."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    names = {layer.node for layer in layers}
    ends = {name: tuple(np.asarray(end, dtype=np.float32) for end in found) for name, found in ranges.items()}
    quantizer = QDQQuantizer(
        copy.deepcopy(proto),  # it works in place
        True,  # weights by channel
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, ends),
        [*names, *between_convolutions(proto, names)],
        [],
        [*LAYERS, *BETWEEN],
        # The product of a linear layer goes into a float kernel at once; rounding it first would only lose precision.
        {
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
            "WeightSymmetric": True,
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
        },
    )
    with quiet("root"):  # it warns of every tensor that it leaves as it is
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    used = {"", "ai.onnx"} | {node.domain for node in quantized.graph.node}
    for unused in [entry for entry in quantized.opset_import if entry.domain not in used]:  # it may add its own operators'
        quantized.opset_import.remove(unused)
    return quantized


def between_convolutions(proto: onnx.ModelProto, quantized: set[str]) -> list[str]:
    """Return the activations, poolings and residual sums all of whose inputs come from quantized convolutions or from these."""
    eight_bits: set[str] = set()
    between = []
    for node in proto.graph.node:
        if node.name in quantized and node.op_type == "Conv":
            eight_bits.update(node.output)
        elif node.op_type in BETWEEN:
            activations = node.input if node.op_type == "Add" else node.input[:1]
            if all(name in eight_bits for name in activations):
                eight_bits.update(node.output)
                between.append(node.name)
    return between


def feeding_convolutions(proto: onnx.ModelProto, left_out: Mapping[str, str]) -> dict[str, str]:
    """Return the convolutions whose outputs enter layers that are left out: node -> name of the layer that it feeds.

    The scheme for CPUs quantizes a convolution's output, so a layer that is left out would still be given eight bits, and those
    of values from before the activation: more would be lost than by quantizing it.
    """
    producers = {output: node for node in proto.graph.node for output in node.output}
    found: dict[str, str] = {}
    for node in proto.graph.node:
        waiting, seen = [node.input[0]] if node.name in left_out else [], set()
        while waiting:
            producer = producers.get(waiting.pop())
            if producer is None or producer.name in seen:
                continue
            seen.add(producer.name)
            if producer.op_type == "Conv" and producer.name not in left_out:
                found[producer.name] = left_out[node.name]
            elif producer.op_type in BETWEEN:
                waiting += producer.input
    return found
