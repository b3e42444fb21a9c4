"""`hat export --to tensorrt` and `--to tensorrt-rtx`: a trained model as an engine with its sidecar."""

import dataclasses
import os
import tempfile
from pathlib import Path

from hat.config import config_from_dict
from hat.console import stderr
from hat.errors import UsageError, WorkError
from hat.io.artifact import ArtifactInfo, ArtifactPrecision
from hat.runtime.tensorrt.library import TensorRT, Variant, load_tensorrt

from ..onnx_source import ExportSource, OnnxSource
from ..request import ExportRequest
from ..to_onnx import build_onnx, describe, save_onnx
from .builder import NEWEST_OPSET, build_engine, find_gpu
from .options import EngineOptions, check_options


def export_tensorrt(
    model: ExportSource, path: str | os.PathLike[str], request: ExportRequest, *, module: TensorRT | None = None
) -> ArtifactInfo:
    """Build an engine of TensorRT 10 or 11 for the GPU of this machine.

    Args:
        model: The trained model, or an ONNX file of this package, which is taken as it is; it is left as it is.
        path: The engine to write; ``NAME.json`` beside it says what it is.
        request: Precision, batch profile, calibration images, device. Its ``options`` are those of `EngineOptions`, and for
            int8 and fp8 those of the quantizer.
        module: The TensorRT library; None imports it.

    Returns:
        The metadata of the engine.

    Raises:
        UsageError: The engine is there and is not to be replaced, an option is unknown or not for this product, or there is no
            GPU, or none that computes in this precision.
        WorkError: The graph cannot be exported, parsed or built, or another precision was built than asked for.
        MissingExtraError: TensorRT or a library for exporting is not installed.
    """
    return _export(model, path, request, "tensorrt", module)


def export_tensorrt_rtx(
    model: ExportSource, path: str | os.PathLike[str], request: ExportRequest, *, module: TensorRT | None = None
) -> ArtifactInfo:
    """Build an engine of TensorRT for RTX, ahead of time and without a GPU; the arguments are those of `export_tensorrt`.

    Which GPUs it runs on is the option ``compute_capability``; the machine that runs it finishes the build when it loads it.

    Raises:
        UsageError: The engine is there and is not to be replaced, or an option is unknown or not for this product.
        WorkError: The graph cannot be exported, parsed or built, or another precision was built than asked for.
        MissingExtraError: TensorRT for RTX or a library for exporting is not installed.
    """
    return _export(model, path, request, "tensorrt-rtx", module)


def _export(
    model: ExportSource, path: str | os.PathLike[str], request: ExportRequest, variant: Variant, module: TensorRT | None
) -> ArtifactInfo:
    path = Path(path).expanduser()
    names = {field.name for field in dataclasses.fields(EngineOptions)}
    options = config_from_dict(
        EngineOptions, {name: value for name, value in request.options.items() if name in names}, where=f"options of {variant}"
    )
    graph_options = {name: value for name, value in request.options.items() if name not in names}
    if graph_options and request.precision not in ("int8", "fp8"):
        raise UsageError(f"{variant} has no option {', '.join(sorted(graph_options))}; it has {', '.join(sorted(names))}")
    # What can be refused is refused before the minutes that tracing and calibration take.
    trt = module if module is not None else load_tensorrt(variant)
    check_options(options, request.precision, trt, find_gpu(trt, request.device))
    if request.opset > NEWEST_OPSET:
        raise UsageError(f"TensorRT's parsers know opset {NEWEST_OPSET} and older, got {request.opset}")
    if path.exists() and not request.overwrite:
        raise UsageError(f"{path} is there already: give another name, or --force to replace it")

    if trt.is_rtx and request.precision in ("int8", "fp8") and not (isinstance(model, OnnxSource) and model.is_quantized):
        graph_options = {"layers": "linear", "weight_scales": "tensor"} | graph_options
        if warning := int8_warning(model, request.precision):
            stderr.print(warning)
    built = build_onnx(model, dataclasses.replace(request, options=graph_options))
    info = describe(model, request, name=path.stem, details=built.details)
    try:
        with tempfile.TemporaryDirectory(prefix="hat-onnx-") as folder:
            onnx_path = Path(folder) / f"{path.name}.onnx"
            save_onnx(built.proto, info, onnx_path)
            del built  # the parser and the builder are about to need the memory
            return build_engine(
                onnx_path,
                path,
                profile=request.batch,
                variant=variant,
                options=options,
                device=request.device,
                overwrite=request.overwrite,
                module=trt,
            )
    except OSError as error:
        raise WorkError(f"{path}: its ONNX cannot be written: {error.strerror or error}") from None


_PLANS: dict[str, dict[str, tuple[int, float]]] = {
    "mobilenet_v2": {"fp16": (114, 197.2), "int8 of linear layers": (124, 201.3), "int8 of all layers": (186, 582.3)},
    "resnet18": {"fp16": (175, 210.3), "int8 of linear layers": (206, 256.2), "int8 of all layers": (260, 422.4)},
}
"""Backbone -> what a plan of TensorRT for RTX 1.7.1 has at batch 8 on SM 89: kernels, megabytes moved (RESULTS.md)."""


def int8_warning(model: ExportSource, precision: ArtifactPrecision) -> str | None:
    """Say where int8 cannot be faster than fp16 on an RTX card by its plan, with the figures; None where nothing is known."""
    config = model.info.model if isinstance(model, OnnxSource) else model.config
    plans = _PLANS.get(config.backbone.name) if precision == "int8" and config is not None else None
    if plans is None or config is None:
        return None
    figures = ", ".join(f"{kind} {kernels} kernels and {moved:.0f} MB" for kind, (kernels, moved) in plans.items())
    return (
        f"int8 gains nothing for {config.backbone.name} on TensorRT for RTX ({figures} at batch 8): fp16 is the better choice"
    )
