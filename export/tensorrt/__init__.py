"""TensorRT engines, from a checkpoint or an ONNX file."""
