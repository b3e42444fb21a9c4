"""Integer precision in the ONNX graph: ranges, equalization, rounding, and which layers stay in floating point."""
