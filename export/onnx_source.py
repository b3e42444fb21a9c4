"""An ONNX file of this package as what an export begins with: its graph, weights and metadata, without tracing anything."""

from __future__ import annotations

import copy
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from hat.errors import CheckpointError, UsageError, WorkError, first_line
from hat.io.artifact import ArtifactInfo, ArtifactPrecision
from hat.io.onnx_file import graph_precision, onnx_opset, read_own_onnx
from hat.model import HAT
from hat.model.inference import InferenceModel
from hat.preprocessing import IMAGENET_MEAN, IMAGENET_STD

from .graph.onnx_float16 import half_inference_model
from .graph.onnx_trace import redirect, trace_onnx
from .request import ExportRequest

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, eq=False)
class OnnxSource:
    """An ONNX file that was exported or adopted before: its graph with all weights, and its metadata."""

    path: Path
    proto: onnx.ModelProto
    info: ArtifactInfo

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return onnx_opset(self.proto)

    def request(self, **changes: Any) -> ExportRequest:
        """Return the request that keeps the file's name, precision and input, but for some changes."""
        info = self.info
        unchanged = ExportRequest(info.name, info.precision, info.input_type, metrics=info.metrics)
        return dataclasses.replace(unchanged, **changes)

    def check_any_batch(self, reader: str) -> None:
        """Refuse an adopted file of one fixed batch (`UsageError`) where ``reader`` would send it any."""
        if self.info.adopted is not None and self.info.batch is not None:
            raise UsageError(
                f"{self.path} takes batches of {self.info.batch.max} alone, and {reader} sends batches of any size"
            )

    def with_opset(self, opset: int) -> OnnxSource:
        """Return the same graph in a later operator set; a `WorkError` where onnx cannot convert it."""
        import onnx

        try:
            proto = onnx.version_converter.convert_version(self.proto, opset)
        except (onnx.version_converter.ConvertError, RuntimeError) as error:
            raise WorkError(
                f"{self.path} is of opset {self.opset} and cannot be brought to {opset}: {first_line(error)}"
            ) from None
        return dataclasses.replace(self, proto=proto)

    @property
    def is_quantized(self) -> bool:
        """Return whether it is calibrated and quantized already."""
        return self.info.precision in ("int8", "fp8")

    @property
    def scheme(self) -> str | None:
        """``"cpu"`` or ``"tensorrt"``: what a quantized file was made for; None of a floating-point file."""
        quantization = self.info.details.get("quantization")
        return quantization.get("scheme") if self.is_quantized and isinstance(quantization, dict) else None


ExportSource: TypeAlias = HAT | OnnxSource
"""Source of an export: a trained model, or an ONNX file of this package, which needs no tracing."""


def chosen_opset(source: ExportSource, request: ExportRequest) -> int:
    """Return the opset that a request asks for, else a file's own, else the lowest that has what its precision needs."""
    return source.opset if isinstance(source, OnnxSource) and request.opset is None else request.graph_opset


def open_onnx_source(path: str | os.PathLike[str]) -> OnnxSource:
    """Read an ONNX file of this package, weights included.

    Raises:
        CheckpointError: It cannot be read, was not made by this package, or computes in another precision than it says.
        MissingExtraError: onnx is not installed.
    """
    path = Path(path)
    proto, info = read_own_onnx(path)
    if (built := graph_precision(proto)) != info.precision:
        raise CheckpointError(f"{path} is not what it says of itself: it says {info.precision} and computes in {built}")
    from onnx.external_data_helper import load_external_data_for_model

    load_external_data_for_model(proto, str(path.parent))  # read_own_onnx has checked where they lie
    return OnnxSource(path, proto, info)


def float_graph(source: ExportSource, request: ExportRequest, precision: ArtifactPrecision) -> onnx.ModelProto:
    """Return a graph whose products compute in fp32, fp16 or bf16: traced from a trained model, or the one that a file holds.

    The request says opset and input type; its own precision may be that of the quantized graph that is to come of it.

    Raises:
        UsageError: The file is of another precision, which cannot be changed without the trained model.
        WorkError: The graph cannot be traced.
        MissingExtraError: A library for exporting is not installed.
    """
    if isinstance(source, HAT):
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        module = InferenceModel(source).cpu() if half is None else half_inference_model(source, half)
        return trace_onnx(module, opset=request.graph_opset, input_type=request.input_type)
    if source.info.precision != precision:
        raise UsageError(
            f"{source.path} is in {source.info.precision} and a graph in {precision} is needed: "
            f"export the {'checkpoint' if source.info.adopted is None else 'foreign model'} in {precision}"
        )
    return with_input_type(source.proto, request.input_type)


def with_input_type(proto: onnx.ModelProto, input_type: str) -> onnx.ModelProto:
    """Return a copy of a graph that takes images as uint8 or as float32.

    A graph begins with a Cast to float32. It is a no-op for floats, so that the declared type of the input is all that differs;
    a graph that was exported for floats has none, and is given one.
    """
    import onnx

    changed = copy.deepcopy(proto)
    image = changed.graph.input[0]
    element = onnx.TensorProto.UINT8 if input_type == "uint8" else onnx.TensorProto.FLOAT
    if image.type.tensor_type.elem_type == element:
        return changed
    image.type.tensor_type.elem_type = element
    if redirect(changed, image.name, f"{image.name}/float", but=("Cast", "Shape")):
        cast = onnx.helper.make_node("Cast", [image.name], [f"{image.name}/float"], name=f"{image.name}/Cast", to=1)
        changed.graph.node.insert(0, cast)
    return changed


def with_normalized_input(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph for float32 pixels that takes what trackers feed: pixels in 0-1, normalized as for ImageNet.

    Two nodes in front bring them back to 0-255, and the graph goes on as it was, with the model's own normalization.
    """
    from onnx import helper, numpy_helper

    changed = copy.deepcopy(proto)
    image = changed.graph.input[0].name
    redirect(changed, image, f"{image}/pixels", but=("Shape",))
    for name, values in (("std", IMAGENET_STD), ("mean", IMAGENET_MEAN)):
        constant = np.array(values, np.float32).reshape(1, 3, 1, 1) * np.float32(255)
        changed.graph.initializer.append(numpy_helper.from_array(constant, f"{image}/{name}"))
    scaled = helper.make_node("Mul", [image, f"{image}/std"], [f"{image}/scaled"], name=f"{image}/Mul")
    pixels = helper.make_node("Add", [f"{image}/scaled", f"{image}/mean"], [f"{image}/pixels"], name=f"{image}/Add")
    changed.graph.node.insert(0, pixels)
    changed.graph.node.insert(0, scaled)
    return changed
