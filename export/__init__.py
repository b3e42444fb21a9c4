"""Exported files that are proven to rank people as the trained model does."""

from __future__ import annotations

from .to_onnx import export_onnx

__all__ = ["export_onnx"]
