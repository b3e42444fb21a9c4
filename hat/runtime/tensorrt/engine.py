"""What an engine file is and where it runs: the side file beside it, and the checks before it is loaded.

An engine cannot hold metadata. `hat.engine` therefore has `hat.engine.json` beside it, which says what it embeds, and by which
library, for which GPU and from which ONNX it was built; and, where it was asked for, the ONNX itself as `hat.engine.onnx`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hat.config import config_dataclass, config_from_dict
from hat.errors import CheckpointError, ConfigError
from hat.io.artifact import ArtifactInfo, info_from_json
from hat.runtime.tensorrt.library import Flavor, Gpu, TensorRT

__all__ = [
    "EngineFacts",
    "engine_facts",
    "engine_mismatch",
    "file_sha256",
    "onnx_beside",
    "onnx_sha256",
    "read_engine_info",
    "side_file",
    "target_name",
]


@config_dataclass
class EngineFacts:
    """What is particular to an engine; kept under ``details["engine"]`` of its `ArtifactInfo`."""

    flavor: Flavor
    """The product that built it and that runs it."""

    version: str
    """Version of that product."""

    engine_sha256: str
    """Hash of the engine file."""

    onnx_sha256: str
    """Hash of the ONNX that it was built from, or last refitted from."""

    gpu: str | None = None
    """Name of the GPU that it was built on; None where it was built without one."""

    compute_capability: tuple[int, int] | None = None
    """Of that GPU."""

    targets: tuple[str, ...] = ()
    """Compute capabilities that it was built for (``"sm86"``), TensorRT for RTX alone; none means all from ``oldest`` on."""

    oldest: tuple[int, int] | None = None
    """The oldest compute capability that it runs on, where none is named and it is not bound to one GPU."""

    hardware_compatible: bool = False
    """It was built on one GPU for every GPU from Ampere on."""

    version_compatible: bool = False
    """It runs with newer libraries of the same major version; it carries a lean runtime, which is native code."""

    refittable: bool = False
    """Its weights can be replaced."""

    weights: Literal["inside", "stripped"] = "inside"
    """Stripped ones have to be refitted before it runs."""

    precision_source: Literal["engine inspector", "parsed network"]
    """Where ``precision_types`` were read."""

    precision_types: dict[str, int]
    """How many tensors (inspector) or convolutions and matrix products (network) compute in which type."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The options that it was built with."""


def side_file(path: Path) -> Path:
    """Where the facts about an engine stand."""
    return path.with_name(f"{path.name}.json")


def onnx_beside(path: Path) -> Path:
    """Where the ONNX that an engine was built from is kept, where it is."""
    return path.with_name(f"{path.name}.onnx")


def read_engine_info(path: Path) -> ArtifactInfo:
    """Read the facts about an engine.

    Raises:
        CheckpointError: The engine or its side file is missing or cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    beside = side_file(path)
    try:
        text = beside.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: {beside.name} is missing beside it, without which nobody knows what it is: copy both, or export again"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{beside} cannot be read: {error}") from None
    return info_from_json(text, str(beside))


def engine_facts(info: ArtifactInfo, source: str) -> EngineFacts:
    """The facts of an engine that only an engine has.

    Raises:
        CheckpointError: They are not there, or not as this version writes them.
    """
    content = info.details.get("engine")
    if not isinstance(content, dict):
        raise CheckpointError(f"{source}: its side file is not an engine's: details.engine is missing")
    try:
        return config_from_dict(EngineFacts, content, where=f"{source}: details.engine")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def engine_mismatch(path: Path, facts: EngineFacts, trt: TensorRT, gpu: Gpu | None) -> str | None:
    """Why an engine must not be loaded here, or None where it may.

    Args:
        path: The engine.
        facts: What its side file says.
        trt: The library that is to run it.
        gpu: The GPU that it is to run on.
    """
    if (digest := file_sha256(path)) != facts.engine_sha256:
        return f"its SHA-256 is {digest[:12]}..., its side file is of an engine with {facts.engine_sha256[:12]}..."
    kept = onnx_beside(path)
    if kept.is_file() and (digest := onnx_sha256(kept)) != facts.onnx_sha256:
        return f"{kept.name} beside it has SHA-256 {digest[:12]}..., it was built from {facts.onnx_sha256[:12]}..."
    if facts.flavor != trt.flavor:
        return f"it was built by {facts.flavor}, and {trt.flavor} is to run it"
    return _version_mismatch(facts, trt) or _gpu_mismatch(facts, gpu)


def _version_mismatch(facts: EngineFacts, trt: TensorRT) -> str | None:
    if facts.version == trt.version:
        return None
    built, here = _numbers(facts.version), _numbers(trt.version)
    if facts.version_compatible and built[0] == here[0] and built <= here:
        return None
    return f"it was built by version {facts.version}, and {trt.title} is installed"


def _gpu_mismatch(facts: EngineFacts, gpu: Gpu | None) -> str | None:
    if gpu is None:
        return None  # whoever opens a device says by himself that there is none
    major, minor = gpu.compute_capability
    if facts.targets:
        fits = f"sm{major}{minor}" in facts.targets
        return None if fits else f"it was built for {', '.join(facts.targets)}, and this is {gpu}"
    if facts.oldest is not None:
        fits = gpu.compute_capability >= facts.oldest
        return None if fits else f"it was built for {target_name(facts)}, and this is {gpu}"
    if (facts.gpu, facts.compute_capability) == (gpu.name, gpu.compute_capability):
        return None
    return f"it was built on {target_name(facts)}, and this is {gpu}"


def target_name(facts: EngineFacts) -> str:
    """What an engine runs on, in words."""
    if facts.targets:
        return ", ".join(facts.targets)
    if facts.oldest is not None:
        return "compute capability {}.{} and newer".format(*facts.oldest)
    return "{} (compute capability {}.{})".format(facts.gpu, *(facts.compute_capability or (0, 0)))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in pieces.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def onnx_sha256(path: Path) -> str:
    """SHA-256 of an ONNX file, and of ``NAME.data`` beside it where its weights stand there."""
    data = path.with_name(f"{path.name}.data")
    if not data.is_file():
        return file_sha256(path)
    return hashlib.sha256(f"{file_sha256(path)} {file_sha256(data)}".encode()).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
