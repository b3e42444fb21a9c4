"""The timing cache: what a builder measured on a GPU, kept in a file for the next build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hat.errors import UsageError
from hat.io.atomic_output import atomic_output
from hat.runtime.tensorrt.library import TensorRT, said

__all__ = ["load_timing_cache", "save_timing_cache"]


def load_timing_cache(trt: TensorRT, config: Any, path: Path) -> Any:
    """Attach a file's timing cache to a builder's configuration; an empty one where there is no file yet.

    Returns:
        The cache, which has to live until the engine is built.

    Raises:
        UsageError: The file cannot be read, or is of another GPU or library.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UsageError(f"the timing cache {path} cannot be read: {error.strerror or error}") from None
    with trt.listen() as heard:
        cache = config.create_timing_cache(content)
        attached = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
    if not attached:
        raise UsageError(
            f"the timing cache {path} is not of this GPU and {trt.title} ({said(heard)}): delete it, or name another"
        )
    return cache


def save_timing_cache(config: Any, path: Path) -> None:
    """Write what was measured, whole or not at all."""
    content = bytes(memoryview(config.get_timing_cache().serialize()))
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_bytes(content)
