"""Inspection of an engine and its cost without running it: its network, its inspector, its fused plan.

TensorRT for RTX prints the plan into its most verbose build log, on any machine and for any of its compute capabilities. There
it is seen where work is lost: kernels that are launched one by one, attention that was not fused, convolutions that write
float32 because their eight-bit scales do not fuse, and bytes that travel through memory.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from hat.errors import WorkError
from hat.io.artifact import ArtifactPrecision

_TYPE_OF: dict[str, str] = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8", "fp8": "FP8"}
_ALLOWED_BESIDE = {"fp32": "", "fp16": "FLOAT", "bf16": "FLOAT", "int8": "FLOAT HALF BF16", "fp8": "FLOAT HALF BF16"}
"""Layers that lose too much stay in a higher precision."""

_PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"}
_MOVES_VALUES = {"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE", "SLICE", "CONCATENATION"}


def check_precision(requested: ArtifactPrecision, types: Mapping[str, int]) -> None:
    """Raise `WorkError` unless a network of so many products in each type computes in the precision and in no lower one."""
    expected = _TYPE_OF[requested]
    unexpected = set(types) - {expected, *_ALLOWED_BESIDE[requested].split()}
    if not types.get(expected) or unexpected:
        found = ", ".join(f"{count} {name}" for name, count in sorted(types.items())) or "no convolution or product at all"
        raise WorkError(f"{requested} was asked for and the parsed network has {found}: nothing was written")


def network_types(network: Any) -> dict[str, int]:
    """Count the convolutions and matrix products of a parsed network by the type in which they compute.

    A strongly typed network is built as it is typed, so this is what the engine does even where nothing can look into it: an
    engine of TensorRT for RTX opens on a GPU alone. A product both of whose operands are dequantized computes in their type.
    """
    layers = _layers(network)
    producers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name in _PRODUCTS:
            operands = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
            stored = {_quantized_type(operand, producers) for operand in operands}
            quantized = stored.pop() if len(stored) == 1 else None  # with one operand in float the product is a float one
            counts[quantized or layer.get_output(0).dtype.name] += 1
    return dict(counts)


def product_output_type(network: Any) -> str:
    """Return the type that most convolutions and matrix products of a parsed network are asked to write."""
    written = Counter(layer.get_output(0).dtype.name for layer in _layers(network) if layer.type.name in _PRODUCTS)
    return str(written.most_common(1)[0][0])


def _layers(network: Any) -> list[Any]:
    return [network.get_layer(index) for index in range(network.num_layers)]


def _quantized_type(tensor: Any, producers: Mapping[str, Any]) -> str | None:
    """Return the type before the dequantization that a tensor comes from, through layers that only move values."""
    for _ in range(8):
        layer = producers.get(tensor.name)
        if layer is None or layer.type.name not in {"DEQUANTIZE", *_MOVES_VALUES}:
            return None
        tensor = layer.get_input(0)
        if layer.type.name == "DEQUANTIZE":
            return str(tensor.dtype.name)
    return None


def inspector_types(report: str) -> dict[str, int]:
    """Count an engine's tensors by what its inspector calls their types: a record, which never throws away an engine.

    Versions spell it differently: 10 has one field for format and type (``"Row major linear FP16 format"``), 11 has two
    (``"Half"`` and a format). The words are counted as they are; a report that cannot be read gives nothing.
    """
    try:
        tensors = {
            str(tensor["Name"]): str(tensor.get("DataType") or tensor.get("Datatype") or tensor["Format/Datatype"])
            for layer in json.loads(report)["Layers"]
            for tensor in (*layer["Inputs"], *layer["Outputs"])
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # less than detailed verbosity, or another layout
        return {}
    return dict(Counter(tensors.values()))


_SIZES = {"Double": 8, "Int64": 8, "Float": 4, "Int32": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "FP8": 1, "Bool": 1}
_PLAN_TYPES = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16"}
"""A network's types as the plan spells them."""

_PLAN_PRODUCTS = {"convolution", "correlation", "gemm", "runtime_fusion"}
_NO_KERNELS = {"constant", "reshape", "shape_call", "signal", "wait"}

_LAYER = re.compile(
    r"^ ?Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, StreamId: .*?, Metadata: ?(?P<nodes>.*)$"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[(.*?)\],.*?Datatype: (\w+), Format: (.*?) \}")


@dataclass(frozen=True)
class PlanTensor:
    """A tensor between kernels."""

    name: str
    dtype: str  # "Half", "Float", "Int8", ...
    layout: str  # how it lies in memory, in the library's words
    shape: tuple[int, ...]  # -1 is the batch, or the batch times what was merged with it


@dataclass(frozen=True)
class PlanLayer:
    """One step of the plan.

    Its kind is ``"correlation"`` (a convolution), ``"gemm"``, ``"runtime_fusion"`` (a product and what follows it), ``"kgen"``
    (operations by element or by row), ...
    """

    name: str  # of one node, or of all operations that were fused: "__myl_CorrAddMinMaxMul_..."
    kind: str
    inputs: tuple[PlanTensor, ...]  # without weights
    constants: tuple[PlanTensor, ...]  # weights and scales
    outputs: tuple[PlanTensor, ...]
    nodes: tuple[str, ...]  # ONNX nodes that it comes from

    @property
    def is_kernel(self) -> bool:
        """Return whether the GPU launches a kernel: views, constants and the arithmetic of shapes (64-bit scalars) are free."""
        return self.kind not in _NO_KERNELS and any(tensor.dtype != "Int64" for tensor in self.outputs)

    @property
    def is_attention(self) -> bool:
        """Return whether it is a whole attention in one kernel: both products and the softmax between them."""
        return "_mha_" in self.name

    def is_wider_than(self, dtype: str) -> bool:
        """Return whether it is a product that writes a wider type than was asked for; a cast that was fused was asked for."""
        wide = any(_SIZES.get(tensor.dtype, 8) > _SIZES[dtype] for tensor in self.outputs)
        return self.kind in _PLAN_PRODUCTS and wide and "Cast" not in self.name.rsplit("/", 1)[-1]


def plan_figures(layers: Iterable[PlanLayer], network_type: str, batch: int) -> dict[str, Any]:
    """Return the figures that tell a good plan from a bad one; ``network_type`` is what products were asked to write."""
    kernels = [layer for layer in layers if layer.is_kernel]
    return {
        "kernels": len(kernels),
        "fused_attentions": sum(layer.is_attention for layer in kernels),
        "products_wider_than_asked": sum(layer.is_wider_than(_PLAN_TYPES[network_type]) for layer in kernels),
        "batch": batch,
        "megabytes_moved": round(moved_bytes(kernels, batch) / 1e6, 1),
    }


def moved_bytes(kernels: Iterable[PlanLayer], batch: int) -> int:
    """Count the bytes that kernels read and write at a batch size, weights included.

    Exact for a plan of a single batch size. Where the batch is dynamic, a dimension into which more than the batch was merged
    counts as the batch alone, so that the result is a lower bound.
    """
    total = 0
    for tensor in (tensor for layer in kernels for tensor in (*layer.inputs, *layer.constants, *layer.outputs)):
        if tensor.dtype not in _SIZES:
            known = ", ".join(_SIZES)
            raise WorkError(f"the plan has a tensor {tensor.name} of the unknown type {tensor.dtype}: expected {known}")
        total += _SIZES[tensor.dtype] * prod(batch if size < 0 else size for size in tensor.shape)
    return total


def read_plan(listing: str) -> list[PlanLayer]:
    """Read the layers, in order of execution, from the message that begins with ``"Layers:"``.

    That of an engine for several compute capabilities holds one list for each, of which the first is read. `WorkError` where
    there is none, or where it is laid out in another way than this version prints it.
    """
    layers = []
    listing = listing.split("\nI/O Tensors:", maxsplit=1)[0]
    for line in listing.strip().removeprefix("Layers:").strip().splitlines():
        found = _LAYER.match(line)
        if found is None:
            raise WorkError(f"the plan in the build log cannot be read: expected a layer, got {line[:80]!r}")
        inputs, constants, outputs = (_tensors(found[part]) for part in ("inputs", "constants", "outputs"))
        nodes = tuple(re.findall(r"\[ONNX Layer: (.*?)\]", found["nodes"]))
        layers.append(PlanLayer(found["name"], found["kind"], inputs, constants, outputs, nodes))
    if not layers:
        raise WorkError("the build log holds no plan: TensorRT for RTX prints one when it builds for its GPUs")
    return layers


def _tensors(text: str) -> tuple[PlanTensor, ...]:
    return tuple(
        PlanTensor(name, dtype, layout, tuple(int(size) for size in shape.split(",") if size))
        for name, shape, dtype, layout in _TENSOR.findall(text)
    )
