"""Reading ONNX files that a stranger may have made, and telling in which precision a graph really computes.

Only the file itself is ever read here. Weights that a file keeps elsewhere are checked by name and size before a runtime opens
them: a location that leaves the file's own folder would let a model read any file of the machine.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from hat.errors import CheckpointError, MissingExtraError, first_line
from hat.io.artifact import (
    METADATA_KEY,
    ArtifactInfo,
    ArtifactPrecision,
    info_from_json,
    placeholder_reason,
    read_model_file,
)

if TYPE_CHECKING:
    import onnx


MAX_ONNX_BYTES = 2**31 - 1
"""The largest ONNX file: protobuf's own limit. Larger weights lie in a file beside it."""

MAX_EXTERNAL_BYTES = 64 * 2**30
"""The largest sum of weights beside an ONNX file."""

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that do the work and whose type is what a precision means."""

_KEPT_IN_FLOAT32 = ("LayerNormalization", "ReduceL2", "Softmax")

_SMALL_TENSOR_BYTES = 4096

_PRECISIONS: dict[str, ArtifactPrecision] = {
    "float8e4m3fn": "fp8",
    "int8": "int8",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float": "fp32",
}


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read an ONNX file without its external weights.

    A `CheckpointError` says that it is missing, too large, damaged or no ONNX file, or that its external weights are missing,
    too short, or would be read from outside its folder.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "onnxruntime", "reading ONNX files") from None
    path = Path(path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(read_model_file(path, "an ONNX file", MAX_ONNX_BYTES))
    except DecodeError:
        raise CheckpointError(f"{path}: damaged or no ONNX file") from None
    if not proto.graph.node or not proto.opset_import:
        raise CheckpointError(f"{path}: damaged or no ONNX file: it holds no graph")
    _check_external_weights(proto, path)
    return proto


def read_own_onnx(path: str | os.PathLike[str]) -> tuple[onnx.ModelProto, ArtifactInfo]:
    """Read an ONNX file of this package without its external weights, and its metadata.

    What `read_onnx` refuses is refused here too, and so is what was not made by this package.
    """
    proto = read_onnx(path)
    text = next((entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY), None)
    if text is None:
        raise CheckpointError(
            f"{path} was not made by hat export: its metadata has no {METADATA_KEY!r}; "
            "a model of another project becomes one of ours by hat adopt"
        )
    return proto, info_from_json(text, str(path))


def onnx_opset(proto: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that a model uses; 0 where it names none."""
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)


def compute_types(proto: onnx.ModelProto) -> dict[str, Counter[str]]:
    """Count in which types a graph computes, read off its tensors and not off what it says of itself.

    Returned is operator -> how many of its nodes compute in each type (``"float"``, ``"float16"``, ``"bfloat16"``, ``"int8"``,
    ``"float8e4m3fn"``), for the products (convolutions, linear layers, attention) and for what is kept in float32. A product
    computes in the type to which both of its operands were quantized, and otherwise in the type of its input.
    """
    import onnx

    shallow = _without_weights(proto)
    try:
        shallow = onnx.shape_inference.infer_shapes(shallow, data_prop=False)
    except onnx.shape_inference.InferenceError as error:
        raise CheckpointError(f"the types of the graph cannot be read: {first_line(error)}") from None
    graph = shallow.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {info.name: info.type.tensor_type.elem_type for info in [*graph.value_info, *graph.input, *graph.output]}
    made_by = {output: node for node in graph.node for output in node.output}

    def stored_type(name: str) -> int:
        """Return the type before a DequantizeLinear; a transposed weight is looked through."""
        node = made_by.get(name)
        while node is not None and node.op_type in ("Transpose", "Reshape"):
            node = made_by.get(node.input[0])
        return types.get(node.input[0], 0) if node is not None and node.op_type == "DequantizeLinear" else 0

    found: dict[str, Counter[str]] = {}
    for node in graph.node:
        if node.op_type in _PRODUCTS:
            quantized = [stored_type(name) for name in node.input[:2]]
            element = quantized[1] if all(quantized) else types.get(node.input[0], 0)
        elif node.op_type in _KEPT_IN_FLOAT32:
            element = types.get(node.input[0], 0)
        else:
            continue
        name = onnx.TensorProto.DataType.Name(element).lower() if element else "unknown"
        found.setdefault(node.op_type, Counter())[name.replace("uint8", "int8")] += 1
    return found


def graph_precision(proto: onnx.ModelProto) -> ArtifactPrecision:
    """Return the precision of most of a graph's products; an int8 or fp8 graph has at least one that is quantized."""
    products: Counter[str] = Counter()
    for operator, counted in compute_types(proto).items():
        if operator in _PRODUCTS:
            products += counted
    quantized = [name for name in ("float8e4m3fn", "int8") if products[name]]
    most_common = [name for name, _ in products.most_common(1)]
    for name in quantized or most_common:
        if name in _PRECISIONS:
            return _PRECISIONS[name]
    raise CheckpointError(f"the graph computes in no known precision: {dict(products) or 'it has no products'}")


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a graph: weights, sparse weights, constants of its nodes, and those of graphs inside nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from attribute.tensors
            if attribute.HasField("t"):  # reading an absent field and touching it would make it present
                yield attribute.t
            sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in (*sparse_tensors, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs = [attribute.g] if attribute.HasField("g") else []
            for inner in (*graphs, *attribute.graphs):
                yield from all_tensors(inner)


def _check_external_weights(proto: onnx.ModelProto, path: Path) -> None:
    import onnx

    tensors = [*all_tensors(proto.graph)]
    for function in proto.functions:
        tensors += _tensors_of_nodes(function.node)
    for training in proto.training_info:
        tensors += [*all_tensors(training.initialization), *all_tensors(training.algorithm)]
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in sizes:
            sizes[location] = _external_size(location, path)
        try:
            offset, length = int(entries.get("offset", "0")), int(entries.get("length", "0"))
        except ValueError:
            raise CheckpointError(f"{path}: the place of the weights {tensor.name!r} in {location!r} is no number") from None
        if offset < 0 or length < 0 or offset + length > sizes[location]:
            raise CheckpointError(
                f"{path}: the weights {tensor.name!r} end at byte {offset + length:,} of {location!r}, "
                f"which has {sizes[location]:,}: it is another model's file, or was cut off"
            )
    if sum(sizes.values()) > MAX_EXTERNAL_BYTES:
        raise CheckpointError(
            f"{path}: {sum(sizes.values()):,} bytes of weights beside it, the limit is {MAX_EXTERNAL_BYTES:,}"
        )


def _external_size(location: str, path: Path) -> int:
    """Return the size of a file of weights: an ordinary file in the model's own folder, and no link to elsewhere."""
    parts = PurePosixPath(location).parts
    if len(parts) != 1 or parts[0] in ("..", "/") or len(PureWindowsPath(location).parts) != 1 or "\0" in location:
        raise CheckpointError(
            f"{path}: refused, since its weights would be read from {location!r}: expected a file's name in the same folder"
        )
    try:
        status = (path.parent / location).lstat()
    except OSError:
        raise CheckpointError(f"{path}: its weights are in {location!r}, which is not beside it: copy both files") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: refused, since {location!r} with its weights is a link or no ordinary file")
    if reason := placeholder_reason(path.parent / location):
        raise CheckpointError(reason)
    return status.st_size


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with names, types and shapes of the weights and the values of the small ones, which shapes depend on."""
    import onnx

    own = proto.graph
    graph = onnx.helper.make_graph(own.node, own.name, own.input, own.output)
    for tensor in own.initializer:
        if tensor.ByteSize() <= _SMALL_TENSOR_BYTES and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            # A weight without values would be a mistake in an initializer, and is none in an input.
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return onnx.helper.make_model(
        graph, ir_version=proto.ir_version, opset_imports=proto.opset_import, functions=proto.functions
    )
