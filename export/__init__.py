"""Exported files that are proven to rank people as the trained model does."""

from __future__ import annotations

from .calibration import calibration_from
from .request import Calibration, ExportRequest
from .targets import export_function, list_targets
from .tensorrt_builder import build_engine, rebuild_engine
from .tensorrt_options import EngineOptions
from .tensorrt_refit import refit_engine
from .to_onnx import export_onnx
from .verification import verify

__all__ = [
    "Calibration",
    "EngineOptions",
    "ExportRequest",
    "build_engine",
    "calibration_from",
    "export_function",
    "export_onnx",
    "list_targets",
    "rebuild_engine",
    "refit_engine",
    "verify",
]
