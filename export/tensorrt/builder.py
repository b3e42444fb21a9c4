"""From a trained model or an ONNX file to an engine: one path for TensorRT 10, TensorRT 11 and TensorRT for RTX.

Networks are strongly typed: precision is what the ONNX says, in every product. An engine appears together with its sidecar, or
not at all.
"""

import dataclasses
import hashlib
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from hat.config import config_to_dict
from hat.console import stderr
from hat.errors import CheckpointError, UsageError, WorkError
from hat.io.artifact import INPUT_NAME, ArtifactInfo, ArtifactPrecision, BatchProfile, info_to_json
from hat.io.atomic_output import atomic_output, check_output
from hat.io.onnx_file import all_tensors, onnx_opset, read_own_onnx
from hat.runtime.tensorrt.engine import EngineMetadata, onnx_sha256, runtime_cache_path, sidecar_path, target_name
from hat.runtime.tensorrt.library import Gpu, TensorRT, Variant, joined, load_tensorrt

from ..onnx_source import ExportSource, OnnxSource, chosen_opset
from ..request import ExportRequest
from ..to_onnx import build_onnx, describe, save_onnx
from .inspection import check_precision, inspector_types, network_types, plan_figures, product_output_type, read_plan
from .options import EngineOptions, check_options, rtx_targets

NEWEST_OPSET = 22
"""The newest ONNX operator set that every TensorRT from 10.3 on parses."""

_PLANS: dict[str, dict[str, tuple[int, float]]] = {
    "mobilenet_v2": {"fp16": (117, 222.6), "int8": (126, 222.7)},
    "mobilenet_v3_small": {"fp16": (144, 97.5), "int8": (153, 97.7)},
    "mobilenet_v3_large": {"fp16": (151, 204.8), "int8": (160, 204.9)},
    "timm/mobilenetv4_conv_medium": {"fp16": (141, 212.2), "int8": (150, 213.1)},
    "resnet18": {"fp16": (160, 356.9), "int8": (201, 398.2)},
}
"""Backbone -> what a plan of TensorRT for RTX 1.7.1 has at batch 8 on SM 89: kernels, megabytes moved (RESULTS.md)."""


def export_tensorrt(model: ExportSource, path: str | os.PathLike[str], request: ExportRequest) -> ArtifactInfo:
    """Build an engine of TensorRT 10 or 11 for a GPU of this machine, of a trained model or of an ONNX file as it is.

    ``NAME.json`` beside the engine holds the metadata that is returned. The request's ``options`` are those of `EngineOptions`
    and, for int8 and fp8, those of the quantizer. What is raised is as for `build_engine`.
    """
    return _export(model, Path(path).expanduser(), request, "tensorrt")


def export_tensorrt_rtx(model: ExportSource, path: str | os.PathLike[str], request: ExportRequest) -> ArtifactInfo:
    """Build an engine of TensorRT for RTX, ahead of time and without a GPU; everything else is as for `export_tensorrt`.

    It runs on the GPUs of the option ``compute_capability``; the machine that runs it finishes the build when it loads it.
    """
    return _export(model, Path(path).expanduser(), request, "tensorrt-rtx")


def _export(model: ExportSource, path: Path, request: ExportRequest, variant: Variant) -> ArtifactInfo:
    options, graph_options = request.take_options(EngineOptions, f"options of {variant}")
    if graph_options and request.precision not in ("int8", "fp8"):
        known = ", ".join(sorted(config_to_dict(options)))
        raise UsageError(f"{variant} has no option {', '.join(sorted(graph_options))}; it has {known}")
    # What can be refused is refused before the minutes that tracing and calibration take.
    trt = load_tensorrt(variant)
    gpu = _find_gpu(trt, request.device)
    check_options(options, request.precision, trt, gpu)
    if (opset := chosen_opset(model, request)) > NEWEST_OPSET:
        raise UsageError(f"TensorRT's parsers know opset {NEWEST_OPSET} and older, got {opset}")
    for file in (path, sidecar_path(path)):
        check_output(file, overwrite=request.overwrite)
    _check_timing_cache(options)
    if isinstance(model, OnnxSource):
        model.check_any_batch(f"an engine of {trt.title}")

    if trt.is_rtx and request.precision in ("int8", "fp8") and not (isinstance(model, OnnxSource) and model.is_quantized):
        graph_options = {"layers": "linear", "weight_scales": "tensor"} | graph_options
        if warning := int8_warning(model, request.precision):
            stderr.print(warning)
    built = build_onnx(model, dataclasses.replace(request, options=graph_options))
    info = describe(model, request, built.details, name=path.stem)
    try:
        with tempfile.TemporaryDirectory(prefix="hat-onnx-") as folder:
            onnx_path = Path(folder) / f"{path.name}.onnx"
            save_onnx(built.proto, info, onnx_path)
            del built  # the parser and the builder are about to need the memory
            return _write_engine(onnx_path, path, request.batch, trt, gpu, options, request.overwrite)
    except OSError as error:
        raise WorkError(f"{path}: its ONNX cannot be written: {error.strerror or error}") from None


def int8_warning(model: ExportSource, precision: ArtifactPrecision) -> str | None:
    """Say where int8 cannot be faster than fp16 on an RTX card by its plan, with the figures; None where nothing is known."""
    config = model.info.model if isinstance(model, OnnxSource) else model.config
    backbone = config.backbone.name if config is not None else ""
    if precision != "int8" or backbone not in _PLANS:
        return None
    plans = _PLANS[backbone].items()
    figures = ", ".join(f"{kind} {kernels} kernels and {moved:.0f} MB" for kind, (kernels, moved) in plans)
    return f"int8 gains nothing for {backbone} on TensorRT for RTX ({figures} at batch 8): fp16 is the better choice"


def build_engine(
    onnx: bytes | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    profile: BatchProfile | None = None,
    variant: Variant = "tensorrt",
    options: EngineOptions | None = None,
    device: str | None = None,
    overwrite: bool = False,
    module: TensorRT | None = None,
) -> ArtifactInfo:
    """Build an engine from an ONNX model of `hat export`.

    Args:
        onnx: The model's bytes or its path; its own metadata says what it is and in which precision it computes.
        path: The engine to write; ``NAME.json`` beside it says what it is.
        profile: Batch sizes to build for.
        variant: ``"tensorrt"`` builds on and for a GPU of this machine, ``"tensorrt-rtx"`` without a GPU.
        options: What else is asked for.
        device: The GPU to build on, ``"cuda:1"``; None takes the current one. TensorRT for RTX needs none.
        overwrite: Replace an engine that is there.
        module: The TensorRT library; None imports it.

    Returns:
        The metadata of the engine.

    Raises:
        UsageError: The engine is there and ``overwrite`` is False, or an option is not for this product, or there is no GPU, or
            the GPU has no arithmetic in this precision.
        CheckpointError: The ONNX cannot be read, or was not made by this package.
        WorkError: The parser or the builder refuses the model, in their own words; it computes in another precision than its
            metadata says; the disk is full.
        MissingExtraError: The library is not installed.
    """
    trt = module or load_tensorrt(variant)
    what = profile or BatchProfile(), trt, _find_gpu(trt, device), options or EngineOptions(), overwrite
    if not isinstance(onnx, bytes):
        return _write_engine(Path(onnx).expanduser(), Path(path).expanduser(), *what)
    with tempfile.TemporaryDirectory(prefix="hat-onnx-") as folder:
        (Path(folder) / "model.onnx").write_bytes(onnx)
        return _write_engine(Path(folder) / "model.onnx", Path(path).expanduser(), *what)


def _find_gpu(trt: TensorRT, device: str | None) -> Gpu | None:
    """Return the GPU that an engine is built on; None for TensorRT for RTX, which needs none."""
    if trt.is_rtx:
        if device not in (None, "auto"):
            raise UsageError(f"{trt.title} builds without a GPU: name what it runs on, --option compute_capability=[sm89]")
        return None
    gpu = trt.find_gpu(trt.device(device).index)
    if gpu is None:
        raise UsageError(f"{trt.title} builds on a GPU and torch sees none; TensorRT for RTX builds without one")
    return gpu


def _write_engine(
    onnx: Path, path: Path, profile: BatchProfile, trt: TensorRT, gpu: Gpu | None, options: EngineOptions, overwrite: bool
) -> ArtifactInfo:
    source = _read_source(onnx)
    check_options(options, source.precision, trt, gpu)
    check_output(sidecar_path(path), overwrite=overwrite)
    _check_timing_cache(options)
    targets = rtx_targets(options, source.precision) if trt.is_rtx else ()
    with atomic_output(path, overwrite=overwrite) as temporary, _current(gpu):
        engine, observed = _build(onnx, source, profile, trt, options, targets)
        metadata = EngineMetadata(
            variant=trt.variant,
            version=trt.version,
            engine_sha256=hashlib.sha256(engine).hexdigest(),
            onnx_sha256=onnx_sha256(onnx),
            gpu=gpu.name if gpu is not None else None,
            compute_capability=gpu.compute_capability if gpu is not None else None,
            num_sms=gpu.num_sms if gpu is not None else None,
            targets=targets,
            hardware_compatibility=options.hardware_compatibility,
            version_compatible=options.version_compatible,
            options=config_to_dict(options),
            **observed,
        )
        info = dataclasses.replace(
            source,
            batch=profile,
            versions=source.versions | {trt.variant: trt.version},
            device=target_name(metadata),
            details=source.details | {"engine": config_to_dict(metadata)},
        )
        temporary.write_bytes(engine)
        sidecar_path(temporary).write_text(info_to_json(info) + "\n", encoding="utf-8")
    runtime_cache_path(path).unlink(missing_ok=True)  # that of the engine before
    return info


def _read_source(path: Path) -> ArtifactInfo:
    """Return the metadata of an ONNX file, which is looked at before a native parser does."""
    proto, info = read_own_onnx(path)
    external = {entry.value for tensor in all_tensors(proto.graph) for entry in tensor.external_data if entry.key == "location"}
    if external - {f"{path.name}.data"}:  # no other file is part of the hash
        raise CheckpointError(f"{path}: expected its weights in {path.name}.data, it names {', '.join(sorted(external))}")
    if (opset := onnx_opset(proto)) > NEWEST_OPSET:
        raise UsageError(
            f"the ONNX model has opset {opset}, parsers know {NEWEST_OPSET}: export it with --opset {NEWEST_OPSET}"
        )
    return info


def _current(gpu: Gpu | None) -> Any:
    """Make a GPU the current device: the builder takes no other."""
    return torch.cuda.device(gpu.index) if gpu is not None and torch.cuda.is_available() else nullcontext()


def _build(
    onnx: Path, source: ArtifactInfo, profile: BatchProfile, trt: TensorRT, options: EngineOptions, targets: tuple[str, ...]
) -> tuple[bytes, dict[str, Any]]:
    """Return the engine, and the fields of `EngineMetadata` that tell what was seen of it."""
    with trt.listen() as messages:
        builder = trt.make("Builder")
        network = builder.create_network(trt.network_flags())
        _parse(trt, network, onnx, source.precision)
        types = network_types(network)
        check_precision(source.precision, types)
        config = _configuration(trt, builder, options, targets)
        config.add_optimization_profile(_batch_profile(builder, network, profile, source))
        cache_path = Path(options.timing_cache).expanduser() if options.timing_cache else None
        cache = _load_timing_cache(trt, config, cache_path) if cache_path is not None else None
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise WorkError(f"{trt.title} cannot build the engine: {messages}")
    if cache is not None and cache_path is not None:
        with atomic_output(cache_path, overwrite=True) as temporary:
            temporary.write_bytes(bytes(memoryview(config.get_timing_cache().serialize())))
    engine = bytes(memoryview(serialized))
    observed: dict[str, Any] = {"precision_types": types, "warnings": tuple(dict.fromkeys(messages.warnings))}
    if messages.plans:
        observed["plan"] = plan_figures(read_plan(messages.plans[0]), product_output_type(network), profile.opt)
    if not trt.is_rtx:  # RTX finishes the build on the GPU that runs it: nothing final is there to look into
        observed["inspector_types"] = _inspect(trt, engine, options, (profile.opt, 3, *source.preprocessing.size))
    return engine, observed


def _parse(trt: TensorRT, network: Any, path: Path, precision: ArtifactPrecision) -> None:
    """Parse an ONNX file into a network; an error of the parser names the node that each message is about."""
    parser = trt.make("OnnxParser", network)
    if not parser.parse_from_file(str(path)) or parser.num_errors:
        messages = [_parser_message(parser.get_error(index)) for index in range(parser.num_errors)]
        raise WorkError(f"{trt.title} cannot parse the {precision} ONNX: {joined(messages)}")


def _parser_message(error: Any) -> str:
    name, operator = error.node_name(), error.node_operator()
    where = f"{name} ({operator})" if name and operator else name or operator or f"node {error.node()}"
    return f"{where}: {' '.join(str(error.desc()).split())}"


def _configuration(trt: TensorRT, builder: Any, options: EngineOptions, targets: tuple[str, ...]) -> Any:
    library = trt.library
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # without it plan and inspector tell names alone
    if not options.tf32:
        config.clear_flag(trt.builder_flag("TF32"))
    if options.version_compatible:
        config.set_flag(trt.builder_flag("VERSION_COMPATIBLE"))
    if options.hardware_compatibility != "none":
        level = getattr(library.HardwareCompatibilityLevel, options.hardware_compatibility.upper(), None)
        if level is None:
            raise UsageError(f"{trt.title} has no {options.hardware_compatibility}: ask for ampere_plus, or a newer version")
        config.hardware_compatibility_level = level
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            target = getattr(library.ComputeCapability, name.upper(), None)
            if target is None or not config.set_compute_capability(target, index):
                raise UsageError(f"{trt.title} cannot build for {name}")
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    return config


def _batch_profile(builder: Any, network: Any, profile: BatchProfile, info: ArtifactInfo) -> Any:
    if (network.num_inputs, network.num_outputs) != (1, 1):
        raise WorkError(f"expected one input and one output, the network has {network.num_inputs} and {network.num_outputs}")
    tensor = network.get_input(0)
    image = (3, *info.preprocessing.size)
    if tuple(tensor.shape) != (-1, *image):
        raise WorkError(f"expected the input (-1, {', '.join(map(str, image))}), the network has {tuple(tensor.shape)}")
    shapes = builder.create_optimization_profile()
    shapes.set_shape(tensor.name, (profile.min, *image), (profile.opt, *image), (profile.max, *image))
    return shapes


def _check_timing_cache(options: EngineOptions) -> None:
    """Refuse, before the minutes of a build, a timing cache that could not be written after it."""
    if options.timing_cache is not None:
        check_output(Path(options.timing_cache).expanduser(), overwrite=True)


def _load_timing_cache(trt: TensorRT, config: Any, path: Path) -> Any:
    """Attach a file's timing cache, an empty one where there is no file yet; what is returned has to live while it is used."""
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UsageError(f"the timing cache {path} cannot be read: {error.strerror or error}") from None
    with trt.listen() as messages:
        cache = config.create_timing_cache(content)
        attached = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
    if not attached:
        raise UsageError(f"the timing cache {path} is not of this GPU and {trt.title} ({messages}): delete it, or name another")
    return cache


def _inspect(trt: TensorRT, engine: bytes, options: EngineOptions, shape: tuple[int, ...]) -> dict[str, int]:
    """Return what the engine inspector tells; nothing where it cannot look into the engine."""
    with trt.listen():
        loaded = trt.runtime(host_code=options.version_compatible).deserialize_cuda_engine(engine)
        context = loaded.create_execution_context() if loaded is not None else None
        if context is None:
            return {}
        inspector = loaded.create_engine_inspector()
        # Formats of a network with a dynamic batch are reported for a context whose batch is known.
        context.set_input_shape(INPUT_NAME, shape)
        inspector.execution_context = context
        return inspector_types(inspector.get_engine_information(trt.library.LayerInformationFormat.JSON))
