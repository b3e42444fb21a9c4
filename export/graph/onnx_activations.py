"""What flows through an ONNX graph: the values of any of its tensors, for a few images at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hat.errors import MissingExtraError, WorkError

from .onnx_trace import INPUT_NAME

if TYPE_CHECKING:
    import onnx


_PROVIDERS = ["CPUExecutionProvider"]

_BATCH_SIZE = 4
"""All tensors of these images are in memory at once: a few hundred megabytes for the large models."""


class GraphRunner:
    """A graph in ONNX Runtime on the CPU, which runs on the same images again and again.

    Args:
        proto: The model.
        optimize: Let ONNX Runtime fuse nodes. Its kernels for Q/DQ pairs add in 16 bits on older processors.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(self, proto: onnx.ModelProto, *, optimize: bool = True) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "export", "quantizing") from None
        import onnx

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Threads of its own that find nothing to do would hold up what is computed of the values between two runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.is_uint8 = proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        try:
            if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
                self.session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=_PROVIDERS)
            else:
                with tempfile.TemporaryDirectory(prefix="hat-calibration-") as folder:  # read while the session is made
                    path = Path(folder) / "model.onnx"
                    onnx.save_model(proto, path, save_as_external_data=True, location="model.onnx.data")
                    self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers=_PROVIDERS)
        except Exception as error:  # its exceptions share no base below Exception
            raise WorkError(f"the graph cannot be run: {str(error).splitlines()[0]}") from error

    def batches(self, images: npt.NDArray[np.uint8], names: Sequence[str] | None = None) -> Iterator[list[npt.NDArray[Any]]]:
        """Yield the values of outputs for a few images at a time.

        Args:
            images: (n, 3, H, W) uint8 RGB.
            names: The outputs; None means all.
        """
        for start in range(0, len(images), _BATCH_SIZE):
            batch = images[start : start + _BATCH_SIZE]
            try:
                values = self.session.run(names, {INPUT_NAME: batch if self.is_uint8 else batch.astype(np.float32)})
            except Exception as error:  # its exceptions share no base below Exception
                raise WorkError(f"the graph cannot be run: {str(error).splitlines()[0]}") from error
            yield values

    def embed(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the first output of all images, (n, embed_dim) float32."""
        return np.concatenate([values[0] for values in self.batches(images)]).astype(np.float32, copy=False)


def activations(
    proto: onnx.ModelProto, names: Sequence[str], images: npt.NDArray[np.uint8]
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Run a model and yield what it computes on the way.

    Args:
        proto: A floating-point model with types of its tensors.
        names: Tensors to yield; the input is none of them.
        images: (n, 3, H, W) uint8 RGB.

    Yields:
        Tensor name -> its values for the next few images, float32 whatever the model computes in.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    for values in GraphRunner(_with_outputs(proto, names)).batches(images, names):
        yield {name: value.astype(np.float32, copy=False) for name, value in zip(names, values, strict=True)}


def tensors_around(proto: onnx.ModelProto, operators: Sequence[str]) -> list[str]:
    """Return the names of all activations that enter or leave operators of certain types, in order of computation."""
    weights = {tensor.name for tensor in proto.graph.initializer} | {"", INPUT_NAME}
    touched = (name for node in proto.graph.node if node.op_type in operators for name in (*node.input, *node.output))
    return [name for name in dict.fromkeys(touched) if name not in weights]


def _with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    types = {info.name: info.type for info in (*proto.graph.value_info, *proto.graph.output)}
    if not types.keys() >= set(names):  # graphs of other projects name few types
        changed = onnx.shape_inference.infer_shapes(changed)
        types = {info.name: info.type for info in (*changed.graph.value_info, *changed.graph.output)}
    if unknown := [name for name in names if name not in types]:
        raise WorkError(f"the graph does not tell the type of {unknown[0]}")
    given = {output.name for output in proto.graph.output}
    changed.graph.output.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in names if name not in given)
    return changed
