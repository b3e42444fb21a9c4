"""What the processor is called, in which precisions its instructions make it fast, and what tells a Jetson; by Linux."""

import platform
from pathlib import Path

JETSON_RELEASE = Path("/etc/nv_tegra_release")
"""Is there on Jetsons alone, and says which release of JetPack they run."""

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
_FASTER = {
    "int8": _VNNI | {"amx_int8", "asimddp"},
    "bf16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
}
"""Precision -> what Linux calls the instructions with which a processor is faster in it than in fp32, on x86 and ARM."""


def processor_name() -> str:
    """Return the processor's name, or its architecture where the system does not tell."""
    return _told("model name") or platform.processor() or platform.machine()


def fast_precisions() -> tuple[str, ...] | None:
    """Return the precisions for which the processor has instructions, fp32 first; None where the system does not tell."""
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
    return frozenset(_told("flags", "Features").split())


def _told(*keys: str) -> str:
    """Return what Linux says of the first processor by one of these keys; nothing elsewhere, or where it does not say."""
    try:
        lines = [line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    return next((value.strip() for key, _, value in lines if key.strip() in keys), "")
