"""Metadata of an engine: its sidecar, and the checks before it is loaded.

An engine cannot hold metadata. `hat.engine` therefore has `hat.engine.json` beside it, which says what it embeds, and by which
library, for which GPU and from which ONNX it was built.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hat.config import config_dataclass, config_from_dict
from hat.errors import CheckpointError, ConfigError
from hat.io.artifact import ArtifactInfo, file_sha256, info_from_json, placeholder_reason, read_model_file
from hat.runtime.tensorrt.library import Gpu, TensorRT, Variant

HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]


@config_dataclass
class EngineMetadata:
    """Metadata that only an engine has; kept under ``details["engine"]`` of its `ArtifactInfo`."""

    variant: Variant
    """The product that built it and that runs it."""

    version: str
    """Version of that product."""

    engine_sha256: str
    """Hash of the engine file."""

    onnx_sha256: str
    """Hash of the ONNX that it was built from."""

    gpu: str | None = None
    """Name of the GPU that it was built on; None where it was built without one."""

    compute_capability: tuple[int, int] | None = None
    """Of that GPU."""

    num_sms: int | None = None
    """Streaming multiprocessors of that GPU; chips that share its name differ in them."""

    targets: tuple[str, ...] = ()
    """Compute capabilities that it was built for (``"sm86"``), TensorRT for RTX alone."""

    hardware_compatibility: HardwareCompatibility = "none"
    """Hardware compatibility of an engine of TensorRT: the GPUs it runs on beside the one that it was built on."""

    version_compatible: bool = False
    """It runs with newer libraries of the same major version; it carries a lean runtime, which is native code."""

    precision_types: dict[str, int]
    """Type -> number of convolutions and matrix products of the parsed network that compute in it."""

    inspector_types: dict[str, int] = Field(default_factory=dict)
    """Type -> number of tensors of it, as the engine inspector reports; empty where it reports none."""

    plan: dict[str, Any] = Field(default_factory=dict)
    """Figures of the fused plan, where the build log prints one (TensorRT for RTX)."""

    warnings: tuple[str, ...] = ()
    """Warnings of the library during the build."""

    options: dict[str, Any] = Field(default_factory=dict)
    """The options that it was built with."""


def sidecar_path(path: Path) -> Path:
    """Return where the metadata of an engine stands."""
    return path.with_name(f"{path.name}.json")


def runtime_cache_path(path: Path) -> Path:
    """Return where TensorRT for RTX keeps what it compiled for the GPUs of this machine."""
    return path.with_name(f"{path.name}.cache")


def read_engine_info(path: Path) -> ArtifactInfo:
    """Read the metadata of an engine; a `CheckpointError` where it or its sidecar is missing or cannot be read."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    if reason := placeholder_reason(path):
        raise CheckpointError(reason)
    beside = sidecar_path(path)
    if not beside.exists():
        raise CheckpointError(
            f"{path}: {beside.name} is missing beside it, without which nobody knows what it is: copy both, or export again"
        )
    return info_from_json(read_model_file(beside, "a sidecar"), str(beside))


def engine_metadata(info: ArtifactInfo, source: str) -> EngineMetadata:
    """Return the metadata that only an engine has; a `CheckpointError` where they are not as this version writes them."""
    content = info.details.get("engine")
    if not isinstance(content, dict):
        raise CheckpointError(f"{source}: its sidecar is not an engine's: details.engine is missing")
    try:
        return config_from_dict(EngineMetadata, content, where=f"{source}: details.engine")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def engine_mismatch(path: Path, metadata: EngineMetadata, trt: TensorRT, gpu: Gpu | None) -> str | None:
    """Return why an engine must not be loaded by this library on this GPU, or None where it may."""
    if (digest := file_sha256(path)) != metadata.engine_sha256:
        return f"its SHA-256 is {digest[:12]}..., its sidecar is of an engine with {metadata.engine_sha256[:12]}..."
    if metadata.variant != trt.variant:
        return f"it was built by {metadata.variant}, and {trt.variant} is to run it"
    return _version_mismatch(metadata, trt) or _gpu_mismatch(metadata, gpu)


def _version_mismatch(metadata: EngineMetadata, trt: TensorRT) -> str | None:
    if metadata.version == trt.version:
        return None
    built, here = _numbers(metadata.version), _numbers(trt.version)
    if metadata.version_compatible and built[0] == here[0] and built <= here:
        return None
    return f"it was built by version {metadata.version}, and {trt.title} is installed"


def _gpu_mismatch(metadata: EngineMetadata, gpu: Gpu | None) -> str | None:
    if gpu is None:
        return None  # whoever opens a device says by himself that there is none
    capability = gpu.compute_capability
    if metadata.targets:
        fits = "sm{}{}".format(*capability) in metadata.targets
    elif metadata.hardware_compatibility == "ampere_plus":
        fits = capability >= (8, 0)
    elif metadata.hardware_compatibility == "same_compute_capability":
        fits = capability == metadata.compute_capability
    else:
        built_on = (metadata.gpu, metadata.compute_capability, metadata.num_sms)
        fits = built_on == (gpu.name, capability, gpu.num_sms)
    return None if fits else f"it was built for {target_name(metadata)}, and this is {gpu}"


def target_name(metadata: EngineMetadata) -> str:
    """Name what an engine runs on."""
    if metadata.targets:
        return ", ".join(metadata.targets)
    if metadata.hardware_compatibility == "ampere_plus":
        return "compute capability 8.0 and newer"
    capability = "compute capability {}.{}".format(*(metadata.compute_capability or (0, 0)))
    if metadata.hardware_compatibility == "same_compute_capability":
        return capability
    return f"{metadata.gpu} ({capability}, {metadata.num_sms} SMs)"


def onnx_sha256(path: Path) -> str:
    """Hash an ONNX file, and ``NAME.data`` beside it where its weights stand there."""
    data = path.with_name(f"{path.name}.data")
    if not data.is_file():
        return file_sha256(path)
    return hashlib.sha256(f"{file_sha256(path)} {file_sha256(data)}".encode()).hexdigest()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
