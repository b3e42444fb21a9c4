"""Name and fast precisions of the processor, and the mark of a Jetson, as Linux reports them."""

import platform
from pathlib import Path

JETSON_RELEASE = Path("/etc/nv_tegra_release")
"""File that exists on Jetsons alone, with the release of JetPack."""

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
_FASTER = {
    "int8": _VNNI | {"amx_int8", "asimddp"},
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
}
"""Precision -> what Linux calls the instructions with which a processor is faster in it than in fp32, on x86 and ARM."""


def processor_name() -> str:
    """Return the processor's name, or its architecture where the system does not report it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def fast_precisions() -> tuple[str, ...] | None:
    """Return the precisions with instructions of their own, fp32 first; None where the system does not report them."""
    flags = _flags()
    return ("fp32", *(precision for precision, names in _FASTER.items() if names & flags)) if flags else None


def emulation(device_type: str, precision: str) -> str | None:
    """Return a sentence where the CPU is to compute bf16 and is known to have no instructions for it; None otherwise."""
    fast = fast_precisions()
    if device_type != "cpu" or precision != "bf16" or fast is None or precision in fast:
        return None
    return "this processor has no instructions for bf16: fp32 is several times as fast"


def has_vnni() -> bool:
    """Return whether an x86 processor is known to add products of eight bits in 32 by itself."""
    return bool(_VNNI & _flags())


def _flags() -> frozenset[str]:
    return frozenset(_cpuinfo("flags", "Features").split())


def _cpuinfo(*keys: str) -> str:
    """Return the first processor's value of one of these keys; an empty text where Linux does not report it, or elsewhere."""
    try:
        lines = [line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    return next((value.strip() for key, _, value in lines if key.strip() in keys), "")
