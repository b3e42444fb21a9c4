"""Wrapping of a foreign ONNX graph: conversion from uint8 RGB in front, the L2 norm behind."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hat.errors import CheckpointError, MissingExtraError, UsageError
from hat.io.artifact import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ArtifactInfo, file_sha256
from hat.io.onnx_file import graph_precision, onnx_opset, read_onnx

from ..graph.onnx_activations import GraphRunner
from ..to_onnx import save_onnx
from .model import ForeignModel, GraphIO, WrappedGraph, affine, refuse_own

if TYPE_CHECKING:
    import onnx


_IR_OF_WEIGHTS_ALONE = 4
"""ONNX's format since which weights need not be listed among the inputs."""

_OLDEST_OPSET = 9
"""Since about 2018; what is older broadcasts in another way."""


class OnnxFile:
    """A foreign ONNX file; see `hat.export.foreign.model.ForeignFile`."""

    def __init__(self, path: Path) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError(error.name or "onnx", "onnxruntime", "adopting ONNX files") from None
        self.path = path
        self.proto, weights = _read(path)
        kind = _input_of(self.proto, path).type.tensor_type
        if not kind.HasField("shape"):
            raise UsageError(
                f"{path} does not say how many dimensions its input has, expected images: (batch, 3, height, width)"
            )
        sides = kind.shape.dim
        self.shape = [side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None for side in sides]
        self.outputs = [value.name for value in self.proto.graph.output]
        self.aliases = [{name} for name in self.outputs]
        self.sha256 = _sha256(self.proto, [path, *weights])
        self.versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}

    def wrap(self, declared: ForeignModel, io: GraphIO, batch: int | None) -> WrappedGraph:
        """Put conversion in front of a copy of the graph and the L2 norm behind it; see `ForeignFile`."""
        proto = copy.deepcopy(self.proto)
        if batch is None and io.fixed is not None:
            _free_batch(proto, io.fixed)
        graph = _wrapped(proto, self.outputs[io.output], batch, io, declared)
        try:
            precision = graph_precision(graph)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        runner = GraphRunner(graph)
        return WrappedGraph(graph, precision, lambda images: np.asarray(runner.run(images)[0], dtype=np.float32))

    def save(self, graph: WrappedGraph, info: ArtifactInfo, path: Path) -> ArtifactInfo:
        """Write a graph with its metadata; see `hat.export.to_onnx.save_onnx`."""
        graph.graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = info.embed_dim
        save_onnx(graph.graph, info, path)
        return info


def _read(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """Return a graph with its weights, and the files beside it that these come from."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data
    from onnx.inliner import inline_local_functions

    proto = read_onnx(path)
    refuse_own(any(entry.key == METADATA_KEY for entry in proto.metadata_props), path)
    if onnx_opset(proto) < _OLDEST_OPSET:
        raise UsageError(f"{path} is of opset {onnx_opset(proto)}, expected {_OLDEST_OPSET} or later: export it again")
    locations = sorted({ExternalDataInfo(tensor).location for tensor in proto.graph.initializer if uses_external_data(tensor)})
    onnx.load_external_data_for_model(proto, str(path.parent))
    if proto.functions:  # layers that are written as functions of the file are looked for in its graph
        proto = inline_local_functions(proto)
    return proto, [path.parent / location for location in locations]


def _sha256(proto: onnx.ModelProto, files: Sequence[Path]) -> str:
    """Return the hash of a graph with all its weights, or of its files where these are too large for one message."""
    import onnx

    if sum(file.stat().st_size for file in files) < onnx.checker.MAXIMUM_PROTOBUF:
        return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()


def _inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return inputs that are no weights: old files list those too."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in weights]


def _input_of(proto: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    from onnx import TensorProto

    inputs = _inputs(proto)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise UsageError(f"{path} has {len(inputs)} inputs ({names}), expected images alone")
    element = inputs[0].type.tensor_type.elem_type
    if element not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        name = TensorProto.DataType.Name(element).lower()
        raise UsageError(f"{path} takes images of type {name}, expected float or float16")
    return inputs[0]


def _free_batch(proto: onnx.ModelProto, fixed: int) -> None:
    """Let reshapes keep the batch that they are given, where tracing wrote the batch of its example into them.

    ``x.view(x.size(0), -1)`` becomes a reshape to (1, -1) when it is traced with one image; 0 means "as it was". What this
    changes besides the batch is found by comparing with the graph as it was.
    """
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                values[node.output[0]] = attribute.t
    for node in proto.graph.node:
        if node.op_type != "Reshape" or node.input[0] in values or node.input[1] not in values:
            continue
        shape = numpy_helper.to_array(values[node.input[1]]).copy()
        if not shape.size or shape[0] != fixed or 0 in shape:
            continue
        shape[0] = 0
        values[node.input[1]].CopyFrom(numpy_helper.from_array(shape, values[node.input[1]].name))
        for attribute in [entry for entry in node.attribute if entry.name == "allowzero"]:  # there 0 would mean none at all
            node.attribute.remove(attribute)


def _wrapped(
    proto: onnx.ModelProto,
    output: str,
    batch: int | None,
    io: GraphIO,
    declared: ForeignModel,
) -> onnx.ModelProto:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    names = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    if any(name in (INPUT_NAME, OUTPUT_NAME) or name.startswith("hat/") for name in names):
        proto = onnx.compose.add_prefix(proto, "foreign/")
        output = f"foreign/{output}"
    graph = proto.graph
    (entry,) = _inputs(proto)

    front: list[onnx.NodeProto] = []
    last = INPUT_NAME

    def then(operator: str, *constants: tuple[str, npt.NDArray[Any]], **attributes: Any) -> None:
        nonlocal last
        inputs = [last]
        for name, value in constants:
            graph.initializer.append(numpy_helper.from_array(value, f"hat/{name}"))
            inputs.append(f"hat/{name}")
        last = f"hat/{operator.lower()}_{len(front)}"
        front.append(helper.make_node(operator, inputs, [last], name=last, **attributes))

    then("Cast", to=TensorProto.FLOAT)
    mean, std = affine(declared)
    if mean.any():
        then("Sub", ("mean", mean.astype(np.float32).reshape(1, 3, 1, 1)))
    if (std != 1).any():
        then("Div", ("std", std.astype(np.float32).reshape(1, 3, 1, 1)))
    if declared.color == "bgr":
        then("Gather", ("bgr", np.array([2, 1, 0])), axis=1)
    if io.layout == "nhwc":
        then("Transpose", perm=[0, 2, 3, 1])
    then("Cast", to=entry.type.tensor_type.elem_type)
    front[-1].output[0] = entry.name  # the tensor that the foreign graph reads
    back = [
        helper.make_node("Cast", [output], ["hat/output"], name="hat/output", to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["hat/output"], ["hat/rows"], name="hat/rows", axis=1),
        helper.make_node("LpNormalization", ["hat/rows"], [OUTPUT_NAME], name="hat/unit", axis=1, p=2),
    ]
    nodes = [*front, *graph.node, *back]
    first = "batch" if batch is None else batch
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [first, 3, *io.size]))
    proto.ir_version = max(proto.ir_version, _IR_OF_WEIGHTS_ALONE)
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [first, "embed_dim"]))
    return proto
