"""Graphs as a quantizer needs them: weights that are constants of the layers that use them, nodes with names."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hat.errors import MissingExtraError, WorkError

if TYPE_CHECKING:
    import onnx


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


def drop_allowzero(proto: onnx.ModelProto) -> None:
    """Take the attribute ``allowzero`` off every Reshape, in place: it is the tracer's, and other readers of ONNX refuse it.

    It decides what a zero in the new shape means. No shape here has one: a batch has at least one image.
    """
    for node in proto.graph.node:
        if node.op_type == "Reshape":
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)


def fold_foreign_graph(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of another project with its batch norms folded, its constants as initializers, and a name for every node.

    A graph that has all of it already is returned as it is. The folding is ONNX Runtime's, at its basic level, which keeps to
    ONNX's own operators.

    Raises:
        WorkError: ONNX Runtime cannot read the graph.
        MissingExtraError: It is not installed.
    """
    foreign = [node for node in proto.graph.node if not node.name or node.op_type in ("BatchNormalization", "Constant")]
    if not foreign:
        return proto
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "export", "quantizing") from None
    import onnx

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="hat-onnx-") as folder:
        given, folded = Path(folder) / "given.onnx", Path(folder) / "folded.onnx"
        onnx.save_model(proto, given, save_as_external_data=proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF)
        options.optimized_model_filepath = str(folded)
        try:
            onnxruntime.InferenceSession(str(given), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base below Exception
            raise WorkError(f"ONNX Runtime cannot read the graph: {str(error).splitlines()[0]}") from error
        result: onnx.ModelProto = onnx.shape_inference.infer_shapes(onnx.load(folded))
    opset = max(entry.version for entry in result.opset_import if entry.domain in ("", "ai.onnx"))
    del result.opset_import[:]
    result.opset_import.append(onnx.helper.make_opsetid("", opset))
    for node in result.graph.node:
        node.name = node.name or f"{node.output[0]}/{node.op_type}"
    return result
