"""Integer precision in the ONNX graph: equalization, rounding, and which layers stay in floating point."""
