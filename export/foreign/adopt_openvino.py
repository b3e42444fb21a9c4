"""What is put around a foreign OpenVINO graph: conversion by OpenVINO's own preprocessing, and the L2 norm."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hat.errors import CheckpointError, MissingExtraError, UsageError, WorkError
from hat.io.artifact import METADATA_KEY, ArtifactInfo
from hat.io.openvino_file import check_weights, file_sha256, read_openvino_xml, stored_as

from ..openvino.to_openvino import save_openvino
from .model import ForeignModel, Layout, affine, input_of, output_of, refuse_own
from .probe import Run, Surrounded, has_own_rows, probe_images, why_fixed

if TYPE_CHECKING:
    import openvino


_EPSILON = 1e-12


def surround(path: Path, declared: ForeignModel) -> Surrounded:
    """Make a graph that takes uint8 RGB images and gives unit vectors; see `hat.export.foreign.adoption.adopt`.

    Raises:
        UsageError: What was declared does not fit the file.
        CheckpointError: It cannot be read.
        WorkError: It cannot be run.
        MissingExtraError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "openvino", "adopting OpenVINO files") from None
    refuse_own(read_openvino_xml(path).find(f"rt_info/{METADATA_KEY}") is not None, path)
    weights = check_weights(path)
    core = openvino.Core()
    foreign = _read(core, path, weights)
    if len(foreign.inputs) != 1:
        inputs = ", ".join(_name(port) for port in foreign.inputs)
        raise UsageError(f"{path} has {len(foreign.inputs)} inputs ({inputs}), expected images alone")
    shape = [None if side.is_dynamic else side.get_length() for side in _sides(foreign.inputs[0], path)]
    layout, size, fixed = input_of(shape, declared, str(path))
    names = [_name(port) for port in foreign.outputs]
    place = output_of(names, declared, str(path))

    reasons = []
    for batch in dict.fromkeys((None, fixed)):
        try:
            graph = _wrapped(_read(core, path, weights), place, batch, size, layout, declared)
            precision = stored_as(graph)
            compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            run = _run(compiled)
            rows = run(probe_images(size, batch or 2))
            if (batch is None and not has_own_rows(run, size, precision)) or len(rows) != (batch or 2):
                reasons.append("images of one batch change each other's embeddings, or do not have one each")
                continue
        except RuntimeError as error:
            reasons.append((str(error).strip().splitlines() or [type(error).__name__])[-1])
            continue
        digest = hashlib.sha256((file_sha256(path) + file_sha256(weights)).encode()).hexdigest()
        versions = {"openvino": str(openvino.get_version())}
        width, why = rows.shape[1], why_fixed(reasons)
        return Surrounded(graph, size, width, batch, precision, layout, names[place], digest, versions, why, run)
    raise WorkError(f"{path} cannot be run on images of {size[0]} x {size[1]}: {'; '.join(dict.fromkeys(reasons))}")


def save_adopted(surrounded: Surrounded, info: ArtifactInfo, path: Path) -> ArtifactInfo:
    """Write the graph with the facts about itself; see `hat.export.openvino.to_openvino.save_openvino`."""
    return save_openvino(surrounded.graph, info, path)


def _read(core: openvino.Core, path: Path, weights: Path) -> openvino.Model:
    try:
        return core.read_model(path, weights)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise CheckpointError(f"{path} cannot be read by OpenVINO: {reason}") from None


def _sides(port: Any, path: Path) -> list[Any]:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise UsageError(f"{path} does not say how many dimensions its input has, expected images: (batch, 3, height, width)")
    return list(shape)


def _name(port: Any) -> str:
    names = sorted(port.get_names())
    return names[0] if names else str(port.get_node().input_value(0).get_node().get_friendly_name())


def _wrapped(
    model: openvino.Model, place: int, batch: int | None, size: tuple[int, int], layout: Layout, declared: ForeignModel
) -> openvino.Model:
    import openvino
    from openvino import Layout as OpenVINOLayout
    from openvino import PartialShape, Type, opset13
    from openvino.preprocess import ColorFormat, PrePostProcessor

    model = openvino.Model([model.outputs[place].get_node()], model.get_parameters(), model.get_friendly_name())
    sides = (3, *size) if layout == "nchw" else (*size, 3)
    model.reshape(PartialShape([-1 if batch is None else batch, *sides]))
    _widen(model)
    steps = PrePostProcessor(model)
    images = steps.input()
    images.tensor().set_element_type(Type.u8).set_layout(OpenVINOLayout("NCHW")).set_color_format(ColorFormat.RGB)
    images.model().set_layout(OpenVINOLayout(layout.upper()))
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
    parameter.set_friendly_name("images")
    parameter.output(0).set_names({"images"})
    unit.output(0).set_names({"embeddings"})
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


def _run(compiled: openvino.CompiledModel) -> Run:
    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.array(compiled(images)[0], dtype=np.float32)

    return run
