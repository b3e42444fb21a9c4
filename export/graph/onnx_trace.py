"""From a PyTorch module to an ONNX graph as quantizers need it: a dynamic batch, weights as constants, nodes with names."""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hat.errors import MissingExtraError, WorkError, first_line
from hat.io.artifact import INPUT_NAME, OUTPUT_NAME, InputType
from hat.io.onnx_file import all_tensors
from hat.model.inference import InferenceModel

if TYPE_CHECKING:
    import onnx


_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def trace_onnx(graph: InferenceModel, *, opset: int, input_type: InputType) -> onnx.ModelProto:
    """Trace an inference graph, from (B, 3, H, W) to (B, embed_dim), into an ONNX model.

    The exporter may make another opset than was asked for, which the caller checks. Nodes are named after the layers that they
    come from.

    Raises:
        WorkError: The graph cannot be exported.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so in its own words
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export", "exporting to ONNX") from None
    dtype = torch.uint8 if input_type == "uint8" else torch.float32
    example = torch.zeros(2, 3, *graph.config.image_size, dtype=dtype)  # a batch of one would be taken for a constant
    with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
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
    _drop_allowzero(proto)
    return proto


def _feed_cast_alone(proto: onnx.ModelProto) -> None:
    """Let the input be read by its Cast to float alone: TensorRT has no other layer that takes uint8.

    The tracer reads the batch size off the input; off the float pixels it is the same.
    """
    nodes = proto.graph.node
    position = next((n for n, node in enumerate(nodes) if node.op_type == "Cast" and node.input[0] == INPUT_NAME), None)
    if position is None:
        return  # floats come in
    cast = nodes.pop(position)
    redirect(proto, INPUT_NAME, cast.output[0])
    nodes.insert(0, cast)


def redirect(proto: onnx.ModelProto, tensor: str, other: str, *, but: tuple[str, ...] = ()) -> bool:
    """Let the nodes that read a tensor read another one, but for some operators; return whether there were any."""
    readers = [node for node in proto.graph.node if tensor in node.input and node.op_type not in but]
    for node in readers:
        node.input[:] = [other if name == tensor else name for name in node.input]
    return bool(readers)


def _drop_allowzero(proto: onnx.ModelProto) -> None:
    """Take the attribute ``allowzero`` off every Reshape, in place: it is the tracer's, and other readers of ONNX refuse it.

    It decides what a zero in the new shape means. No shape here has one: a batch has at least one image.
    """
    for node in proto.graph.node:
        for attribute in [entry for entry in node.attribute if entry.name == "allowzero"]:
            node.attribute.remove(attribute)


def _name_by_layers(proto: onnx.ModelProto) -> None:
    """Name nodes after their layers and drop what the tracer noted of itself: its notes hold paths of this machine."""
    used: Counter[str] = Counter()
    for node in proto.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES_KEY), "[]")
        layer = _innermost(scopes) or "graph"
        used[name := f"{layer}/{node.op_type}"] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name]}"
    graph = proto.graph
    described = (*graph.node, *graph.value_info, *graph.input, *graph.output, *all_tensors(graph), proto, graph)
    for part in described:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


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
    return first_line(error)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Silence a library that prints its steps, draws progress bars, logs below errors, or warns of its own internals."""
    named = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in named]
    for logger in named:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(named, levels, strict=True):
            logger.setLevel(level)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as Python values."""
    from onnx import helper

    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def fold_weights(proto: onnx.ModelProto) -> None:
    """Compute every Transpose and Split of a weight once, in place, and drop the weights that nothing reads any more.

    A quantizer needs the matrix that is multiplied, not one that a transpose makes of it at run time.
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
    if len(kept) == len(graph.node):
        return
    gone = {name for node in graph.node for name in node.output} - {name for node in kept for name in node.output}
    read = {name for node in kept for name in node.input} | {output.name for output in graph.output}
    infos = [info for info in graph.value_info if info.name not in gone]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensor for name, tensor in weights.items() if name in read)
    graph.value_info.extend(infos)


def _folded(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> list[onnx.TensorProto] | None:
    """Return what a node makes of weights alone; None where it is another operator, or reads more than weights."""
    from onnx import numpy_helper

    if node.op_type not in ("Transpose", "Split") or not all(name in weights for name in node.input if name):
        return None
    attributes, value = attributes_of(node), numpy_helper.to_array(weights[node.input[0]])
    if node.op_type == "Transpose":
        parts = [value.transpose(attributes.get("perm"))]
    elif len(node.input) > 1 and node.input[1]:
        sizes = numpy_helper.to_array(weights[node.input[1]])
        parts = np.split(value, np.cumsum(sizes)[:-1], axis=attributes.get("axis", 0))
    else:
        parts = np.array_split(value, len(node.output), axis=attributes.get("axis", 0))
    return [numpy_helper.from_array(np.ascontiguousarray(part), name) for part, name in zip(parts, node.output, strict=True)]
