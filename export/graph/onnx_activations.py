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

__all__ = ["activations", "tensors_around"]

_IMAGES_AT_A_TIME = 4
"""All tensors of these images are in memory at once: a few hundred megabytes for the large models."""


def activations(
    proto: onnx.ModelProto, names: Sequence[str], images: npt.NDArray[np.uint8]
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Run a model and give what it computes on the way.

    Args:
        proto: A floating-point model with types of its tensors.
        names: Tensors to give; the input is none of them.
        images: (n, 3, H, W) uint8 RGB.

    Yields:
        Tensor name -> its values for the next few images, float32 whatever the model computes in.

    Raises:
        WorkError: The graph cannot be run.
        MissingExtraError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "export", "quantizing") from None
    import onnx

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads of its own that find nothing to do would hold up what is computed of the values between two runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    is_uint8 = proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    try:
        session = _open(_with_outputs(proto, names), options)
        for start in range(0, len(images), _IMAGES_AT_A_TIME):
            batch = images[start : start + _IMAGES_AT_A_TIME]
            values = session.run(list(names), {INPUT_NAME: batch if is_uint8 else batch.astype(np.float32)})
            yield {name: value.astype(np.float32, copy=False) for name, value in zip(names, values, strict=True)}
    except WorkError:
        raise
    except Exception as error:  # its exceptions share no base below Exception
        raise WorkError(f"the graph cannot be run to look at its values: {str(error).splitlines()[0]}") from error


def tensors_around(proto: onnx.ModelProto, operators: Sequence[str]) -> list[str]:
    """Names of all activations that enter or leave operators of certain types, in order of computation."""
    weights = {tensor.name for tensor in proto.graph.initializer} | {"", INPUT_NAME}
    touched = (name for node in proto.graph.node if node.op_type in operators for name in (*node.input, *node.output))
    return [name for name in dict.fromkeys(touched) if name not in weights]


def _with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    import onnx

    types = {info.name: info.type for info in (*proto.graph.value_info, *proto.graph.output)}
    if unknown := [name for name in names if name not in types]:
        raise WorkError(f"the graph does not tell the type of {unknown[0]}")
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    given = {output.name for output in proto.graph.output}
    changed.graph.output.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in names if name not in given)
    return changed


def _open(proto: onnx.ModelProto, options: Any) -> Any:
    import onnx
    import onnxruntime

    if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with tempfile.TemporaryDirectory(prefix="hat-calibration-") as folder:  # weights are read while the session is made
        path = Path(folder) / "model.onnx"
        onnx.save_model(proto, path, save_as_external_data=True, location="model.onnx.data")
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
