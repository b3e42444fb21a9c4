"""Parts of an OpenVINO graph, told by what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino


PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
"""Operations with weights, which do the work."""

ATTENTION = "ScaledDotProductAttention"

_STAYS_IN_FLOAT32 = "precise_0"
"""OpenVINO's mark on an operation that is computed in float32 where the rest is computed in float16."""


def around_network(model: openvino.Model) -> set[str]:
    """Return the names of what comes before the first layers with weights and after the last: normalization, necks and L2 norm.

    They decide the angles between embeddings and cost nothing, so that no precision is low enough to be worth it here.
    """
    names: set[str] = set()
    readers = [port.get_node() for port in model.inputs[0].get_target_inputs()]
    while readers:
        node = readers.pop()
        if node.get_type_name() not in (*PRODUCTS, "ShapeOf") and node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            readers += [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]
    makers = [model.outputs[0].get_node().input_value(0).get_node()]
    ends = (*PRODUCTS, ATTENTION, "Concat", "Constant", "MVN", "Parameter", "ReduceMean", "ShapeOf")
    while makers:
        node = makers.pop()
        if node.get_type_name() not in ends and node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            makers += [value.get_node() for value in node.input_values()]
    return names


def keep_in_float32(model: openvino.Model) -> None:
    """Mark what is around the network: a processor with float16 arithmetic would compute all of a graph in it.

    In bfloat16 OpenVINO leaves it in float32 by itself.
    """
    names = around_network(model)
    for operation in model.get_ops():
        if operation.get_friendly_name() in names and operation.get_type_name() != "Constant":
            operation.get_rt_info()[_STAYS_IN_FLOAT32] = ""
