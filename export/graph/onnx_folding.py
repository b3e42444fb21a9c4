"""Weights as the graph uses them: the tracer leaves transposes and splits of constants in the graph, which hide them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["fold_weights"]


def fold_weights(proto: onnx.ModelProto) -> int:
    """Compute every Transpose and Split of a weight once, in place, and drop the weights that nothing reads any more.

    A quantizer needs the matrix that is multiplied, not one that a transpose makes of it at run time.

    Args:
        proto: A model that holds its weights.

    Returns:
        The number of nodes that were folded.
    """
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:  # ONNX keeps nodes in the order of computation, so one pass reaches chains of them
        folded = _folded(node, weights)
        if folded is None:
            kept.append(node)
        else:
            weights |= {tensor.name: tensor for tensor in folded}
    num_folded = len(graph.node) - len(kept)
    if num_folded:
        gone = {name for node in graph.node for name in node.output} - {name for node in kept for name in node.output}
        read = {name for node in kept for name in node.input} | {output.name for output in graph.output}
        infos = [info for info in graph.value_info if info.name not in gone]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(kept)
        graph.initializer.extend(tensor for name, tensor in weights.items() if name in read)
        graph.value_info.extend(infos)
    return num_folded


def _folded(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> list[onnx.TensorProto] | None:
    from onnx import helper, numpy_helper

    if node.op_type not in ("Transpose", "Split") or not all(name in weights for name in node.input if name):
        return None
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    value = numpy_helper.to_array(weights[node.input[0]])
    if node.op_type == "Transpose":
        parts = [value.transpose(attributes.get("perm"))]
    else:
        axis = int(attributes.get("axis", 0))
        if len(node.input) > 1 and node.input[1]:
            sizes = numpy_helper.to_array(weights[node.input[1]])
            parts = np.split(value, np.cumsum(sizes)[:-1], axis=axis)
        else:
            parts = np.array_split(value, len(node.output), axis=axis)
    return [numpy_helper.from_array(np.ascontiguousarray(part), name) for part, name in zip(parts, node.output, strict=True)]
