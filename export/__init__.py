"""Exported files that are proven to rank people as the trained model does."""

from __future__ import annotations

from .to_onnx import export_onnx
from .verification import verify

__all__ = ["export_onnx", "verify"]
