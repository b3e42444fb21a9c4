"""What makes long computations on a CPU faster without changing them: how memory is kept and how threads wait."""

import ctypes
import os
import platform
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
_TOP_PAD = 256 * 2**20
_SETTINGS_OF_THE_USER = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "LD_PRELOAD",
)


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next allocation instead of returning it to the system.

    Otherwise every tensor above 32 MiB is mapped, faulted in page by page and unmapped again, a sixth of the time of a training
    step. The process never becomes larger than it has been at its largest. Does nothing on other systems, and where the user
    has chosen an allocator or its settings by the environment.

    Returns:
        Whether the allocator was told.
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
