"""Tracing takes seconds and every target begins with it: tests share one trace for each model and kind of graph."""

import contextlib

import onnx
import pytest

from hat.export import onnx_source
from hat.io.artifact import weights_sha256

_made = {}


@contextlib.contextmanager
def traced_once():
    """While it lasts, graphs of the same weights, configuration, type, opset and input are traced once a session."""
    trace = onnx_source.trace_onnx

    def shared(graph, *, opset, input_type):
        key = (weights_sha256(graph), str(graph.config), type(graph).__name__, graph.dtype, opset, input_type)
        if key not in _made:
            _made[key] = trace(graph, opset=opset, input_type=input_type).SerializeToString()
        return onnx.ModelProto.FromString(_made[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_source, "trace_onnx", shared)
        yield
