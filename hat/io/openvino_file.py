"""Reading OpenVINO files that a stranger may have made, and telling in which types their weights are stored.

OpenVINO tries every format that it knows on a file that is no IR, so a file is looked at here before OpenVINO sees it.
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from hat.errors import CheckpointError
from hat.io.artifact import (
    METADATA_KEY,
    ArtifactInfo,
    ArtifactPrecision,
    info_from_json,
    placeholder_reason,
    read_model_file,
)

if TYPE_CHECKING:
    import openvino


MAX_XML_BYTES = 256 * 2**20
"""The largest graph that is read; that of ResNet-152 in int8 has 5 MB."""


def read_openvino_info(path: str | os.PathLike[str]) -> ArtifactInfo:
    """Read the metadata of an ``.xml`` file; OpenVINO is not needed for it.

    A file that is no OpenVINO file, or was not made by this package, is a `CheckpointError`.
    """
    entry = read_openvino_xml(path).find(f"rt_info/{METADATA_KEY}")
    if entry is None or "value" not in entry.attrib:
        raise CheckpointError(
            f"{path} was not made by hat export: its rt_info has no {METADATA_KEY!r}; "
            "a model of another project becomes one of ours by hat adopt"
        )
    return info_from_json(entry.attrib["value"], str(path))


def read_openvino_xml(path: str | os.PathLike[str]) -> ET.Element:
    """Read the graph of an OpenVINO file, whoever made it, before OpenVINO sees it; what is none is a `CheckpointError`."""
    content = read_model_file(Path(path), "a graph", MAX_XML_BYTES)
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise CheckpointError(f"{path}: refused, since it declares entities, which no OpenVINO file does")
    try:
        root = ET.fromstring(content)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise CheckpointError(f"{path}: damaged or no OpenVINO file: {error}") from None
    if root.tag != "net":
        raise CheckpointError(f"{path}: no OpenVINO file: expected a <net>, got a <{root.tag}>")
    return root


def weights_path(path: Path) -> Path:
    """Return where the weights of an OpenVINO file are: beside it."""
    return path.with_suffix(".bin")


def check_weights(path: Path) -> Path:
    """Return where the weights of an OpenVINO file are; a `CheckpointError` where they are not there."""
    weights = weights_path(path)
    if not weights.is_file():
        raise CheckpointError(f"{path}: its weights are in {weights.name}, which is not beside it: copy both files")
    if reason := placeholder_reason(weights):
        raise CheckpointError(reason)
    return weights


def stored_elements(model: openvino.Model) -> Counter[str]:
    """Return how many numbers of each type (``"f32"``, ``"f16"``, ``"i8"``, ...) the constants of a graph hold."""
    elements: Counter[str] = Counter()
    for operation in model.get_ops():
        if operation.get_type_name() == "Constant":
            elements[operation.get_output_element_type(0).get_type_name()] += math.prod(operation.get_output_shape(0))
    return elements


def stored_as(model: openvino.Model) -> ArtifactPrecision:
    """Return the precision of a graph, read off its weights: that of most of its numbers, or int8 where layers are quantized.

    A graph of ``"bf16"`` has its weights in float16, which is finer, and says ``"fp16"`` here: OpenVINO knows bfloat16 as a way
    to compute and not as a way to store. Other types, or integers without ranges, are a `CheckpointError`.
    """
    elements = stored_elements(model)
    integers = elements["i8"] + elements["u8"]
    quantized = any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
    if quantized and integers:
        return "int8"
    most = elements.most_common(1)[0][0] if elements.total() else "nothing"
    if not quantized and not integers and most in ("f16", "f32"):
        return "fp16" if most == "f16" else "fp32"
    ranges = "with" if quantized else "without"
    raise CheckpointError(f"the graph is of no known precision: most of its weights are {most}, {ranges} quantized activations")
