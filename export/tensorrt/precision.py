"""In which precision an engine really computes: read back from what was built, and compared with what was asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hat.errors import WorkError
from hat.io.artifact import ArtifactPrecision

__all__ = ["ReadBack", "check_precision", "inspector_types", "network_types"]

_WANTED: dict[str, str] = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8", "fp8": "FP8"}

_MAY_BE_BESIDE: dict[str, set[str]] = {
    "fp32": set(),
    "fp16": {"FLOAT"},
    "bf16": {"FLOAT"},
    "int8": {"FLOAT", "HALF", "BF16"},
    "fp8": {"FLOAT", "HALF", "BF16"},
}
"""Norms, softmax and layers that lose too much stay in a higher precision."""

# What the inspectors of 10.x ("Row major linear FP16 format", "Half") and of 11.x ("Half" beside a separate format) call them.
_SPOKEN = {
    "FLOAT": ("fp32", "float", "float32"),
    "HALF": ("fp16", "half", "float16"),
    "BF16": ("bf16", "bfloat16"),
    "INT8": ("int8",),
    "FP8": ("fp8", "fp8e4m3", "e4m3"),
}

_HEAVY = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"}
_PASSES_ON = {"SHUFFLE", "IDENTITY", "SQUEEZE", "UNSQUEEZE", "SLICE", "CONCATENATION"}


@dataclass(frozen=True)
class ReadBack:
    """Types that were found.

    Attributes:
        source: Where they were read.
        types: How many tensors (inspector), or convolutions and matrix products (network), are of which type.
    """

    source: Literal["engine inspector", "parsed network"]
    types: dict[str, int]


def check_precision(requested: ArtifactPrecision, found: ReadBack) -> None:
    """Compare what was built with what was asked for.

    Raises:
        WorkError: The precision asked for is nowhere in it, or a lower one is.
    """
    wanted = _WANTED[requested]
    foreign = set(found.types) - _MAY_BE_BESIDE[requested] - {wanted}
    if not found.types.get(wanted) or foreign:
        types = ", ".join(f"{count} {name}" for name, count in sorted(found.types.items())) or "no type at all"
        raise WorkError(f"{requested} was asked for and the {found.source} tells {types}: nothing was written")


def network_types(network: Any) -> ReadBack:
    """Types in which the convolutions and matrix products of a parsed network compute.

    A strongly typed network is built as it is typed, so this is what the engine does even where nothing can look into it: an
    engine of TensorRT for RTX opens on a GPU alone. A product both of whose operands are dequantized computes in their type.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made_by = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name in _HEAVY:
            operands = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
            stored = {_quantized_type(operand, made_by) for operand in operands}
            quantized = stored.pop() if len(stored) == 1 else None  # with one operand in float the product is a float one
            counts[quantized or layer.get_output(0).dtype.name] += 1
    return ReadBack("parsed network", dict(counts))


def _quantized_type(tensor: Any, made_by: Mapping[str, Any]) -> str | None:
    """Type before the dequantization that a tensor comes from, through layers that only move values."""
    for _ in range(8):
        layer = made_by.get(tensor.name)
        if layer is None:
            return None
        if layer.type.name == "DEQUANTIZE":
            kind: str = layer.get_input(0).dtype.name
            return kind
        if layer.type.name not in _PASSES_ON:
            return None
        tensor = layer.get_input(0)
    return None


def inspector_types(report: str) -> ReadBack | None:
    """Types of the tensors between the layers of an engine, from its inspector's JSON.

    Args:
        report: What ``EngineInspector.get_engine_information`` gave, in the layout of TensorRT 10 (one field for format and
            type, inputs and outputs listed under ``Bindings``) or 11 (two fields, ``I/O Tensors``).

    Returns:
        The types, or None where it tells none: an engine that was fused into one piece shows its inputs and outputs alone, and
        those are uint8 and float32 in every precision.
    """
    try:
        content = json.loads(report)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    outside = {_name(entry) for key in ("Bindings", "I/O Tensors") for entry in content.get(key) or []}
    types: dict[str, str] = {}
    for layer in content.get("Layers") or []:
        if not isinstance(layer, dict):
            continue  # less than detailed verbosity: names alone
        for tensor in [*(layer.get("Inputs") or []), *(layer.get("Outputs") or [])]:
            if isinstance(tensor, dict) and (name := _name(tensor)) not in outside and (kind := _kind(tensor)):
                types[name] = kind
    return ReadBack("engine inspector", dict(Counter(types.values()))) if types else None


def _name(entry: Any) -> str:
    return str(entry.get("Name", "")) if isinstance(entry, dict) else str(entry)


def _kind(tensor: Mapping[str, Any]) -> str | None:
    text = str(tensor.get("DataType") or tensor.get("Format/Datatype") or tensor.get("Format") or "")
    words = text.lower().replace("(", " ").replace(")", " ").replace(".", " ").replace(",", " ").split()
    return next((kind for kind, names in _SPOKEN.items() if any(word in names for word in words)), None)
