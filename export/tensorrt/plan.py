"""The fused plan of an engine, read from the build log of TensorRT for RTX: what a GPU will execute, known without one.

At its most verbose, TensorRT for RTX lists the layers that it fused the network into, on any machine and for any of its
compute capabilities. The list tells where work is lost: kernels that are launched one by one, attention that was not fused,
convolutions that write float32 because their eight-bit scales do not fuse, and bytes that travel through memory.
"""

import re
from dataclasses import dataclass
from math import prod
from typing import Any

from hat.errors import WorkError

_SIZES = {"Double": 8, "Int64": 8, "Float": 4, "Int32": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "FP8": 1, "Bool": 1}
_NO_KERNELS = {"constant", "reshape", "shape_call", "signal", "wait"}
_PRODUCTS = {"convolution", "correlation", "gemm", "runtime_fusion"}

_LAYER = re.compile(
    r"^ ?Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, StreamId: .*?, Metadata: ?(?P<nodes>.*)$"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[(.*?)\],.*?Datatype: (\w+), Format: (.*?) \}")


@dataclass(frozen=True)
class PlanTensor:
    """A tensor between kernels."""

    name: str
    dtype: str  # "Half", "Float", "Int8", ...
    layout: str  # how it lies in memory, in the library's words
    shape: tuple[int, ...]  # -1 is the batch, or the batch times what was merged with it

    def num_bytes(self, batch: int) -> int:
        """Count its bytes at a batch size.

        Raises:
            WorkError: Its type is unknown.
        """
        if self.dtype not in _SIZES:
            raise WorkError(f"the plan has a tensor {self.name} of the unknown type {self.dtype}: expected {', '.join(_SIZES)}")
        return _SIZES[self.dtype] * prod(batch if size < 0 else size for size in self.shape)


@dataclass(frozen=True)
class PlanLayer:
    """One step of the plan.

    Its kind is ``"correlation"`` (a convolution), ``"gemm"``, ``"runtime_fusion"`` (a product and what follows it), ``"kgen"``
    (operations by element or by row), ...
    """

    name: str  # of one node, or of all operations that were fused: "__myl_CorrAddMinMaxMul_..."
    kind: str
    inputs: tuple[PlanTensor, ...]  # without weights
    constants: tuple[PlanTensor, ...]  # weights and scales
    outputs: tuple[PlanTensor, ...]
    nodes: tuple[str, ...]  # ONNX nodes that it comes from

    @property
    def is_kernel(self) -> bool:
        """Whether the GPU launches something: views, constants and the arithmetic of shapes (64-bit scalars) are free."""
        return self.kind not in _NO_KERNELS and any(tensor.dtype != "Int64" for tensor in self.outputs)

    @property
    def is_attention(self) -> bool:
        """Whether it is a whole attention in one kernel: both products and the softmax between them."""
        return "_mha_" in self.name

    @property
    def is_product(self) -> bool:
        """Whether it is a convolution or a matrix product, with whatever was fused to it."""
        return self.kind in _PRODUCTS

    def is_wider_than(self, dtype: str) -> bool:
        """Return whether it is a product that writes a wider type than was asked for; a cast that was fused was asked for."""
        wide = any(_SIZES.get(tensor.dtype, 8) > _SIZES[dtype] for tensor in self.outputs)
        return self.is_product and wide and "Cast" not in self.name.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class EnginePlan:
    """All steps, in order of execution."""

    layers: tuple[PlanLayer, ...]

    @property
    def kernels(self) -> list[PlanLayer]:
        """Steps that the GPU launches."""
        return [layer for layer in self.layers if layer.is_kernel]

    @property
    def num_fused_attentions(self) -> int:
        """Number of attentions that run in one kernel."""
        return sum(layer.is_attention for layer in self.layers)

    def wider_than(self, dtype: str) -> list[PlanLayer]:
        """Convolutions and products whose output is wider than was asked for."""
        return [layer for layer in self.layers if layer.is_wider_than(dtype)]

    def moved_bytes(self, batch: int) -> int:
        """Count the bytes that kernels read and write at a batch size, weights included.

        Exact for a plan of a single batch size. Where the batch is dynamic, a dimension into which more than the batch was
        merged counts as the batch alone, so that the result is a lower bound.
        """
        tensors = [tensor for layer in self.kernels for tensor in (*layer.inputs, *layer.constants, *layer.outputs)]
        return sum(tensor.num_bytes(batch) for tensor in tensors)

    def summary(self, *, batch: int, dtype: str) -> dict[str, Any]:
        """Return the figures that tell a good plan from a bad one.

        Args:
            batch: The batch size that bytes are counted at.
            dtype: The type that products were asked to write: ``"Float"``, ``"Half"`` or ``"BFloat16"``.
        """
        return {
            "kernels": len(self.kernels),
            "fused_attentions": self.num_fused_attentions,
            "products_wider_than_asked": len(self.wider_than(dtype)),
            "batch": batch,
            "megabytes_moved": round(self.moved_bytes(batch) / 1e6, 1),
        }


def read_plan(listing: str) -> EnginePlan:
    """Read the list of layers that TensorRT for RTX prints when it has built an engine.

    Args:
        listing: The message that begins with ``"Layers:"``; that of an engine for several compute capabilities holds one
            list for each, of which the first is read.

    Raises:
        WorkError: It is empty, or laid out in another way than this version prints it.
    """
    layers = []
    listing = listing.split("\nI/O Tensors:", maxsplit=1)[0]
    for line in listing.strip().removeprefix("Layers:").strip().splitlines():
        found = _LAYER.match(line)
        if found is None:
            raise WorkError(f"the plan in the build log cannot be read: expected a layer, got {line[:80]!r}")
        layers.append(
            PlanLayer(
                found["name"],
                found["kind"],
                _tensors(found["inputs"]),
                _tensors(found["constants"]),
                _tensors(found["outputs"]),
                tuple(re.findall(r"\[ONNX Layer: (.*?)\]", found["nodes"])),
            )
        )
    if not layers:
        raise WorkError("the build log holds no plan: TensorRT for RTX prints one when it builds for its GPUs")
    return EnginePlan(tuple(layers))


def _tensors(text: str) -> tuple[PlanTensor, ...]:
    return tuple(
        PlanTensor(name, dtype, layout, tuple(int(size) for size in shape.split(",") if size))
        for name, shape, dtype, layout in _TENSOR.findall(text)
    )
