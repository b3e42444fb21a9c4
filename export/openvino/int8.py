"""Precision in OpenVINO's graph: int8 by NNCF with its fast bias correction and SmoothQuant, and what stays in float32."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hat.config import config_dataclass, config_from_dict, config_to_dict
from hat.errors import MissingExtraError, UsageError, WorkError
from hat.runtime.openvino_runtime import kept_signal_stack

from ..graph.onnx_trace import quiet
from ..int8.leave_out import DEFAULT_MAX_DROP, PROJECTION, LayerLoss, leave_out_fewest, nothing_left, sensitivity_details
from ..request import Calibration, ExportRequest
from .layer_losses import PRODUCTS, cosines, embed, is_quantized, layer_losses, products

if TYPE_CHECKING:
    import nncf
    import openvino


ATTENTION = "ScaledDotProductAttention"

_STAYS_IN_FLOAT32 = "precise_0"
"""OpenVINO's mark on an operation that is computed in float32 where the rest is computed in float16."""

_SMOOTHING = {"MatMul": 0.95, "Convolution": 0.5}
"""SmoothQuant's exponents. NNCF leaves convolutions alone by default; a mobile network gains from a half."""

_OVERFLOW_FIXES = {"none": "disable", "first": "first_layer_only", "all": "enable"}
"""NNCF's words for `OpenVINOQuantization.reduce_range`."""

_NUM_VALIDATION = 128
"""Calibration images on which `OpenVINOQuantization.max_drop` is measured."""

_NUM_SENSITIVITY = 32
"""Those on which every layer's own loss is measured."""


@config_dataclass
class OpenVINOQuantization:
    """Options of an int8 export to OpenVINO."""

    preset: Literal["mixed", "performance"] = "mixed"
    """``"mixed"``: asymmetric ranges for activations, which GELU and hard swish need; ``"performance"``: symmetric ones."""

    model_type: Literal["transformer", "cnn"] = "transformer"
    """``"transformer"`` leaves sums, norms and gates in floats and quantizes products alone; ``"cnn"`` quantizes sums too."""

    ranges: Literal["mean", "minmax"] = "mean"
    """``"mean"``: ranges of activations are the mean of every image's extremes, which suits the usual image and clips the
    unusual one; ``"minmax"``: the extremes of all images."""

    bias_correction: Literal["none", "fast", "layerwise"] = "fast"
    """Correct biases for what quantization adds to the mean of a layer's output (Nagel et al., ICCV 2019, Sec. 4.2): by
    statistics of one pass, or one layer after the other, each with those before it corrected."""

    smooth_quant: bool = True
    """Move the spread of activations into the weights of linear layers and convolutions (Xiao et al., ICML 2023)."""

    reduce_range: Literal["none", "first", "all"] = "none"
    """Layers with weights of seven bits: sums of eight can overflow on processors without VNNI instructions, which most
    have since about 2019 (Intel) and 2022 (AMD)."""

    subset_size: int | None = Field(default=None, ge=1)
    """Calibration images to take ranges from; None takes all."""

    attention: Literal["float", "int8"] = "float"
    """Precision of softmax(QK)V; linear layers around it are int8 in both."""

    float_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the layers that are not quantized. bf16 is faster, and the file is refused where there is none."""

    ignored_names: list[str] = Field(default_factory=list)
    """Layers that stay in floats, by their names in the graph."""

    ignored_patterns: list[str] = Field(default_factory=list)
    """Layers that stay in floats, by regular expressions over their names."""

    max_drop: float = Field(default=DEFAULT_MAX_DROP, gt=0, le=1)
    """Largest fall of the mean cosine between int8 and float embeddings: the layers that cost most go back to floats until it
    is met, which takes a pass over some images for every layer. 1 leaves none out."""


def quantize_openvino(model: openvino.Model, request: ExportRequest) -> tuple[openvino.Model, dict[str, Any]]:
    """Quantize a float32 graph, and return with it what is to be recorded of how it was made.

    Pixels stay in floats up to the first convolution, and so does everything after the last join of features: necks and L2
    norm decide the angles between embeddings, and cost nothing.

    Raises:
        UsageError: There are no calibration images, or an option is unknown or names layers that are not there.
        WorkError: NNCF failed.
        MissingExtraError: nncf is not installed.
    """
    options, calibration = check_quantization(request)
    used = replace(
        calibration, images=calibration.images[: options.subset_size], paths=calibration.paths[: options.subset_size]
    )
    element = np.uint8 if request.input_type == "uint8" else np.float32
    batch = model.inputs[0].get_partial_shape()[0]  # of an adopted graph it may be fixed: it gets one image as often
    images = [np.repeat(image[None].astype(element), 1 if batch.is_dynamic else batch.get_length(), 0) for image in used.images]
    quantized, details = _quantize_within_drop(model, images, options)
    layers = products(quantized)
    return quantized, {
        "float_precision": options.float_precision,
        "quantization": config_to_dict(options),
        "calibration": used.details,
        "num_products": len(layers),
        "float_products": [layer.get_friendly_name() for layer in layers if not is_quantized(layer)],
        **details,
    }


def _quantize_within_drop(
    model: openvino.Model, images: Sequence[npt.NDArray[Any]], options: OpenVINOQuantization
) -> tuple[openvino.Model, dict[str, Any]]:
    """Quantize with the fewest layers left out for the drop that is allowed, and return what is to be recorded of it.

    NNCF's own control of the accuracy takes layers back one at a time and measures all of the rest again whenever that did
    not help: with a drop as small as this one it needed hours for what takes minutes here.
    """
    seen = images[:_NUM_VALIDATION]
    reference = embed(model, seen)
    quantized = _quantize(model, images, options)
    drop = _drop(quantized, seen, reference)
    details: dict[str, Any] = {}
    if drop > options.max_drop:
        few = slice(_NUM_SENSITIVITY)
        losses = layer_losses(_quantize(model, images, options, with_quantizers=True), seen[few], reference[few])

        def quantize(worst: Sequence[LayerLoss]) -> tuple[tuple[openvino.Model, dict[str, str]], float]:
            left_out = {loss.layer: loss.reason for loss in worst}
            made = _quantize(model, images, options, left_out.keys())
            if not any(is_quantized(layer) for layer in products(made)):
                raise nothing_left("int8", len(losses))
            return (made, left_out), _drop(made, seen, reference)

        (quantized, left_out), drop = leave_out_fewest(losses, quantize, options.max_drop)
        details = {"layers_left_out": left_out, "sensitivity": sensitivity_details(losses, left_out, len(reference[few]))}
    return quantized, {"cosine_drop": float(f"{drop:.3e}"), **details}


def _quantize(
    model: openvino.Model,
    images: Sequence[npt.NDArray[Any]],
    options: OpenVINOQuantization,
    left_out: Set[str] = frozenset(),
    *,
    with_quantizers: bool = False,
) -> openvino.Model:
    """Quantize a copy of a graph but for some layers.

    ``with_quantizers`` leaves those of the weights in the graph and biases as they are, so that layers can be set free one by
    one: NNCF otherwise folds the weights into integers, and corrects a bias for what all layers before it have changed.
    """
    try:
        import nncf
    except ImportError:
        raise MissingExtraError("nncf", "openvino", "quantizing for OpenVINO") from None
    try:
        with kept_signal_stack(), quiet("nncf"):
            return nncf.quantize(
                model,
                nncf.Dataset(images),
                preset=nncf.QuantizationPreset(options.preset),
                model_type=nncf.ModelType.TRANSFORMER if options.model_type == "transformer" else None,
                subset_size=len(images),
                fast_bias_correction=options.bias_correction != "layerwise",
                ignored_scope=_ignored(model, options, left_out),
                advanced_parameters=_advanced(options, with_quantizers),
            )
    except nncf.ValidationError as error:
        raise UsageError(f"openvino int8: {' '.join(str(error).split())}") from None
    except RuntimeError as error:  # NNCF's own errors and OpenVINO's are all RuntimeErrors
        raise WorkError(f"NNCF cannot quantize the graph: {error}") from error


def _drop(quantized: openvino.Model, images: Sequence[npt.NDArray[Any]], reference: npt.NDArray[np.float32]) -> float:
    return 1 - float(cosines(quantized, images, reference).mean())


def check_quantization(request: ExportRequest) -> tuple[OpenVINOQuantization, Calibration]:
    """Return the options and images of an int8 export, which are refused before the minutes that tracing takes.

    Raises:
        UsageError: There are no calibration images, or an option is unknown.
    """
    options = config_from_dict(OpenVINOQuantization, request.options, where="openvino int8")
    if request.calibration is None or not len(request.calibration.images):
        raise UsageError("int8 needs calibration images of the training split, and got none: name a data set to take them from")
    return options, request.calibration


def _advanced(options: OpenVINOQuantization, with_quantizers: bool) -> nncf.AdvancedQuantizationParameters:
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    smoothing = nncf.AdvancedSmoothQuantParameters(
        matmul=_SMOOTHING["MatMul"] if options.smooth_quant else -1.0,  # a negative exponent switches it off
        convolution=_SMOOTHING["Convolution"] if options.smooth_quant else -1.0,
    )
    parameters = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix(_OVERFLOW_FIXES[options.reduce_range]),
        disable_bias_correction=with_quantizers or options.bias_correction == "none",
        smooth_quant_alphas=smoothing,
        backend_params={"compress_weights": not with_quantizers},
    )
    if options.ranges == "minmax":
        parameters.activations_range_estimator_params = RangeEstimatorParametersSet.MINMAX
    return parameters


def _ignored(model: openvino.Model, options: OpenVINOQuantization, left_out: Set[str]) -> nncf.IgnoredScope:
    import nncf

    names = {operation.get_friendly_name() for operation in model.get_ops()}
    if unknown := sorted(set(options.ignored_names) - names):
        raise UsageError(f"openvino int8: ignored_names has layers that the graph has not: {', '.join(unknown)}")
    has_attention = any(operation.get_type_name() == ATTENTION for operation in model.get_ops())
    return nncf.IgnoredScope(
        names=sorted({*options.ignored_names, *left_out, *around_network(model)}),
        patterns=list(options.ignored_patterns),
        types=[ATTENTION] if options.attention == "float" and has_attention else [],
    )


def around_network(model: openvino.Model) -> set[str]:
    """Return the names of what comes before the first layers with weights and after the last: normalization, necks and L2 norm.

    They decide the angles between embeddings and cost nothing, so that no precision is low enough to be worth it here.
    """
    names: set[str] = set()
    readers = [port.get_node() for port in model.inputs[0].get_target_inputs()]
    while readers:
        node = readers.pop()
        if node.get_type_name() not in (*PRODUCTS, "ShapeOf") and node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            readers += [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]
    producers = [model.outputs[0].get_node().input_value(0).get_node()]
    ends = (*PRODUCTS, ATTENTION, "Concat", "Constant", "MVN", "Parameter", "ReduceMean", "ShapeOf")
    while producers:
        node = producers.pop()
        is_end = node.get_type_name() in ends and not node.get_friendly_name().startswith(PROJECTION)
        if not is_end and node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            producers += [value.get_node() for value in node.input_values()]
    return names


def keep_in_float32(model: openvino.Model) -> None:
    """Mark what is around the network: a processor with float16 arithmetic would compute all of a graph in it.

    In bfloat16 OpenVINO leaves it in float32 by itself.
    """
    names = around_network(model)
    for operation in model.get_ops():
        if operation.get_friendly_name() in names and operation.get_type_name() != "Constant":
            operation.get_rt_info()[_STAYS_IN_FLOAT32] = ""
