"""Small graphs of convolutions and products, written by hand."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hat.export.graph.onnx_activations import GraphRunner


def graph(nodes, constants, rank=4, element=TensorProto.FLOAT):
    """An ONNX model: uint8 images (batch, 3, 16, 8), cast to floats in [0, 1] named ``x``, to ``y``."""
    value = helper.make_tensor_value_info
    dtype = helper.tensor_dtype_to_np_dtype(element)
    made = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=element, name="cast"),
            helper.make_node("Mul", ["pixels", "scale"], ["x"], name="scale"),
            *nodes,
        ],
        "g",
        [value("images", TensorProto.UINT8, ["batch", 3, 16, 8])],
        [value("y", element, ["batch", *[None] * (rank - 1)])],
        [numpy_helper.from_array(np.asarray(array, dtype), name) for name, array in {"scale": 1 / 255, **constants}.items()],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(proto)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True)


def convolution(name, source, target, **attributes):
    """A convolution with the weight ``NAME.weight`` and the bias ``NAME.bias``."""
    return helper.make_node("Conv", [source, f"{name}.weight", f"{name}.bias"], [target], name=f"{name}/Conv", **attributes)


def random_constants(shapes, seed, scale=1.0):
    """Weights and biases for convolutions, by name."""
    generator = np.random.default_rng(seed)
    made = {f"{name}.weight": scale * generator.normal(size=shape) for name, shape in shapes.items()}
    return made | {f"{name}.bias": generator.normal(size=shape[0]) for name, shape in shapes.items()}


def pictures(count=8, seed=1):
    """(n, 3, 16, 8) uint8: neighboring pixels are alike, as in photographs."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 3, 4, 2)).repeat(4, axis=2).repeat(4, axis=3)
    return np.clip(coarse + generator.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


def run(proto, images):
    """The first output, computed node by node as the graph says it."""
    return GraphRunner(proto, optimize=False).embed(images)


def weights_of(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
