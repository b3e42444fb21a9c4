"""Eight bits in the graph: which layers, with which ranges, in the form that a kind of runtime turns into eight-bit kernels.

Convolutions and linear layers are quantized, weights symmetric by output channel. Layer norm, softmax, the L2 norm and pixel
normalization stay in floating point. Two schemes, because runtimes match different patterns:

- ``"cpu"`` (ONNX Runtime on a CPU): activations in uint8 with a zero point, biases in int32, outputs of convolutions and
  residual sums quantized too: ONNX Runtime makes its integer kernels of exactly this. Placed by onnxruntime.quantization.
- ``"tensorrt"``: activations symmetric, zero point 0; inputs and weights alone, biases left as they are, since TensorRT takes
  no quantized ones. What is around the layers computes in float16 from opset 19 on, which strongly typed TensorRT takes
  literally.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hat.config import config_dataclass, config_from_dict, config_to_dict
from hat.console import progress
from hat.errors import ConfigError, UsageError, WorkError
from hat.model import HAT

from ..graph.onnx_float16 import half_inference_model
from ..graph.onnx_trace import trace_onnx
from ..request import ExportRequest
from .activation_ranges import CalibrationName, Range, tensor_ranges
from .calibration import calibration_details
from .preparation import WeightRounding, equalized, rounded, with_weights_of
from .qdq_insertion import FLOAT16_SCALE_OPSET, QuantizableLayer, find_layers, insert_pairs

if TYPE_CHECKING:
    import onnx

__all__ = ["QuantizationOptions", "quantized_graph"]

_LAYERS = ("Conv", "Gemm", "MatMul")
_BETWEEN = ("Add", "Clip", "MaxPool", "Relu")
"""What stands between two convolutions and has an integer kernel in ONNX Runtime, or disappears into one."""


@config_dataclass
class QuantizationOptions:
    """How to quantize; each field is an option of an int8 or fp8 export."""

    scheme: Literal["cpu", "tensorrt"] = "tensorrt"
    """What will run the file. A file of its own, ``--to onnx``, is made for a CPU unless this says otherwise."""

    calibration: CalibrationName = "percentile"
    """How ranges of activations are chosen: ``minmax`` or ``percentile``."""

    percentile: float = 99.99
    """Part of the values that ``calibration=percentile`` keeps, in percent."""

    equalize: bool = True
    """Give the channels between two convolutions more alike ranges first, which computes the same."""

    rounding: WeightRounding = "outputs"
    """How int8 weights are rounded: ``outputs``, so that what each layer gives changes least, or each to the ``nearest``."""

    rest: Literal["fp32", "fp16"] | None = None
    """Type of what is not quantized; None is fp32, but fp16 for ``scheme=tensorrt`` where the opset has it."""

    attention: bool = False
    """Quantize attention's two products of activations too: little work, and among the first to lose precision."""

    exclude: tuple[str, ...] = ()
    """Layers to leave out: names, or their beginnings."""

    max_drop: float | None = None
    """Leave out every layer that, quantized alone, takes more than this from the worst cosine of the embedding."""

    num_sensitivity: int = 16
    """Calibration images on which `max_drop` and the report are measured."""

    report: bool = False
    """Measure every layer's loss and record it, even where nothing is left out."""

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile is above 50 and at most 100, got {self.percentile:g}")
        if self.max_drop is not None and not 0 < self.max_drop < 1:
            raise ValueError(f"max_drop is a loss of cosine between 0 and 1, got {self.max_drop:g}")
        if self.num_sensitivity < 1:
            raise ValueError(f"num_sensitivity is at least 1, got {self.num_sensitivity}")


def quantized_graph(model: HAT, request: ExportRequest) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Calibrate and quantize.

    Args:
        model: The trained model.
        request: Its precision is ``"int8"`` or ``"fp8"``.

    Returns:
        The quantized model, and what to record of it: options, calibration images, layers that were left out and why, and
        the loss of every layer where it was measured.

    Raises:
        UsageError: There are no calibration images, or an option is unknown or contradicts another.
        WorkError: The graph cannot be made, or no layer is left to quantize.
    """
    if request.calibration is None or not len(request.calibration.images):
        raise UsageError(f"{request.precision} needs calibration images: name a data set with --calibration-data [NAME=]DIR")
    try:
        options = config_from_dict(QuantizationOptions, request.options, where="options")
    except ConfigError as error:
        raise UsageError(f"{request.precision}: {error}") from None
    if request.precision == "fp8":
        if options.scheme == "cpu":
            raise UsageError("fp8 belongs to scheme=tensorrt: no CPU computes in it")
        if request.opset < FLOAT16_SCALE_OPSET:
            raise UsageError(f"ONNX has float8 from opset {FLOAT16_SCALE_OPSET} on, got {request.opset}: ask for that one")
    proto, images = _floating_point(model, request, options), request.calibration.images
    if options.equalize:
        proto = equalized(proto, images)
    layers = find_layers(proto, attention=options.attention)
    ranges = _ranges(proto, images, options)
    kept = [layer for layer in layers if not layer.name.startswith(options.exclude or ("\0",))]
    left_out = {layer.name: "named" for layer in layers if layer not in kept}
    unrounded = proto
    if options.rounding == "outputs" and request.precision == "int8":
        proto = rounded(proto, kept, images)
    details: dict[str, Any] = {}
    if options.max_drop is not None or options.report:
        from .sensitivity import measure_sensitivity

        report = measure_sensitivity(
            proto, kept, ranges, images[: options.num_sensitivity], kind=_kind(request), max_drop=options.max_drop
        )
        details["sensitivity"] = report.to_dict()
        left_out |= {loss.layer: f"alone it costs {loss.alone:.2e}" for loss in report.losses if loss.excluded}
        kept = [layer for layer in kept if layer.name not in left_out]
    if options.scheme == "cpu":
        feeding = _feeding(proto, {layer.node: layer.name for layer in layers if layer not in kept})
        left_out |= {layer.name: f"it feeds {feeding[layer.node]}" for layer in kept if layer.node in feeding}
        kept = [layer for layer in kept if layer.node not in feeding]
    if not kept:
        raise WorkError(
            f"no layer is left to compute in {request.precision}: all {len(layers)} were left out; allow a larger --max-drop"
        )
    proto = with_weights_of(proto, unrounded, [layer for layer in layers if layer not in kept])
    quantized = (
        _for_cpu(proto, kept, ranges) if options.scheme == "cpu" else insert_pairs(proto, kept, ranges, kind=_kind(request))
    )
    details |= {
        "quantization": config_to_dict(options),
        "num_quantized_layers": len(kept),
        "layers_left_out": left_out,
        "calibration": calibration_details(request.calibration),
    }
    return quantized, details


def _kind(request: ExportRequest) -> Literal["int8", "fp8"]:
    return "fp8" if request.precision == "fp8" else "int8"


def _floating_point(model: HAT, request: ExportRequest, options: QuantizationOptions) -> onnx.ModelProto:
    """The graph that is quantized."""
    import torch

    from ..to_onnx import inference_module

    rest = options.rest
    if rest is None:
        rest = "fp16" if options.scheme == "tensorrt" and request.opset >= FLOAT16_SCALE_OPSET else "fp32"
    if rest == "fp16":
        if options.scheme == "cpu":
            raise UsageError("rest=fp16 belongs to scheme=tensorrt: a CPU computes the rest in fp32")
        if request.opset < FLOAT16_SCALE_OPSET:
            raise UsageError(f"int8 inside fp16 needs opset {FLOAT16_SCALE_OPSET}, got {request.opset}: ask for that one")
        graph = half_inference_model(model, torch.float16)
        return trace_onnx(graph, opset=request.opset, input_type=request.input_type)
    return trace_onnx(inference_module(model, "fp32"), opset=request.opset, input_type=request.input_type)


def _ranges(proto: onnx.ModelProto, images: npt.NDArray[np.uint8], options: QuantizationOptions) -> dict[str, Range]:
    operators = [*_LAYERS, *_BETWEEN] if options.scheme == "cpu" else [*_LAYERS]
    with progress() as display:
        task = display.add_task("calibrating", total=len(images), info=options.calibration)
        return tensor_ranges(
            proto,
            operators,
            images,
            method=options.calibration,
            percentile=options.percentile,
            advance=lambda count: display.advance(task, count),
        )


def _for_cpu(proto: onnx.ModelProto, layers: Sequence[QuantizableLayer], ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Quantize in the pattern of ONNX Runtime's integer kernels."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    source = onnx.ModelProto()
    source.CopyFrom(proto)  # the quantizer works in place
    names = {layer.node for layer in layers}
    ends = {name: tuple(np.asarray(end, dtype=np.float32) for end in found) for name, found in ranges.items()}
    quantizer = QDQQuantizer(
        source,
        True,  # weights by channel
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, ends),
        [*names, *_between(proto, names)],
        [],
        [*_LAYERS, *_BETWEEN],
        # The product of a linear layer goes into a float kernel at once; rounding it first would only lose precision.
        {
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
            "WeightSymmetric": True,
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
        },
    )
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # the quantizer warns on the root logger of every tensor that it leaves as it is
    try:
        quantizer.quantize_model()
    finally:
        logging.root.setLevel(level)
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _renumber(quantized)
    return quantized


def _feeding(proto: onnx.ModelProto, left_out: dict[str, str]) -> dict[str, str]:
    """Convolutions whose outputs enter layers that were left out.

    This scheme quantizes a convolution's output, so a layer that is left out would still be given eight bits, and those of
    values from before the activation: more would be lost than by quantizing it.

    Args:
        proto: The floating-point model.
        left_out: Node -> name of the layers that were left out.

    Returns:
        Node of a convolution -> name of the layer that it feeds.
    """
    made_by = {output: node for node in proto.graph.node for output in node.output}
    found: dict[str, str] = {}
    for node in proto.graph.node:
        if node.name not in left_out:
            continue
        waiting, seen = [node.input[0]], set()
        while waiting:
            producer = made_by.get(waiting.pop())
            if producer is None or producer.name in seen:
                continue
            seen.add(producer.name)
            if producer.op_type == "Conv" and producer.name not in left_out:
                found[producer.name] = left_out[node.name]
            elif producer.op_type in _BETWEEN:
                waiting += producer.input
    return found


def _between(proto: onnx.ModelProto, quantized: set[str]) -> list[str]:
    """Activations, poolings and residual sums all of whose inputs come from quantized convolutions or from these."""
    eight_bits: set[str] = set()
    found = []
    for node in proto.graph.node:
        if node.name in quantized and node.op_type == "Conv":
            eight_bits.update(node.output)
        elif node.op_type in _BETWEEN:
            activations = node.input if node.op_type == "Add" else node.input[:1]
            if all(name in eight_bits for name in activations):
                eight_bits.update(node.output)
                found.append(node.name)
    return found


def _renumber(proto: onnx.ModelProto) -> None:
    """The quantizer leaves its own name as producer and may add an import of its own operators that nothing uses."""
    used = {node.domain for node in proto.graph.node}
    imports = [entry for entry in proto.opset_import if entry.domain in used or entry.domain in ("", "ai.onnx")]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
