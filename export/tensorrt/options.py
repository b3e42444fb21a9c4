"""What can be asked of an engine beyond its precision and batch sizes, and which product can do it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hat.config import config_dataclass
from hat.errors import UsageError
from hat.runtime.tensorrt.library import TensorRT

__all__ = ["COMPUTE_CAPABILITIES", "EngineOptions", "check_options"]

COMPUTE_CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""What TensorRT for RTX can build for ahead of time: Turing, Ampere (two), Ada, Blackwell (two)."""


@config_dataclass
class EngineOptions:
    """How to build an engine."""

    timing_cache: str | None = None
    """File in which measured kernels are kept, so that the next build of a like network is quick; made where it is missing."""

    strip_weights: bool = False
    """Leave the weights out; the engine is refitted from an ONNX before it runs. Makes it refittable."""

    refittable: bool = False
    """Let the weights be replaced later, so that a retrained model reuses the engine; prevents some fusions."""

    hardware_compatible: bool = False
    """Run on every GPU from Ampere on, at some cost in speed."""

    version_compatible: bool = False
    """Run with newer libraries of the same major version, at some cost in speed and size."""

    compute_capability: tuple[str, ...] = ()
    """What to build for (``"sm86"``, ``"sm89"``), TensorRT for RTX alone; none named means every GPU from Ampere on."""

    workspace_bytes: Annotated[int, Field(gt=0)] | None = None
    """Scratch memory that a layer may take on the device; None allows all."""

    opt_level: Annotated[int, Field(ge=0, le=5)] | None = None
    """How long to look for fast kernels, 0 to 5; None is the library's 3."""

    tf32: bool = False
    """Let float32 products round their inputs to 10 bits of mantissa; off, because fp32 would no longer mean fp32."""

    keep_onnx: bool = False
    """Keep the ONNX beside the engine as ``NAME.onnx``, so that the engine can be rebuilt for another GPU or version."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.compute_capability if name not in COMPUTE_CAPABILITIES]
        if unknown or len(set(self.compute_capability)) != len(self.compute_capability):
            raise ValueError(
                f"compute_capability takes each of {', '.join(COMPUTE_CAPABILITIES)} at most once, "
                f"got {', '.join(self.compute_capability)}"
            )


def check_options(options: EngineOptions, trt: TensorRT) -> None:
    """Refuse what a product cannot do, before anything is built.

    Raises:
        UsageError: An option is not for this product.
    """
    if trt.is_rtx:
        reasons = {
            "timing_cache": "it times no kernels when it builds",
            "hardware_compatible": "its engines run on every GPU from Ampere on, or on those named by compute_capability",
            "version_compatible": "it has no lean runtime",
        }
    else:
        reasons = {"compute_capability": "it builds for the GPU of this machine; TensorRT for RTX builds for named ones"}
    for name, reason in reasons.items():
        if getattr(options, name):
            raise UsageError(f"{name} is not for {trt.title}: {reason}")
