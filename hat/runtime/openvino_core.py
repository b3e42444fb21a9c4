"""One OpenVINO for the process, and the thread's signal stack as it was before.

OpenVINO's CPU plugin gives the thread that loads it an alternate signal stack, and takes that back when it is unloaded. Two
that are unloaded in the order in which they were loaded leave the thread with memory that is gone: the second puts back what it
found, which is the first one's. Python's handlers run on that stack (``SA_ONSTACK``), so that the next Ctrl-C would be a
segmentation fault. So this package loads one plugin, NNCF its own inside `kept_signal_stack`, and no stack stays behind.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from hat.errors import MissingExtraError

if TYPE_CHECKING:
    import openvino


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give the calling thread its alternate signal stack back at the end, whatever was set meanwhile."""
    if sys.platform != "linux":
        yield
        return
    before, libc = _SignalStack(), ctypes.CDLL(None)
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def openvino_core(purpose: str) -> openvino.Core:
    """Return the process's OpenVINO; it may be used from several threads.

    Args:
        purpose: What it is wanted for, in case that it is missing: ``"running OpenVINO files"``.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        return _load_core()
    except ImportError:
        raise MissingExtraError("openvino", "openvino", purpose) from None


@cache
def _load_core() -> openvino.Core:
    import openvino

    with kept_signal_stack():
        core = openvino.Core()
        core.get_versions("CPU")  # loads the plugin, which the first model would do otherwise
    return core
