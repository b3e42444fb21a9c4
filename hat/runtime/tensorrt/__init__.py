"""TensorRT and TensorRT for RTX: the library, engine files, and running them."""
