"""Loss by int8 of each layer of OpenVINO's graph: each quantized by itself, the quantizers of all others bypassed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hat.console import progress
from hat.runtime.openvino_runtime import openvino_core

from ..int8.leave_out import LayerLoss

if TYPE_CHECKING:
    import openvino


PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
"""Operations with weights, which do the work."""

_QUANTIZER = "FakeQuantize"

_MOVES_VALUES = ("MaxPool", "Reshape", "Slice", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit")


def layer_losses(
    quantized: openvino.Model, images: Sequence[npt.NDArray[Any]], reference: npt.NDArray[np.float32]
) -> list[LayerLoss]:
    """Measure the loss of every quantized layer by itself, in order of computation.

    ``quantized`` has all its quantizers, those of the weights not yet folded into integers; ``images`` are inputs of it, one
    image each; ``reference`` (n, embed_dim) float32 are the embeddings that the float graph gives them.
    """
    losses = []
    layers = [product for product in products(quantized) if is_quantized(product)]
    with progress() as display:
        task = display.add_task("layer by layer", total=len(layers), info="")
        for layer in layers:
            lost = 1 - cosines(_alone(quantized, layer), images, reference)
            losses.append(LayerLoss(layer.get_friendly_name(), float(lost.max()), float(lost.mean())))
            display.advance(task)
    return losses


def _alone(quantized: openvino.Model, layer: openvino.Node) -> openvino.Model:
    """Return a copy in which nothing but the inputs of a layer, and of what reads the very same, is quantized."""
    own_ports = {(reader.get_friendly_name(), port) for reader, port in _inputs(layer, range(layer.get_input_size()))}
    model = quantized.clone()
    for quantizer in model.get_ops():
        if quantizer.get_type_name() == _QUANTIZER:
            for reader in quantizer.output(0).get_target_inputs():
                if (reader.get_node().get_friendly_name(), reader.get_index()) not in own_ports:
                    reader.replace_source_output(quantizer.input_value(0))
    return model


def _inputs(operation: openvino.Node, ports: Sequence[int]) -> Iterator[tuple[openvino.Node, int]]:
    """Yield which inputs bring what an operation computes on: its own, or those of what merely moves values to it."""
    for port in ports:
        source = operation.input_value(port).get_node()
        if source.get_type_name() == "Concat":
            yield from _inputs(source, range(source.get_input_size()))
        elif source.get_type_name() in _MOVES_VALUES:
            yield from _inputs(source, (0,))
        else:
            yield operation, port


def products(model: openvino.Model) -> list[openvino.Node]:
    """Return the operations with weights, in order of computation."""
    return [operation for operation in model.get_ordered_ops() if operation.get_type_name() in PRODUCTS]


def is_quantized(product: openvino.Node) -> bool:
    """Return whether what a product computes on was quantized, there or before it was merely moved about."""
    sources = [operation.input_value(port).get_node() for operation, port in _inputs(product, (0,))]
    return all(source.get_type_name() == _QUANTIZER for source in sources)


def cosines(
    model: openvino.Model, images: Sequence[npt.NDArray[Any]], reference: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return the cosines (n,) between a graph's embeddings of images and those given; -1 where one is not finite."""
    found: npt.NDArray[np.float64] = np.einsum("nd,nd->n", embed(model, images), reference, dtype=np.float64)
    return np.nan_to_num(found, nan=-1.0)


def embed(model: openvino.Model, images: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Return a graph's embeddings (n, embed_dim) float32 of the first image of each batch; the rest is computed in float32."""
    compiled = openvino_core("quantizing for OpenVINO").compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([np.array(compiled(batch)[0], np.float32)[:1] for batch in images])
