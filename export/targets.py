"""What can be exported to, and by which function: imported only when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, cast

from hat.errors import UsageError
from hat.io.artifact import ArtifactInfo
from hat.model import HAT

from .request import ExportRequest

__all__ = ["TARGETS", "ExportFunction", "export_function", "list_targets"]

ExportFunction: TypeAlias = Callable[[HAT, Path, ExportRequest], ArtifactInfo]
"""Writes a trained model to a path as requested, whole or not at all."""

TARGETS: dict[str, str] = {
    "onnx": "hat.export.to_onnx:export_onnx",
    "tensorrt": "hat.export.tensorrt.to_tensorrt:export_tensorrt",
    "tensorrt-rtx": "hat.export.tensorrt.to_tensorrt:export_tensorrt_rtx",
    "openvino": "hat.export.openvino.to_openvino:export_openvino",
    "triton": "hat.export.deploy.to_triton:export_triton",
    "deepstream": "hat.export.deploy.to_deepstream:export_deepstream",
}
"""Target -> "module:function", in the order of the help page."""


def list_targets() -> list[str]:
    """Names that `export_function` takes."""
    return list(TARGETS)


def export_function(target: str) -> ExportFunction:
    """The function that writes a target.

    Raises:
        UsageError: The target is unknown.
        MissingExtraError: A library that it needs to be imported is not installed.
    """
    if target not in TARGETS:
        near = difflib.get_close_matches(target, TARGETS, n=1)
        raise UsageError(f"unknown target {target!r}; {f'did you mean {near[0]}? ' if near else ''}known: {', '.join(TARGETS)}")
    module, _, function = TARGETS[target].partition(":")
    return cast(ExportFunction, getattr(importlib.import_module(module), function))
