"""From a PyTorch module, or another project's graph, to an ONNX graph as quantizers need it.

The batch is dynamic, weights are constants of the layers that use them, and nodes have names.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from hat.errors import MissingExtraError, WorkError
from hat.io.onnx_file import all_tensors
from hat.model import ModelConfig

if TYPE_CHECKING:
    import onnx


INPUT_NAME, OUTPUT_NAME = "images", "embeddings"

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def trace_onnx(graph: nn.Module, *, opset: int, input_type: Literal["uint8", "float32"]) -> onnx.ModelProto:
    """Trace an inference graph into an ONNX model.

    Args:
        graph: A module with a ``config``, from (B, 3, H, W) to (B, embed_dim).
        opset: The operator set to ask for; the exporter may make another one, which the caller checks.
        input_type: Type of the images.

    Returns:
        The model. Its nodes are named after the layers that they come from.

    Raises:
        WorkError: The graph cannot be exported.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so in its own words
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export", "exporting to ONNX") from None
    config = graph.config
    assert isinstance(config, ModelConfig)
    dtype = torch.uint8 if input_type == "uint8" else torch.float32
    example = torch.zeros(2, 3, *config.image_size, dtype=dtype)  # a batch of one would be taken for a constant
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph,
                (example,),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise WorkError(f"the graph cannot be exported to ONNX: {_innermost_reason(error)}") from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    _feed_cast_alone(proto)
    _name_by_layers(proto)
    fold_weights(proto)
    return proto


def _feed_cast_alone(proto: onnx.ModelProto) -> None:
    """Let the input be read by its Cast to float alone: TensorRT has no other layer that takes uint8.

    The tracer reads the batch size off the input; off the float pixels it is the same.
    """
    casts = [node for node in proto.graph.node if node.op_type == "Cast" and node.input[0] == INPUT_NAME]
    if not casts:
        return  # floats come in
    others = [node for node in proto.graph.node if node is not casts[0]]
    for node in others:
        node.input[:] = [casts[0].output[0] if name == INPUT_NAME else name for name in node.input]
    nodes = [casts[0], *others]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _name_by_layers(proto: onnx.ModelProto) -> None:
    """Name nodes after their layers and drop what the tracer noted of itself: its notes hold paths of this machine."""
    used: set[str] = set()
    for node in proto.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES_KEY), "[]")
        layer = _innermost(scopes) or "graph"
        name, copies = f"{layer}/{node.op_type}", 1
        while name in used:
            copies += 1
            name = f"{layer}/{node.op_type}_{copies}"
        used.add(name)
        node.name = name
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for described in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *all_tensors(proto.graph)):
        described.ClearField("doc_string")
        described.ClearField("metadata_props")
    for described in (proto, proto.graph):
        described.ClearField("doc_string")
        described.ClearField("metadata_props")


def _innermost(scopes: str) -> str:
    """Return the last module path in the tracer's list, written as Python text: ``['', 'mfe', 'mfe.conv1', 'conv2d']``."""
    parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    # The last part names the operation itself; parts of the tracer's own begin with an underscore.
    paths = [part for part in parts[:-1] if part and not part.startswith("_")]
    return max(paths, key=lambda part: part.count("."), default="").removesuffix(".layer")


def _innermost_reason(error: BaseException) -> str:
    """Return the first line of the first cause: the exporter wraps it in advice on whom to write to."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter prints its steps and warns of its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
