"""From ONNX to an engine: one path for TensorRT 10, TensorRT 11 and TensorRT for RTX.

Networks are strongly typed: precision is what the ONNX says, in every product. What was built is read back, and an engine
appears together with its side file, or not at all.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from hat.config import config_from_dict, config_to_dict
from hat.errors import CheckpointError, UsageError, WorkError
from hat.io.artifact import ArtifactInfo, BatchProfile, info_to_json
from hat.io.atomic_output import atomic_output
from hat.runtime.tensorrt.engine import EngineFacts, engine_facts, onnx_beside, read_engine_info, side_file, target_name
from hat.runtime.tensorrt.library import Flavor, Gpu, TensorRT, load_tensorrt, said

from .options import EngineOptions, check_options
from .precision import ReadBack, check_precision, inspector_types, network_types
from .source import EngineSource, keep_source, open_source
from .timing_cache import load_timing_cache, save_timing_cache

__all__ = ["build_engine", "rebuild_engine"]


def build_engine(
    onnx: bytes | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    profile: BatchProfile | None = None,
    flavor: Flavor = "tensorrt",
    options: EngineOptions | None = None,
    overwrite: bool = False,
    module: TensorRT | None = None,
) -> ArtifactInfo:
    """Build an engine from an ONNX model of `hat export`.

    Args:
        onnx: The model's bytes or its path; its own metadata says what it is and in which precision it computes.
        path: The engine to write; ``NAME.json`` beside it says what it is.
        profile: Batch sizes to build for.
        flavor: ``"tensorrt"`` builds on and for the GPU of this machine, ``"tensorrt-rtx"`` without a GPU.
        options: What else is asked for.
        overwrite: Replace an engine that is there.
        module: The TensorRT library; None imports it.

    Returns:
        The facts about the engine.

    Raises:
        UsageError: The engine is there and ``overwrite`` is False, or an option is not for this product, or there is no GPU.
        CheckpointError: The ONNX cannot be read, or was not made by this package.
        WorkError: The parser or the builder refuses the model, in their own words; another precision than asked for was built;
            the disk is full.
        MissingExtraError: The library is not installed.
    """
    path = Path(path).expanduser()
    profile = profile if profile is not None else BatchProfile()
    options = options if options is not None else EngineOptions()
    trt = module if module is not None else load_tensorrt(flavor)
    check_options(options, trt)
    gpu = trt.find_gpu(None)
    if gpu is None and not trt.is_rtx:
        raise UsageError(f"{trt.title} builds on a GPU and torch sees none; TensorRT for RTX builds without one")
    source = open_source(onnx)
    for file in (side_file(path), onnx_beside(path)):
        if file.exists() and not overwrite and not _is(source.path, file):
            raise UsageError(f"{file} is there already: give another name, or --force to replace it")
    # An ONNX of the engine before would contradict the new one, and have it refused.
    keep_onnx = (options.keep_onnx or onnx_beside(path).exists()) and not _is(source.path, onnx_beside(path))

    with atomic_output(path, overwrite=overwrite) as temporary:
        plan, found = _build(source, profile, trt, options, gpu)
        facts = EngineFacts(
            flavor=trt.flavor,
            version=trt.version,
            engine_sha256=hashlib.sha256(plan).hexdigest(),
            onnx_sha256=source.sha256,
            gpu=gpu.name if gpu is not None and not trt.is_rtx else None,
            compute_capability=gpu.compute_capability if gpu is not None and not trt.is_rtx else None,
            targets=options.compute_capability,
            oldest=_oldest(trt, options, source.info),
            hardware_compatible=options.hardware_compatible,
            version_compatible=options.version_compatible,
            refittable=options.refittable or options.strip_weights,
            weights="stripped" if options.strip_weights else "inside",
            precision_source=found.source,
            precision_types=found.types,
            options=config_to_dict(options),
        )
        info = _engine_info(source.info, facts, profile, trt)
        temporary.write_bytes(plan)
        side_file(temporary).write_text(info_to_json(info) + "\n", encoding="utf-8")
        if keep_onnx:
            keep_source(source, onnx_beside(temporary))
    return info


def rebuild_engine(path: str | os.PathLike[str], *, module: TensorRT | None = None) -> ArtifactInfo:
    """Build an engine anew for this machine, from the ONNX kept beside it and with the options that it was built with.

    Raises:
        CheckpointError: No ONNX is beside it, or its side file cannot be read.
        UsageError, WorkError, MissingExtraError: As for `build_engine`.
    """
    path = Path(path).expanduser()
    info = read_engine_info(path)
    facts = engine_facts(info, str(path))
    kept = onnx_beside(path)
    if not kept.is_file():
        raise CheckpointError(
            f"{path} cannot be rebuilt: {kept.name} is not beside it. Export it again (with keep_onnx to keep it)"
        )
    options = config_from_dict(EngineOptions, facts.options, where=f"{path}: options")
    return build_engine(kept, path, profile=info.batch, flavor=facts.flavor, options=options, overwrite=True, module=module)


def _build(
    source: EngineSource, profile: BatchProfile, trt: TensorRT, options: EngineOptions, gpu: Gpu | None
) -> tuple[bytes, ReadBack]:
    """The engine as bytes, and the types read back from it."""
    with trt.listen() as heard:
        builder = trt.make("Builder")
        network = builder.create_network(trt.network_flags())
        _parse(trt, network, source)
        by_network = network_types(network)
        check_precision(source.info.precision, by_network)
        config = _configuration(trt, builder, options)
        config.add_optimization_profile(_batch_profile(builder, network, profile, source.info))
        cache_path = Path(options.timing_cache).expanduser() if options.timing_cache else None
        cache = load_timing_cache(trt, config, cache_path) if cache_path is not None else None
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            hint = _NEEDS_GPU if gpu is None and (options.refittable or options.strip_weights) else ""
            raise WorkError(f"{trt.title} cannot build the engine: {said(heard)}{hint}")
    if cache is not None and cache_path is not None:
        save_timing_cache(config, cache_path)
    plan = bytes(memoryview(serialized))
    # RTX finishes the build on the GPU that runs it, which need not be this machine's: nothing final is there to look into.
    by_inspector = _inspect(trt, plan, profile, source.info) if not trt.is_rtx else None
    if by_inspector is not None:
        check_precision(source.info.precision, by_inspector)
    return plan, by_inspector or by_network


_NEEDS_GPU = ". Refittable and stripped engines need a machine with a GPU to be built, even by TensorRT for RTX"


def _parse(trt: TensorRT, network: Any, source: EngineSource) -> None:
    """Parse the ONNX into the network.

    Raises:
        WorkError: The parser refuses it; every one of its messages is told, with the node that each is about.
    """
    parser = trt.make("OnnxParser", network)
    parsed = parser.parse(source.content) if source.content is not None else parser.parse_from_file(str(source.path))
    if not parsed or parser.num_errors:
        told = [_parser_words(parser.get_error(index)) for index in range(parser.num_errors)]
        raise WorkError(f"{trt.title} cannot parse the {source.info.precision} ONNX: {said(told)}")


def _parser_words(error: Any) -> str:
    name, operator = error.node_name(), error.node_operator()
    where = f"{name} ({operator})" if name and operator else name or operator or f"node {error.node()}"
    return f"{where}: {' '.join(str(error.desc()).split())}"


def _configuration(trt: TensorRT, builder: Any, options: EngineOptions) -> Any:
    library = trt.library
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # without it the inspector tells names alone
    if not options.tf32:
        config.clear_flag(trt.builder_flag("TF32"))
    if options.strip_weights:
        config.set_flag(trt.builder_flag("STRIP_PLAN"))
    if options.refittable or options.strip_weights:
        config.set_flag(trt.builder_flag("REFIT"))  # not REFIT_IDENTICAL: retrained weights are other weights
    if options.version_compatible:
        config.set_flag(trt.builder_flag("VERSION_COMPATIBLE"))
    if options.hardware_compatible:
        config.hardware_compatibility_level = library.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.compute_capability:
        config.num_compute_capabilities = len(options.compute_capability)
        for index, name in enumerate(options.compute_capability):
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


def _inspect(trt: TensorRT, plan: bytes, profile: BatchProfile, info: ArtifactInfo) -> ReadBack | None:
    """What the engine inspector tells, on a machine that can open the engine."""
    runtime = trt.runtime(host_code=True)  # what was built here a moment ago
    engine = trt.deserialize(runtime, plan, "the engine just built")
    inspector = engine.create_engine_inspector()
    context = None if engine.refittable else trt.context(engine, "the engine just built")
    if context is not None:
        # Formats of a network with a dynamic batch are told for a context whose batch is known.
        context.set_input_shape("images", (profile.opt, 3, *info.preprocessing.size))
        inspector.execution_context = context
    return inspector_types(inspector.get_engine_information(trt.library.LayerInformationFormat.JSON))


def _engine_info(source: ArtifactInfo, facts: EngineFacts, profile: BatchProfile, trt: TensorRT) -> ArtifactInfo:
    return replace(
        source,
        batch=profile,
        versions=source.versions | {trt.flavor: trt.version},
        device=target_name(facts),
        details=source.details | {"engine": config_to_dict(facts)},
    )


def _oldest(trt: TensorRT, options: EngineOptions, info: ArtifactInfo) -> tuple[int, int] | None:
    """From which GPUs on an engine runs that is bound neither to this one nor to named ones."""
    if options.hardware_compatible or (trt.is_rtx and not options.compute_capability):
        return (8, 9) if info.precision == "fp8" else (8, 0)  # Ampere; Ada was the first with fp8
    return None


def _is(source: Path | None, other: Path) -> bool:
    return source is not None and other.exists() and source.resolve() == other.resolve()
