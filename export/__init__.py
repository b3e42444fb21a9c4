"""Exported files that are proven to rank people as the trained model does.

Names are imported when they are first used, so that the help of a command costs no import of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
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

_HOMES = {
    "Calibration": ".request",
    "EngineOptions": ".tensorrt_options",
    "ExportRequest": ".request",
    "build_engine": ".tensorrt_builder",
    "calibration_from": ".calibration",
    "export_function": ".targets",
    "export_onnx": ".to_onnx",
    "list_targets": ".targets",
    "rebuild_engine": ".tensorrt_builder",
    "refit_engine": ".tensorrt_refit",
    "verify": ".verification",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
