"""From ONNX to an engine: one path for TensorRT 10, TensorRT 11 and TensorRT for RTX.

Networks are strongly typed: precision is what the ONNX says, in every product. An engine appears together with its sidecar, or
not at all.
"""

import hashlib
import os
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hat.config import config_to_dict
from hat.errors import CheckpointError, UsageError, WorkError
from hat.io.artifact import METADATA_KEY, ArtifactInfo, BatchProfile, info_from_json, info_to_json
from hat.io.atomic_output import atomic_output
from hat.io.onnx_file import all_tensors, onnx_opset, read_onnx
from hat.runtime.tensorrt.engine import EngineMetadata, onnx_sha256, runtime_cache_path, sidecar_path, target_name
from hat.runtime.tensorrt.library import Gpu, TensorRT, Variant, joined, load_tensorrt

from .options import EngineOptions, check_options, rtx_targets
from .plan import read_plan
from .precision import check_precision, inspector_types, network_types, product_output_type

NEWEST_OPSET = 22
"""The newest ONNX operator set that every TensorRT from 10.3 on parses."""

_PLAN_TYPES = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16"}


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
    if isinstance(onnx, bytes):
        with tempfile.TemporaryDirectory(prefix="hat-onnx-") as folder:
            file = Path(folder) / "model.onnx"
            with file.open("wb") as written:
                written.write(onnx)
            return build_engine(
                file,
                path,
                profile=profile,
                variant=variant,
                options=options,
                device=device,
                overwrite=overwrite,
                module=module,
            )
    path = Path(path).expanduser()
    profile = profile if profile is not None else BatchProfile()
    options = options if options is not None else EngineOptions()
    trt = module if module is not None else load_tensorrt(variant)
    gpu = find_gpu(trt, device)
    source = _open_source(Path(onnx).expanduser())
    check_options(options, source.info.precision, trt, gpu)
    if source.opset > NEWEST_OPSET:
        raise UsageError(
            f"the ONNX model has opset {source.opset}, parsers know {NEWEST_OPSET}: export it with --opset {NEWEST_OPSET}"
        )
    for file in (path, sidecar_path(path)):
        if file.exists() and not overwrite:
            raise UsageError(f"{file} is there already: give another name, or --force to replace it")

    targets = rtx_targets(options, source.info.precision) if trt.is_rtx else ()
    with atomic_output(path, overwrite=overwrite) as temporary, _on(gpu):
        built = _build(source, profile, trt, options, targets)
        metadata = EngineMetadata(
            variant=trt.variant,
            version=trt.version,
            engine_sha256=hashlib.sha256(built.engine).hexdigest(),
            onnx_sha256=source.sha256,
            gpu=gpu.name if gpu is not None else None,
            compute_capability=gpu.compute_capability if gpu is not None else None,
            num_sms=gpu.num_sms if gpu is not None else None,
            targets=targets,
            hardware_compatibility=options.hardware_compatibility,
            version_compatible=options.version_compatible,
            precision_types=built.types,
            inspector_types=built.inspector_types,
            plan=built.plan,
            warnings=tuple(dict.fromkeys(built.warnings)),
            options=config_to_dict(options),
        )
        info = replace(
            source.info,
            batch=profile,
            versions=source.info.versions | {trt.variant: trt.version},
            device=target_name(metadata),
            details=source.info.details | {"engine": config_to_dict(metadata)},
        )
        temporary.write_bytes(built.engine)
        sidecar_path(temporary).write_text(info_to_json(info) + "\n", encoding="utf-8")
    runtime_cache_path(path).unlink(missing_ok=True)  # that of the engine before
    return info


def find_gpu(trt: TensorRT, device: str | None) -> Gpu | None:
    """Return the GPU that an engine is built on; None for TensorRT for RTX, which needs none.

    Raises:
        UsageError: There is no such CUDA device, or a device was named for TensorRT for RTX.
    """
    if trt.is_rtx:
        if device not in (None, "auto"):
            raise UsageError(f"{trt.title} builds without a GPU: name what it runs on, --option compute_capability=[sm89]")
        return None
    gpu = trt.find_gpu(trt.device(device).index)
    if gpu is None:
        raise UsageError(f"{trt.title} builds on a GPU and torch sees none; TensorRT for RTX builds without one")
    return gpu


@dataclass(frozen=True)
class _Source:
    """An ONNX file that was looked at before a native parser does."""

    path: Path
    info: ArtifactInfo
    sha256: str  # weights included
    opset: int


def _open_source(path: Path) -> _Source:
    proto = read_onnx(path)
    external = {entry.value for tensor in all_tensors(proto.graph) for entry in tensor.external_data if entry.key == "location"}
    if external - {f"{path.name}.data"}:
        raise CheckpointError(f"{path}: expected its weights in {path.name}.data, it names {', '.join(sorted(external))}")
    metadata = next((entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY), None)
    if metadata is None:
        raise CheckpointError(f"{path} was not made by hat export: its metadata has no {METADATA_KEY!r}")
    return _Source(path, info_from_json(metadata, str(path)), onnx_sha256(path), onnx_opset(proto))


@dataclass
class _Built:
    engine: bytes
    types: dict[str, int]
    inspector_types: dict[str, int] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def _on(gpu: Gpu | None) -> Any:
    """Make a GPU the current device: the builder takes no other."""
    return torch.cuda.device(gpu.index) if gpu is not None and torch.cuda.is_available() else nullcontext()


def _build(source: _Source, profile: BatchProfile, trt: TensorRT, options: EngineOptions, targets: tuple[str, ...]) -> _Built:
    with trt.listen() as messages:
        builder = trt.make("Builder")
        network = builder.create_network(trt.network_flags())
        _parse(trt, network, source)
        types = network_types(network)
        check_precision(source.info.precision, types)
        config = _configuration(trt, builder, options, targets)
        config.add_optimization_profile(_batch_profile(builder, network, profile, source.info))
        cache_path = Path(options.timing_cache).expanduser() if options.timing_cache else None
        cache = _load_timing_cache(trt, config, cache_path) if cache_path is not None else None
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise WorkError(f"{trt.title} cannot build the engine: {messages}")
    if cache is not None and cache_path is not None:
        with atomic_output(cache_path, overwrite=True) as temporary:
            temporary.write_bytes(bytes(memoryview(config.get_timing_cache().serialize())))
    built = _Built(bytes(memoryview(serialized)), types, warnings=messages.warnings)
    if messages.plans:
        asked = _PLAN_TYPES[product_output_type(network)]
        built.plan = read_plan(messages.plans[0]).summary(batch=profile.opt, dtype=asked)
    if not trt.is_rtx:  # RTX finishes the build on the GPU that runs it: nothing final is there to look into
        built.inspector_types = _inspect(trt, built.engine, options, profile, source.info)
    return built


def _parse(trt: TensorRT, network: Any, source: _Source) -> None:
    """Parse the ONNX into the network.

    Raises:
        WorkError: The parser refuses it; every one of its messages is told, with the node that each is about.
    """
    parser = trt.make("OnnxParser", network)
    if not parser.parse_from_file(str(source.path)) or parser.num_errors:
        messages = [_parser_message(parser.get_error(index)) for index in range(parser.num_errors)]
        raise WorkError(f"{trt.title} cannot parse the {source.info.precision} ONNX: {joined(messages)}")


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


def _load_timing_cache(trt: TensorRT, config: Any, path: Path) -> Any:
    """Attach a file's timing cache to a builder's configuration; an empty one where there is no file yet.

    Returns:
        The cache, which has to live until the engine is built.

    Raises:
        UsageError: The file cannot be read, or is of another GPU or library.
    """
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


def _inspect(trt: TensorRT, engine: bytes, options: EngineOptions, profile: BatchProfile, info: ArtifactInfo) -> dict[str, int]:
    """Return what the engine inspector tells; nothing where it cannot look into the engine."""
    with trt.listen():
        loaded = trt.runtime(host_code=options.version_compatible).deserialize_cuda_engine(engine)
        context = loaded.create_execution_context() if loaded is not None else None
        if context is None:
            return {}
        inspector = loaded.create_engine_inspector()
        # Formats of a network with a dynamic batch are told for a context whose batch is known.
        context.set_input_shape("images", (profile.opt, 3, *info.preprocessing.size))
        inspector.execution_context = context
        return inspector_types(inspector.get_engine_information(trt.library.LayerInformationFormat.JSON))
