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

from hat.errors import CheckpointError, MissingExtraError
from hat.io.artifact import ArtifactPrecision, placeholder_reason

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


def read_onnx(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read an ONNX file without its external weights, which are checked to lie beside it.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is missing, too large, damaged or no ONNX file; or its external weights are missing, too short, or
            would be read from outside its folder.
        MissingExtraError: onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "onnxruntime", "reading ONNX files") from None
    path = Path(path)
    proto = onnx.ModelProto()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: not an ordinary file, expected an ONNX file")
        if status.st_size > MAX_ONNX_BYTES:
            raise CheckpointError(f"{path}: {status.st_size:,} bytes, an ONNX file has at most {MAX_ONNX_BYTES:,}")
        if reason := placeholder_reason(path):
            raise CheckpointError(reason)
        proto.ParseFromString(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except DecodeError:
        raise CheckpointError(f"{path}: damaged or no ONNX file") from None
    if not proto.graph.node or not proto.opset_import:
        raise CheckpointError(f"{path}: damaged or no ONNX file: it holds no graph")
    _check_external_weights(proto, path)
    return proto


def onnx_opset(proto: onnx.ModelProto) -> int:
    """Version of the standard operator set that a model uses; 0 where it names none."""
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)


def compute_types(proto: onnx.ModelProto) -> dict[str, Counter[str]]:
    """In which types a graph computes, read off its tensors and not off what it says of itself.

    Args:
        proto: A model; its weights are not read.

    Returns:
        Operator -> how many of its nodes compute in each type (``"float"``, ``"float16"``, ``"bfloat16"``, ``"int8"``,
        ``"float8e4m3fn"``), for the products (convolutions, linear layers, attention) and for what is kept in float32. A
        product computes in the type to which both of its operands were quantized, and otherwise in the type of its input.
    """
    import onnx

    shallow = _without_weights(proto)
    try:
        shallow = onnx.shape_inference.infer_shapes(shallow, data_prop=False)
    except onnx.shape_inference.InferenceError as error:
        raise CheckpointError(f"the types of the graph cannot be read: {str(error).splitlines()[0]}") from None
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
    """In which precision a graph does most of its products; an int8 or fp8 graph has at least one that is quantized.

    Raises:
        CheckpointError: It has no products, or computes in another type.
    """
    products: Counter[str] = Counter()
    for operator, counted in compute_types(proto).items():
        if operator in _PRODUCTS:
            products += counted
    for name, precision in _PRECISIONS.items():
        if name in ("int8", "float8e4m3fn") and products[name]:
            return precision
    if products:
        most, _ = products.most_common(1)[0]
        if most in _PRECISIONS:
            return _PRECISIONS[most]
    raise CheckpointError(f"the graph computes in no known precision: {dict(products) or 'it has no products'}")


_PRECISIONS: dict[str, ArtifactPrecision] = {
    "float8e4m3fn": "fp8",
    "int8": "int8",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float": "fp32",
}


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
    """Size of a file of weights, which must be an ordinary file in the model's own folder, not a link to elsewhere."""
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

    shallow = onnx.ModelProto()
    shallow.ir_version = proto.ir_version
    shallow.opset_import.extend(proto.opset_import)
    shallow.functions.extend(proto.functions)
    graph = shallow.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    for tensor in proto.graph.initializer:
        small = tensor.ByteSize() <= _SMALL_TENSOR_BYTES and tensor.data_location != onnx.TensorProto.EXTERNAL
        if small:
            graph.initializer.append(tensor)
        else:
            # A weight without values would be a mistake in an initializer, and is none in an input.
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return shallow
