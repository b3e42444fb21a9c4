"""From a PyTorch module to an ONNX graph with a dynamic batch."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from hat.errors import MissingExtraError, WorkError
from hat.io.onnx_file import all_tensors
from hat.model import ModelConfig

from .onnx_folding import fold_weights

if TYPE_CHECKING:
    import onnx


INPUT_NAME, OUTPUT_NAME = "images", "embeddings"

_SCOPES_KEY = "pkg.torch.onnx.name_scopes"


def trace_onnx(graph: nn.Module, *, opset: int, input_type: Literal["uint8", "float32"]) -> onnx.ModelProto:
    """Trace an inference graph into an ONNX model.

    Args:
        graph: A module with a ``config``, from (B, 3, H, W) to (B, embed_dim).
        opset: The operator set to ask for; the exporter may make another one, which the caller checks.
        input_type: Type of the images.

    Returns:
        The model. Its nodes are named after the layers that they come from.

    Raises:
        WorkError: The graph cannot be exported.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so in its own words
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export", "exporting to ONNX") from None
    config = graph.config
    assert isinstance(config, ModelConfig)
    dtype = torch.uint8 if input_type == "uint8" else torch.float32
    example = torch.zeros(2, 3, *config.image_size, dtype=dtype)  # a batch of one would be taken for a constant
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph,
                (example,),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise WorkError(f"the graph cannot be exported to ONNX: {_innermost_reason(error)}") from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    _feed_cast_alone(proto)
    _name_by_layers(proto)
    fold_weights(proto)
    return proto


def _feed_cast_alone(proto: onnx.ModelProto) -> None:
    """Let the input be read by its Cast to float alone: TensorRT has no other layer that takes uint8.

    The tracer reads the batch size off the input; off the float pixels it is the same.
    """
    casts = [node for node in proto.graph.node if node.op_type == "Cast" and node.input[0] == INPUT_NAME]
    if not casts:
        return  # floats come in
    others = [node for node in proto.graph.node if node is not casts[0]]
    for node in others:
        node.input[:] = [casts[0].output[0] if name == INPUT_NAME else name for name in node.input]
    nodes = [casts[0], *others]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _name_by_layers(proto: onnx.ModelProto) -> None:
    """Name nodes after their layers and drop what the tracer noted of itself: its notes hold paths of this machine."""
    used: set[str] = set()
    for node in proto.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES_KEY), "[]")
        layer = _innermost(scopes) or "graph"
        name, copies = f"{layer}/{node.op_type}", 1
        while name in used:
            copies += 1
            name = f"{layer}/{node.op_type}_{copies}"
        used.add(name)
        node.name = name
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for described in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *all_tensors(proto.graph)):
        described.ClearField("doc_string")
        described.ClearField("metadata_props")
    for described in (proto, proto.graph):
        described.ClearField("doc_string")
        described.ClearField("metadata_props")


def _innermost(scopes: str) -> str:
    """Return the last module path in the tracer's list, written as Python text: ``['', 'mfe', 'mfe.conv1', 'conv2d']``."""
    parts = [part.strip(" '\"") for part in scopes.strip("[]").split(",")]
    # The last part names the operation itself; parts of the tracer's own begin with an underscore.
    paths = [part for part in parts[:-1] if part and not part.startswith("_")]
    return max(paths, key=lambda part: part.count("."), default="").removesuffix(".layer")


def _innermost_reason(error: BaseException) -> str:
    """Return the first line of the first cause: the exporter wraps it in advice on whom to write to."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter prints its steps and warns of its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
