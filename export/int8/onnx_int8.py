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
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from hat.config import config_dataclass, config_from_dict, config_to_dict
from hat.errors import ConfigError, UsageError, WorkError
from hat.model import HAT

from ..graph.onnx_activations import GraphRunner
from ..graph.onnx_trace import fold_foreign_graph
from ..onnx_source import ExportSource, float_graph
from ..request import Calibration, ExportRequest
from .calibration import CalibrationName, Range, calibration_details, tensor_ranges
from .cross_layer_equalization import equalize_channels
from .gptq import round_weights
from .qdq_insertion import FLOAT16_SCALE_OPSET, QuantizableLayer, find_layers, insert_qdq
from .sensitivity import LayerLoss, cosine_losses, measure_sensitivity

if TYPE_CHECKING:
    import onnx


_LAYERS = ("Conv", "Gemm", "MatMul")
_BETWEEN = ("Add", "Clip", "MaxPool", "Relu")
"""What stands between two convolutions and has an integer kernel in ONNX Runtime, or disappears into one."""

DEFAULT_MAX_DROP = 0.001
"""Fall of the mean cosine that int8 is allowed by default. For the model that comes along, OpenVINO's int8 that met it lost
0.32 points of mAP and the one that did not 0.57, where half a point is allowed (docs/precision.md)."""

_NUM_PREPARING = 256
"""Calibration images that equalization and GPTQ look at: with twice as many the Hessians are the same."""


@config_dataclass
class QuantizationOptions:
    """How to quantize; each field is an option of an int8 or fp8 export."""

    scheme: Literal["cpu", "tensorrt"] = "tensorrt"
    """What will run the file. A file of its own, ``--to onnx``, is made for a CPU unless this says otherwise."""

    calibration: CalibrationName = "percentile"
    """How ranges of activations are chosen: ``minmax`` or ``percentile``."""

    percentile: float = 99.99
    """Part of the values that ``calibration=percentile`` keeps, in percent."""

    cross_layer_equalization: bool = True
    """Scale the channels between two convolutions to more equal ranges first, which computes the same."""

    rounding: Literal["gptq", "nearest"] = "gptq"
    """How int8 weights are rounded: ``gptq``, so that what each layer gives changes least, or each to the ``nearest`` step."""

    float_dtype: Literal["fp32", "fp16"] | None = None
    """Type of what is not quantized; None is fp32, but fp16 for ``scheme=tensorrt`` where the opset has it."""

    attention: bool = False
    """Quantize attention's two products of activations too: little work, and among the first to lose precision."""

    layers: Literal["all", "linear"] = "all"
    """Which are quantized: ``linear`` leaves convolutions in floating point, the default of TensorRT for RTX."""

    weight_scales: Literal["channel", "tensor"] = "channel"
    """One scale for each output channel of an int8 weight, or one for the tensor: the default of TensorRT for RTX, whose
    products then move less."""

    residual_sums: bool = False
    """Quantize what is added to a convolution's output too, so that TensorRT can add it inside the convolution's int8 kernel;
    ``scheme=cpu`` always does. Whether it pays is for a GPU to say."""

    exclude: tuple[str, ...] = ()
    """Layers to leave out: names, or their beginnings."""

    max_drop: float | None = None
    """Largest fall of the mean cosine between int8 and float embeddings: the layers that cost most are left out until it is
    met. 1 leaves none out. None is 0.001 for ``scheme=cpu``, and 1 for ``tensorrt``, where the builder's plan decides what is
    worth quantizing."""

    num_sensitivity: int = 32
    """Calibration images on which `max_drop` and the report are measured."""

    report: bool = False
    """Measure every layer's loss and record it, even where nothing is left out."""

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile is above 50 and at most 100, got {self.percentile:g}")
        if self.max_drop is not None and not 0 < self.max_drop <= 1:
            raise ValueError(f"max_drop is a loss of cosine above 0 and at most 1, got {self.max_drop:g}")
        if self.num_sensitivity < 1:
            raise ValueError(f"num_sensitivity is at least 1, got {self.num_sensitivity}")

    @property
    def allowed_drop(self) -> float:
        """`max_drop`, or its default for the scheme."""
        if self.max_drop is not None:
            return self.max_drop
        return DEFAULT_MAX_DROP if self.scheme == "cpu" else 1.0


def quantized_graph(model: ExportSource, request: ExportRequest) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Calibrate and quantize.

    Args:
        model: The trained model, or an ONNX file of this package in floating point.
        request: Its precision is ``"int8"`` or ``"fp8"``.

    Returns:
        The quantized model, and what to record of it: options, calibration images, layers that were left out and why, the fall
        of the mean cosine, and the loss of every layer where it was measured.

    Raises:
        UsageError: There are no calibration images, or an option is unknown or contradicts another.
        WorkError: The graph cannot be made, or no layer is left to quantize.
    """
    options, calibration = check_quantization(request)
    images = calibration.images
    proto = fold_foreign_graph(float_graph(model, request, _float_precision(model, request, options)))
    if options.cross_layer_equalization:
        proto, _ = equalize_channels(proto, images[:_NUM_PREPARING])
    layers = find_layers(proto, attention=options.attention)
    operators = [*_LAYERS, *_BETWEEN] if options.scheme == "cpu" else [*_LAYERS, *(["Add"] if options.residual_sums else [])]
    ranges = tensor_ranges(proto, operators, images, method=options.calibration, percentile=options.percentile)
    quantizer = _Quantizer(proto, proto, layers, ranges, "fp8" if request.precision == "fp8" else "int8", options)
    convolutions = {node.name for node in proto.graph.node if node.op_type == "Conv"} if options.layers == "linear" else set()
    for layer in layers:
        if layer.node in convolutions:
            quantizer.left_out[layer.name] = "a convolution"
        if layer.name.startswith(options.exclude or ("\0",)):
            quantizer.left_out[layer.name] = "named"
    if options.rounding == "gptq" and request.precision == "int8":
        per_tensor = options.weight_scales == "tensor"
        quantizer.rounded = round_weights(proto, quantizer.kept, images[:_NUM_PREPARING], per_tensor=per_tensor)
    quantized = quantizer.quantize(images[: options.num_sensitivity])
    return quantized, quantizer.details | {
        "quantization": config_to_dict(options),
        "num_quantized_layers": len(quantizer.kept),
        "layers_left_out": quantizer.left_out,
        "calibration": calibration_details(calibration),
    }


def check_quantization(request: ExportRequest) -> tuple[QuantizationOptions, Calibration]:
    """Return the options and images of an int8 or fp8 export.

    Raises:
        UsageError: There are no calibration images, or an option is unknown or contradicts the precision.
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
    return options, request.calibration


@dataclass
class _Quantizer:
    """Quantizes a prepared graph, and leaves layers out until its embeddings have fallen by no more than is allowed."""

    proto: onnx.ModelProto
    rounded: onnx.ModelProto  # the same graph with weights on the grid
    layers: Sequence[QuantizableLayer]
    ranges: Mapping[str, Range]
    kind: Literal["int8", "fp8"]
    options: QuantizationOptions
    left_out: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> list[QuantizableLayer]:
        """The layers that are quantized."""
        return [layer for layer in self.layers if layer.name not in self.left_out]

    def quantize(self, images: npt.NDArray[np.uint8]) -> onnx.ModelProto:
        """Return the quantized graph.

        Layers go in the order of what they cost by themselves, first one, then two, four, eight more: each step is measured on
        the very graph that is written, and a step for every layer would measure almost the same graph a hundred times.
        """
        quantized = self._quantized()
        losses: list[LayerLoss] = []
        if self.options.report:
            losses = measure_sensitivity(self.rounded, self.kept, self.ranges, images, kind=self.kind)
        if self.options.allowed_drop < 1:
            reference, step = GraphRunner(self.proto).embed(images), 1
            while (drop := self._drop(reference, quantized, images)) > self.options.allowed_drop:
                losses = losses or measure_sensitivity(self.rounded, self.kept, self.ranges, images, kind=self.kind)
                remaining = [loss for loss in sorted(losses, key=lambda loss: -loss.mean) if loss.layer not in self.left_out]
                self.left_out |= {loss.layer: f"alone it costs {loss.mean:.2e}" for loss in remaining[:step]}
                quantized, step = self._quantized(), 2 * step
            self.details["cosine_drop"] = float(f"{drop:.3e}")
        if losses:
            layers = [{**asdict(loss), "excluded": loss.layer in self.left_out} for loss in losses]
            self.details["sensitivity"] = {"num_images": len(images), "layers": layers}
        return quantized

    def _drop(self, reference: npt.NDArray[np.float32], quantized: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> float:
        return float(cosine_losses(reference, GraphRunner(quantized).embed(images)).mean())

    def _quantized(self) -> onnx.ModelProto:
        if self.options.scheme == "cpu":
            feeding = _feeding(self.proto, {layer.node: layer.name for layer in self.layers if layer.name in self.left_out})
            self.left_out |= {layer.name: f"it feeds {feeding[layer.node]}" for layer in self.kept if layer.node in feeding}
        kept = self.kept
        if not kept:
            raise WorkError(
                f"no layer is left to compute in {self.kind}: all {len(self.layers)} were left out; allow a larger --max-drop"
            )
        # What stays in floating point has its own weights, and not those on the grid.
        proto = _with_weights(self.proto, self.rounded, {layer.weight for layer in kept})
        if self.options.scheme == "cpu":
            return _for_cpu(proto, kept, self.ranges)
        per_tensor, sums = self.options.weight_scales == "tensor", self.options.residual_sums
        return insert_qdq(proto, kept, self.ranges, kind=self.kind, per_tensor=per_tensor, residual_sums=sums)


def _with_weights(proto: onnx.ModelProto, source: onnx.ModelProto, names: set[str | None]) -> onnx.ModelProto:
    """Return a copy in which some weights are those of another copy of the graph."""
    import onnx

    taken = {tensor.name: tensor for tensor in source.graph.initializer if tensor.name in names}
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for tensor in changed.graph.initializer:
        if tensor.name in taken:
            tensor.CopyFrom(taken[tensor.name])
    return changed


def _float_precision(model: ExportSource, request: ExportRequest, options: QuantizationOptions) -> Literal["fp32", "fp16"]:
    """Return the type of what is not quantized."""
    chosen = options.float_dtype
    if chosen is None and not isinstance(model, HAT) and options.scheme == "tensorrt":
        chosen = "fp16" if model.info.precision == "fp16" else "fp32"  # the file's own
    if chosen is None:
        chosen = "fp16" if options.scheme == "tensorrt" and request.opset >= FLOAT16_SCALE_OPSET else "fp32"
    if chosen == "fp16":
        if options.scheme == "cpu":
            raise UsageError("float_dtype=fp16 belongs to scheme=tensorrt: a CPU computes the rest in fp32")
        if request.opset < FLOAT16_SCALE_OPSET:
            raise UsageError(f"int8 inside fp16 needs opset {FLOAT16_SCALE_OPSET}, got {request.opset}: ask for that one")
    return chosen


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
    _drop_unused_imports(quantized)
    return quantized


def _feeding(proto: onnx.ModelProto, left_out: dict[str, str]) -> dict[str, str]:
    """Return the convolutions whose outputs enter layers that were left out: node -> name of the layer that it feeds.

    This scheme quantizes a convolution's output, so a layer that is left out would still be given eight bits, and those of
    values from before the activation: more would be lost than by quantizing it.
    """
    producers = {output: node for node in proto.graph.node for output in node.output}
    found: dict[str, str] = {}
    for node in proto.graph.node:
        if node.name not in left_out:
            continue
        waiting, seen = [node.input[0]], set()
        while waiting:
            producer = producers.get(waiting.pop())
            if producer is None or producer.name in seen:
                continue
            seen.add(producer.name)
            if producer.op_type == "Conv" and producer.name not in left_out:
                found[producer.name] = left_out[node.name]
            elif producer.op_type in _BETWEEN:
                waiting += producer.input
    return found


def _between(proto: onnx.ModelProto, quantized: set[str]) -> list[str]:
    """Return the activations, poolings and residual sums all of whose inputs come from quantized convolutions or from these."""
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


def _drop_unused_imports(proto: onnx.ModelProto) -> None:
    """Take imports out that nothing uses: the quantizer may add one for its own operators."""
    used = {node.domain for node in proto.graph.node}
    imports = [entry for entry in proto.opset_import if entry.domain in used or entry.domain in ("", "ai.onnx")]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
