"""What is done to a graph before it is quantized, whichever runtime it is for, so that it loses less by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from hat.console import progress

from .cross_layer_equalization import equalize_channels
from .gptq import round_weights
from .qdq_insertion import QuantizableLayer

if TYPE_CHECKING:
    import onnx

__all__ = ["MOST_IMAGES", "WeightRounding", "equalized", "rounded", "with_weights_of"]

WeightRounding = Literal["outputs", "nearest"]
"""``"outputs"``: so that what each layer gives changes least; ``"nearest"``: every weight by itself."""

MOST_IMAGES = 256
"""Images that are looked at: with twice as many a layer's inputs go together as they do with these."""


def equalized(proto: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """The graph with channels of more alike ranges; see `hat.export.int8.cross_layer_equalization`.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    return equalize_channels(proto, images[:MOST_IMAGES])[0]


def rounded(proto: onnx.ModelProto, layers: Sequence[QuantizableLayer], images: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    """The graph with weights that eight bits hold exactly; see `hat.export.int8.gptq`.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    with progress() as display:
        task = display.add_task("rounding weights", total=sum(layer.weight is not None for layer in layers), info="")
        return round_weights(proto, layers, images[:MOST_IMAGES], advance=lambda count: display.advance(task, count))


def with_weights_of(proto: onnx.ModelProto, source: onnx.ModelProto, layers: Sequence[QuantizableLayer]) -> onnx.ModelProto:
    """A copy in which some layers have the weights that they have in another copy of the graph."""
    import onnx

    names = {layer.weight for layer in layers}
    taken = {tensor.name: tensor for tensor in source.graph.initializer if tensor.name in names}
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for tensor in changed.graph.initializer:
        if tensor.name in taken:
            tensor.CopyFrom(taken[tensor.name])
    return changed
