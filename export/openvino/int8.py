"""Precision in OpenVINO's graph: int8 by NNCF with its fast bias correction and SmoothQuant, and what stays in float32."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hat.config import config_dataclass, config_from_dict, config_to_dict
from hat.errors import MissingExtraError, UsageError, WorkError
from hat.runtime.openvino_runtime import kept_signal_stack, openvino_core

from ..graph.onnx_trace import quiet
from ..int8.onnx_int8 import DEFAULT_MAX_DROP
from ..request import Calibration, ExportRequest

if TYPE_CHECKING:
    import nncf
    import openvino


PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
"""Operations with weights, which do the work."""

ATTENTION = "ScaledDotProductAttention"

_STAYS_IN_FLOAT32 = "precise_0"
"""OpenVINO's mark on an operation that is computed in float32 where the rest is computed in float16."""

_SMOOTHING = {"MatMul": 0.95, "Convolution": 0.5}
"""SmoothQuant's exponents. NNCF leaves convolutions alone unless told; a mobile network gains from a half."""

_OVERFLOW_FIXES = {"none": "disable", "first": "first_layer_only", "all": "enable"}
"""NNCF's words for `OpenVINOQuantization.reduce_range`."""

_NUM_VALIDATION = 128
"""Calibration images on which `OpenVINOQuantization.max_drop` is measured, again for every layer."""

_MOVES_VALUES = ("MaxPool", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit")


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
    """Which layers have weights of seven bits: sums of eight can overflow on processors without VNNI instructions, which most
    have since about 2019 (Intel) and 2022 (AMD)."""

    subset_size: int | None = Field(default=None, ge=1)
    """Calibration images to take ranges from; None takes all."""

    attention: Literal["float", "int8"] = "float"
    """In what softmax(QK)V is computed; linear layers around it are int8 in both."""

    float_precision: Literal["fp32", "bf16"] = "fp32"
    """In what the layers compute that are not quantized. bf16 is faster, and the file is refused where there is none."""

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
    try:
        import nncf
    except ImportError:
        raise MissingExtraError("nncf", "openvino", "quantizing for OpenVINO") from None
    options, calibration = check_quantization(request)
    used = replace(
        calibration, images=calibration.images[: options.subset_size], paths=calibration.paths[: options.subset_size]
    )
    element = np.uint8 if request.input_type == "uint8" else np.float32
    images = [image[None].astype(element) for image in used.images]
    arguments: dict[str, Any] = {
        "preset": nncf.QuantizationPreset(options.preset),
        "model_type": nncf.ModelType.TRANSFORMER if options.model_type == "transformer" else None,
        "subset_size": len(images),
        "fast_bias_correction": options.bias_correction != "layerwise",
        "ignored_scope": _ignored(model, options),
    }
    try:
        with kept_signal_stack(), quiet("nncf"):
            if options.max_drop == 1:
                quantized = nncf.quantize(model, nncf.Dataset(images), advanced_parameters=_advanced(options), **arguments)
            else:
                quantized = nncf.quantize_with_accuracy_control(
                    model,
                    nncf.Dataset(images),
                    _validation_dataset(model, images[:_NUM_VALIDATION]),
                    _mean_cosine,
                    max_drop=options.max_drop,
                    advanced_quantization_parameters=_advanced(options),
                    **arguments,
                )
    except nncf.ValidationError as error:
        raise UsageError(f"openvino int8: {' '.join(str(error).split())}") from None
    except RuntimeError as error:  # NNCF's own errors and OpenVINO's are all RuntimeErrors
        raise WorkError(f"NNCF cannot quantize the graph: {error}") from error
    products = [operation for operation in quantized.get_ordered_ops() if operation.get_type_name() in PRODUCTS]
    return quantized, {
        "float_precision": options.float_precision,
        "quantization": config_to_dict(options),
        "calibration": used.details,
        "num_products": len(products),
        "float_products": [op.get_friendly_name() for op in products if not _is_quantized(op.input_value(0).get_node())],
    }


def check_quantization(request: ExportRequest) -> tuple[OpenVINOQuantization, Calibration]:
    """Return the options and images of an int8 export, which are refused before the minutes that tracing takes.

    Raises:
        UsageError: There are no calibration images, or an option is unknown.
    """
    options = config_from_dict(OpenVINOQuantization, request.options, where="openvino int8")
    if request.calibration is None or not len(request.calibration.images):
        raise UsageError("int8 needs calibration images of the training split, and got none: name a data set to take them from")
    return options, request.calibration


def _advanced(options: OpenVINOQuantization) -> nncf.AdvancedQuantizationParameters:
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    smoothing = nncf.AdvancedSmoothQuantParameters(
        matmul=_SMOOTHING["MatMul"] if options.smooth_quant else -1.0,  # a negative exponent switches it off
        convolution=_SMOOTHING["Convolution"] if options.smooth_quant else -1.0,
    )
    parameters = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix(_OVERFLOW_FIXES[options.reduce_range]),
        disable_bias_correction=options.bias_correction == "none",
        smooth_quant_alphas=smoothing,
    )
    if options.ranges == "minmax":
        parameters.activations_range_estimator_params = RangeEstimatorParametersSet.MINMAX
    return parameters


def _ignored(model: openvino.Model, options: OpenVINOQuantization) -> nncf.IgnoredScope:
    import nncf

    names = {operation.get_friendly_name() for operation in model.get_ops()}
    if unknown := sorted(set(options.ignored_names) - names):
        raise UsageError(f"openvino int8: ignored_names has layers that the graph has not: {', '.join(unknown)}")
    has_attention = any(operation.get_type_name() == ATTENTION for operation in model.get_ops())
    return nncf.IgnoredScope(
        names=sorted({*options.ignored_names, *around_network(model)}),
        patterns=list(options.ignored_patterns),
        types=[ATTENTION] if options.attention == "float" and has_attention else [],
    )


def _validation_dataset(model: openvino.Model, images: list[npt.NDArray[Any]]) -> nncf.Dataset:
    """Return every image together with the embedding that the float model gives it."""
    import nncf

    compiled = openvino_core("quantizing for OpenVINO").compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    pairs = [(image, np.array(compiled(image)[0])) for image in images]
    return nncf.Dataset(pairs, lambda pair: pair[0])


def _mean_cosine(compiled: Any, pairs: Iterable[Any]) -> tuple[float, list[float]]:
    cosines = [float((np.asarray(compiled(image)[0]) * reference).sum()) for image, reference in pairs]
    return float(np.mean(cosines)), cosines


def _is_quantized(node: Any) -> bool:
    """Return whether the output of a node was quantized, there or before it was merely moved about."""
    if node.get_type_name() == "FakeQuantize":
        return True
    if node.get_type_name() == "Concat":
        return all(_is_quantized(value.get_node()) for value in node.input_values())
    return node.get_type_name() in _MOVES_VALUES and _is_quantized(node.input_value(0).get_node())


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
        if node.get_type_name() not in ends and node.get_friendly_name() not in names:
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
