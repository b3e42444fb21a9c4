"""Options of an engine beyond its precision and batch sizes, and the products and GPUs that support them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from hat.config import config_dataclass
from hat.errors import UsageError
from hat.io.artifact import ArtifactPrecision
from hat.runtime.tensorrt.engine import HardwareCompatibility
from hat.runtime.tensorrt.library import Gpu, TensorRT

COMPUTE_CAPABILITIES = {"sm75": (7, 5), "sm80": (8, 0), "sm86": (8, 6), "sm89": (8, 9), "sm120": (12, 0), "sm121": (12, 1)}
"""GPUs that TensorRT for RTX can build for ahead of time, and nothing between: Turing, Ampere (two), Ada, Blackwell (two)."""

_MIN_COMPUTE_CAPABILITY: dict[ArtifactPrecision, tuple[int, int]] = {"bf16": (8, 0), "fp8": (8, 9)}
"""GPUs before these have no arithmetic in the precision."""


def _capability_names(given: Any) -> list[str]:
    """Take one or several, and a number for its name: 8.9, "8.9" and "sm89" are the same."""
    several = given if isinstance(given, list | tuple) else [given]
    return [f"sm{str(name).removeprefix('sm').replace('.', '')}" for name in several]


@config_dataclass
class EngineOptions:
    """Options of an engine's build."""

    timing_cache: str | None = None
    """File in which measured kernels are kept, so that the next build of a like network is quick; made where it is missing."""

    hardware_compatibility: HardwareCompatibility = "none"
    """Run on more than this GPU, at some cost in speed: ``same_compute_capability`` or ``ampere_plus``."""

    version_compatible: bool = False
    """Run with newer libraries of the same major version, at some cost in speed and size."""

    compute_capability: Annotated[tuple[str, ...], BeforeValidator(_capability_names)] = ()
    """Target GPUs (``"sm86"`` or 8.6, or several), TensorRT for RTX alone; none named means every one from Ampere on."""

    workspace_bytes: Annotated[int, Field(gt=0)] | None = None
    """Scratch memory that a layer may take on the device; None allows all."""

    opt_level: Annotated[int, Field(ge=0, le=5)] | None = None
    """Effort of the search for fast kernels, 0 to 5; None is the library's 3."""

    tf32: bool = False
    """Let float32 products round their inputs to 10 bits of mantissa; off, because fp32 would no longer mean fp32."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.compute_capability if name not in COMPUTE_CAPABILITIES]
        if unknown or len(set(self.compute_capability)) != len(self.compute_capability):
            raise ValueError(
                f"compute_capability takes each of {', '.join(COMPUTE_CAPABILITIES)} at most once, "
                f"got {', '.join(self.compute_capability)}"
            )


def check_options(options: EngineOptions, precision: ArtifactPrecision, trt: TensorRT, gpu: Gpu | None) -> None:
    """Raise `UsageError` for what a product or a GPU (None for TensorRT for RTX) cannot do, before anything is traced."""
    if trt.is_rtx:
        reasons = {
            "timing_cache": "it times no kernels when it builds",
            "hardware_compatibility": "its engines run on the GPUs named by compute_capability",
            "version_compatible": "it has no lean runtime",
        }
    else:
        reasons = {"compute_capability": "it builds for the GPU of this machine; TensorRT for RTX builds for named ones"}
    defaults = EngineOptions()
    for name, reason in reasons.items():
        if getattr(options, name) != getattr(defaults, name):
            raise UsageError(f"{name} is not for {trt.title}: {reason}")
    minimum = _MIN_COMPUTE_CAPABILITY.get(precision, (0, 0))
    if trt.is_rtx:
        too_old = [name for name in options.compute_capability if COMPUTE_CAPABILITIES[name] < minimum]
    else:
        oldest = {"every GPU from Ampere on": (8, 0)} if options.hardware_compatibility == "ampere_plus" else {}
        if gpu is not None:
            oldest[str(gpu)] = gpu.compute_capability
        too_old = [name for name, capability in oldest.items() if capability < minimum]
    if too_old:
        raise UsageError(
            f"{precision} needs compute capability {minimum[0]}.{minimum[1]} or newer, and the engine is to run on "
            f"{', '.join(too_old)}: ask for fp16"
        )


def rtx_targets(options: EngineOptions, precision: ArtifactPrecision) -> tuple[str, ...]:
    """Return the compute capabilities to build for, TensorRT for RTX alone: those named, or all from Ampere on that can."""
    minimum = max((8, 0), _MIN_COMPUTE_CAPABILITY.get(precision, (0, 0)))
    return options.compute_capability or tuple(name for name, numbers in COMPUTE_CAPABILITIES.items() if numbers >= minimum)
