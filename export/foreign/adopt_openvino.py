"""Wrapping of a foreign OpenVINO graph: conversion by OpenVINO's own preprocessing in front, the L2 norm behind."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hat.errors import CheckpointError, UsageError, WorkError, last_line
from hat.io.artifact import INPUT_NAME, METADATA_KEY, OUTPUT_NAME, ArtifactInfo, file_sha256
from hat.io.openvino_file import check_weights, read_openvino_xml, stored_as
from hat.runtime.openvino_runtime import openvino_core

from ..openvino.to_openvino import save_openvino
from .model import ForeignModel, GraphIO, WrappedGraph, affine, refuse_own

if TYPE_CHECKING:
    import openvino


_EPSILON = 1e-12


class OpenVINOFile:
    """A foreign OpenVINO file; see `hat.export.foreign.model.ForeignFile`."""

    def __init__(self, path: Path) -> None:
        self.core = openvino_core("adopting OpenVINO files")
        refuse_own(read_openvino_xml(path).find(f"rt_info/{METADATA_KEY}") is not None, path)
        self.path, self.weights = path, check_weights(path)
        foreign = self._read()
        if len(foreign.inputs) != 1:
            inputs = ", ".join(_name(port) for port in foreign.inputs)
            raise UsageError(f"{path} has {len(foreign.inputs)} inputs ({inputs}), expected images alone")
        shape = foreign.inputs[0].get_partial_shape()
        if shape.rank.is_dynamic:
            raise UsageError(
                f"{path} does not say how many dimensions its input has, expected images: (batch, 3, height, width)"
            )
        element = foreign.inputs[0].get_element_type().get_type_name()
        if element not in ("f16", "f32"):
            raise UsageError(f"{path} takes images of type {element}, expected f32 or f16")
        self.shape = [None if side.is_dynamic else side.get_length() for side in shape]
        self.outputs = [_name(port) for port in foreign.outputs]
        self.aliases = [{name, *port.get_names()} for name, port in zip(self.outputs, foreign.outputs, strict=True)]
        self.sha256 = hashlib.sha256((file_sha256(path) + file_sha256(self.weights)).encode()).hexdigest()
        self.versions = {"openvino": version("openvino")}

    def wrap(self, declared: ForeignModel, io: GraphIO, batch: int | None) -> WrappedGraph:
        """Put conversion in front of a copy of the graph and the L2 norm behind it; see `ForeignFile`."""
        import openvino

        try:
            graph = _wrapped(self._read(), batch, io, declared)
            compiled = self.core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise WorkError(last_line(error)) from error

        def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
            try:
                # On one core OpenVINO runs what does not fit together, and reads and writes beyond its arrays: asked for first.
                graph.clone().reshape(openvino.PartialShape(list(images.shape)))
                return np.array(compiled(images)[0], dtype=np.float32)
            except RuntimeError as error:
                raise WorkError(last_line(error)) from error

        return WrappedGraph(graph, stored_as(graph), run)

    def save(self, graph: WrappedGraph, info: ArtifactInfo, path: Path) -> ArtifactInfo:
        """Write a graph with its metadata; see `hat.export.openvino.to_openvino.save_openvino`."""
        return save_openvino(graph.graph, info, path)

    def _read(self) -> openvino.Model:
        try:
            return self.core.read_model(self.path, self.weights)
        except (RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(f"{self.path} cannot be read by OpenVINO: {last_line(error)}") from None


def _name(port: Any) -> str:
    names = sorted(port.get_names())
    return names[0] if names else str(port.get_node().input_value(0).get_node().get_friendly_name())


def _wrapped(model: openvino.Model, batch: int | None, io: GraphIO, declared: ForeignModel) -> openvino.Model:
    import openvino
    from openvino import Layout as OpenVINOLayout
    from openvino import PartialShape, Type, opset13
    from openvino.preprocess import ColorFormat, PrePostProcessor

    model = openvino.Model([model.outputs[io.output].get_node()], model.get_parameters(), model.get_friendly_name())
    sides = (3, *io.size) if io.layout == "nchw" else (*io.size, 3)
    model.reshape(PartialShape([-1 if batch is None else batch, *sides]))
    _widen(model)
    steps = PrePostProcessor(model)
    images = steps.input()
    images.tensor().set_element_type(Type.u8).set_layout(OpenVINOLayout("NCHW")).set_color_format(ColorFormat.RGB)
    images.model().set_layout(OpenVINOLayout(io.layout.upper()))
    images.preprocess().convert_element_type(Type.f32)
    mean, std = affine(declared)
    if mean.any():
        images.preprocess().mean(mean.tolist())
    if (std != 1).any():
        images.preprocess().scale(std.tolist())
    if declared.color == "bgr":
        images.preprocess().convert_color(ColorFormat.BGR)
    model = steps.build()
    value = model.outputs[0].get_node().input_value(0)
    if value.get_element_type() != Type.f32:
        value = opset13.convert(value, "f32").output(0)
    flat = opset13.reshape(value, np.array([0, -1], dtype=np.int64), special_zero=True)
    unit = opset13.normalize_l2(flat, np.array([1], dtype=np.int64), _EPSILON, "max")
    parameter = model.get_parameters()[0]
    parameter.set_friendly_name(INPUT_NAME)
    parameter.output(0).set_names({INPUT_NAME})
    unit.output(0).set_names({OUTPUT_NAME})
    result = opset13.result(unit)
    return openvino.Model([result], [parameter], model.get_friendly_name())


def _widen(model: openvino.Model) -> None:
    """Hold weights that are stored in float16 in float32, which computes the same wherever the file runs."""
    from openvino import opset13

    for operation in model.get_ops():
        if operation.get_type_name() != "Convert":
            continue
        constant = operation.input_value(0).get_node()
        types = constant.get_element_type().get_type_name(), operation.get_element_type().get_type_name()
        if constant.get_type_name() != "Constant" or types != ("f16", "f32"):
            continue
        wide = opset13.constant(constant.get_data().astype(np.float32))
        wide.set_friendly_name(operation.get_friendly_name())
        for port in operation.output(0).get_target_inputs():
            port.replace_source_output(wide.output(0))
