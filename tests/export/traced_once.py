"""Tracing takes seconds and every target begins with it: here the tests of a module share one trace for each kind of graph."""

import contextlib

import onnx
import pytest

from hat.export import onnx_source


@contextlib.contextmanager
def traced_once():
    """While it lasts, graphs of the same configuration, type, opset and input are traced once, whatever their weights."""
    made = {}
    trace = onnx_source.trace_onnx

    def shared(graph, *, opset, input_type):
        key = (type(graph).__name__, repr(graph.config), graph.dtype, opset, input_type)
        if key not in made:
            made[key] = trace(graph, opset=opset, input_type=input_type).SerializeToString()
        return onnx.ModelProto.FromString(made[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_source, "trace_onnx", shared)
        yield
