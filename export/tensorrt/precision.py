"""In which precision an engine computes: the types of the parsed network are the contract, the inspector's report a record."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hat.errors import WorkError
from hat.io.artifact import ArtifactPrecision

_TYPE_OF: dict[str, str] = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8", "fp8": "FP8"}

_ALLOWED_BESIDE: dict[str, set[str]] = {
    "fp32": set(),
    "fp16": {"FLOAT"},
    "bf16": {"FLOAT"},
    "int8": {"FLOAT", "HALF", "BF16"},
    "fp8": {"FLOAT", "HALF", "BF16"},
}
"""Layers that lose too much stay in a higher precision."""

_PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"}
_MOVES_VALUES = {"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE", "SLICE", "CONCATENATION"}


def check_precision(requested: ArtifactPrecision, types: Mapping[str, int]) -> None:
    """Compare what a parsed network computes in with what was asked for.

    Raises:
        WorkError: The precision asked for is nowhere in it, or a lower one is.
    """
    expected = _TYPE_OF[requested]
    unexpected = set(types) - _ALLOWED_BESIDE[requested] - {expected}
    if not types.get(expected) or unexpected:
        found = ", ".join(f"{count} {name}" for name, count in sorted(types.items())) or "no convolution or product at all"
        raise WorkError(f"{requested} was asked for and the parsed network has {found}: nothing was written")


def network_types(network: Any) -> dict[str, int]:
    """Count the convolutions and matrix products of a parsed network by the type in which they compute.

    A strongly typed network is built as it is typed, so this is what the engine does even where nothing can look into it: an
    engine of TensorRT for RTX opens on a GPU alone. A product both of whose operands are dequantized computes in their type.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
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
    layers = (network.get_layer(index) for index in range(network.num_layers))
    counts = Counter(str(layer.get_output(0).dtype.name) for layer in layers if layer.type.name in _PRODUCTS)
    return max(counts, key=counts.__getitem__)


def _quantized_type(tensor: Any, producers: Mapping[str, Any]) -> str | None:
    """Type before the dequantization that a tensor comes from, through layers that only move values."""
    for _ in range(8):
        layer = producers.get(tensor.name)
        if layer is None:
            return None
        if layer.type.name == "DEQUANTIZE":
            kind: str = layer.get_input(0).dtype.name
            return kind
        if layer.type.name not in _MOVES_VALUES:
            return None
        tensor = layer.get_input(0)
    return None


def inspector_types(report: str) -> dict[str, int]:
    """Count an engine's tensors by what its inspector calls their types: a record, which never throws away an engine.

    Versions spell it differently: 10 has one field for format and type (``"Row major linear FP16 format"``), 11 has two
    (``"Half"`` and a format). The words are counted as they are; a report that cannot be read gives nothing.
    """
    try:
        layers = json.loads(report)["Layers"]
        tensors = {
            str(tensor["Name"]): str(tensor.get("DataType") or tensor.get("Datatype") or tensor["Format/Datatype"])
            for layer in layers
            for tensor in (*layer["Inputs"], *layer["Outputs"])
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # less than detailed verbosity, or another layout
        return {}
    return dict(Counter(tensors.values()))
