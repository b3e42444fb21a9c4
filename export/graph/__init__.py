"""The ONNX graph: tracing, folding, half precision, and what its operations are."""
