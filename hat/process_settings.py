"""Settings of the whole process, made before torch and the runtimes are imported: no telemetry, memory, waiting threads."""

import ctypes
import os
import platform
import sys
from types import ModuleType
from typing import cast

ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, since 1.29 on Linux too
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, which Gradio and timm bring
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
}
"""Environment variables that child processes inherit: workers, served replicas, other programs that a command starts."""


def disable_telemetry() -> None:
    """Switch off what ONNX Runtime, OpenVINO, NNCF, Gradio, huggingface_hub and Ray would report of their use.

    OpenVINO and NNCF have no switch of their own: both go without where the package `openvino_telemetry` cannot be imported, so
    it is made so in this process, unless somebody imported it before.
    """
    os.environ.update(ENVIRONMENT)
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
_TOP_PAD = 256 * 2**20
_SETTINGS_OF_THE_USER = (
    *(f"MALLOC_{name}_" for name in ("TRIM_THRESHOLD", "TOP_PAD", "MMAP_THRESHOLD", "MMAP_MAX")),
    "LD_PRELOAD",
)


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next allocation instead of returning it to the system.

    Otherwise every tensor above 32 MiB is mapped, faulted in page by page and unmapped again, a sixth of the time of a training
    step. The process never becomes larger than it has been at its largest. Returns whether the allocator was set: not on other
    systems, and not where the user has chosen an allocator or its settings by the environment.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    if any(os.environ.get(name) for name in _SETTINGS_OF_THE_USER):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD), (_M_MMAP_MAX, 0))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user has said how they wait.

    By default they spin, and where anything else runs on the machine they then keep each other from working. OpenMP reads this
    when torch is imported, so it has to be called before.
    """
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
