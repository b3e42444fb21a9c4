"""Exported files that are proven to rank people as the trained model does.

Names are imported when they are first used, so that the help of a command costs no import of torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hat.lazy_names import lazy_names

if TYPE_CHECKING:
    from .foreign.adoption import adopt
    from .int8.calibration import calibration_from
    from .request import Calibration, ExportRequest
    from .targets import export_function, list_targets
    from .tensorrt.builder import build_engine
    from .tensorrt.options import EngineOptions
    from .to_onnx import export_onnx
    from .verify.verification import verify

__all__ = [
    "Calibration",
    "EngineOptions",
    "ExportRequest",
    "adopt",
    "build_engine",
    "calibration_from",
    "export_function",
    "export_onnx",
    "list_targets",
    "verify",
]

_HOMES = {
    "Calibration": ".request",
    "EngineOptions": ".tensorrt.options",
    "ExportRequest": ".request",
    "adopt": ".foreign.adoption",
    "build_engine": ".tensorrt.builder",
    "calibration_from": ".int8.calibration",
    "export_function": ".targets",
    "export_onnx": ".to_onnx",
    "list_targets": ".targets",
    "verify": ".verify.verification",
}

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES)
