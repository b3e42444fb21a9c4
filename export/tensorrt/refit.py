"""A retrained model in the engine of the one before: new weights, no new build."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from hat.config import config_to_dict
from hat.errors import CheckpointError, UsageError, WorkError
from hat.io.artifact import ArtifactInfo, info_to_json
from hat.io.atomic_output import atomic_output
from hat.runtime.tensorrt.engine import engine_facts, engine_mismatch, onnx_beside, read_engine_info, side_file
from hat.runtime.tensorrt.library import TensorRT, load_tensorrt, said

from .source import EngineSource, keep_source, open_source

__all__ = ["refit_engine"]


def refit_engine(
    engine: str | os.PathLike[str],
    onnx: bytes | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    module: TensorRT | None = None,
) -> ArtifactInfo:
    """Put the weights of an ONNX model into a refittable engine of the same architecture.

    It needs the GPU that the engine was built for. Some releases of TensorRT are known to drop a bias when an engine is
    refittable (11.3 says so of itself): run `hat verify` on the result.

    Args:
        engine: An engine that was built with ``refittable`` or ``strip_weights``.
        onnx: The retrained model, exported in the same precision.
        out: The engine to write, with its side file beside it; it may be ``engine`` itself, with ``overwrite``.
        overwrite: Replace an engine that is there.
        module: The TensorRT library; None imports it.

    Returns:
        The facts about the new engine.

    Raises:
        CheckpointError: The engine or the ONNX cannot be read, or the engine does not belong on this machine.
        UsageError: The engine cannot be refitted, or the ONNX is of another architecture, precision or input, or there is no
            GPU.
        WorkError: The refitter refuses the weights, in its own words, or misses some.
        MissingExtraError: The library is not installed.
    """
    engine, out = Path(engine).expanduser(), Path(out).expanduser()
    info = read_engine_info(engine)
    facts = engine_facts(info, str(engine))
    if not facts.refittable:
        raise UsageError(f"{engine} cannot be refitted: build it with refittable or strip_weights")
    trt = module if module is not None else load_tensorrt(facts.flavor)
    gpu = trt.find_gpu(None)
    if gpu is None:
        raise UsageError(f"refitting runs on the GPU that {engine} was built for, and torch sees none")
    if reason := engine_mismatch(engine, facts, trt, gpu):
        raise CheckpointError(f"{engine} does not belong here: {reason}")
    source = open_source(onnx)
    _check_same_network(info, source.info)
    for file in (side_file(out), onnx_beside(out)):
        if file.exists() and not overwrite:
            raise UsageError(f"{file} is there already: give another name, or --force to replace it")

    with atomic_output(out, overwrite=overwrite) as temporary:
        plan = _refit(trt, engine, facts.version_compatible, source)
        new_facts = replace(
            facts,
            engine_sha256=hashlib.sha256(plan).hexdigest(),
            onnx_sha256=source.sha256,
            weights="inside",
            refittable=hasattr(trt.library.SerializationFlag, "INCLUDE_REFIT"),
        )
        new_info = replace(
            source.info,
            batch=info.batch,
            versions=source.info.versions | {trt.flavor: trt.version},
            device=info.device,
            details=source.info.details | {"engine": config_to_dict(new_facts)},
        )
        temporary.write_bytes(plan)
        side_file(temporary).write_text(info_to_json(new_info) + "\n", encoding="utf-8")
        if onnx_beside(out).exists():
            keep_source(source, onnx_beside(temporary))  # that of the engine before would contradict the new one
    return new_info


def _check_same_network(engine: ArtifactInfo, onnx: ArtifactInfo) -> None:
    for name in ("model", "preprocessing", "precision", "input_type", "embed_dim"):
        if getattr(engine, name) != getattr(onnx, name):
            raise UsageError(f"the engine and the ONNX differ in {name}: an engine takes the weights of its own network alone")


def _refit(trt: TensorRT, engine_path: Path, host_code: bool, source: EngineSource) -> bytes:
    runtime = trt.runtime(host_code=host_code)
    engine = trt.deserialize(runtime, engine_path.read_bytes(), str(engine_path))
    with trt.listen() as heard:
        refitter = trt.make("Refitter", engine)
        parser = trt.make("OnnxParserRefitter", refitter)
        if source.content is not None:
            taken = parser.refit_from_bytes(source.content)
        else:
            taken = parser.refit_from_file(str(source.path))
        if not taken or parser.num_errors:
            told = [" ".join(str(parser.get_error(index).desc()).split()) for index in range(parser.num_errors)]
            raise WorkError(f"{trt.title} cannot refit {engine_path}: {said([*told, *heard])}")
        if missing := list(refitter.get_missing_weights()):
            raise WorkError(f"{engine_path} needs weights that the ONNX does not have: {', '.join(missing)}")
        if not refitter.refit_cuda_engine():
            raise WorkError(f"{trt.title} cannot refit {engine_path}: {said(heard)}")
        serialized = engine.serialize_with_config(_serialization(trt, engine))
        if serialized is None:
            raise WorkError(f"{trt.title} cannot write the refitted engine: {said(heard)}")
    return bytes(memoryview(serialized))


def _serialization(trt: TensorRT, engine: Any) -> Any:
    """Write the weights too, and keep the engine refittable where the version knows how to say so."""
    config = engine.create_serialization_config()
    flags = trt.library.SerializationFlag
    config.clear_flag(flags.EXCLUDE_WEIGHTS)
    if hasattr(flags, "INCLUDE_REFIT"):
        config.set_flag(flags.INCLUDE_REFIT)
    return config
