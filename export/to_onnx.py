"""ONNX in float32: the exact inference graph, with a dynamic batch and the facts about itself inside."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hat.artefact import METADATA_KEY, ArtefactInfo, fingerprint, info_to_json, weights_sha256
from hat.errors import MissingExtraError, WorkError
from hat.model import HAT
from hat.model.inference import InferenceModel

from .atomic_output import atomic_output

if TYPE_CHECKING:
    import onnx

__all__ = ["DEFAULT_OPSET", "describe", "export_onnx", "onnx_program", "save_onnx"]

DEFAULT_OPSET = 18
"""What every runtime of the last years reads. The exporter of torch starts here; 17 would silently become 18."""

INPUT_NAME, OUTPUT_NAME = "images", "embeddings"


def export_onnx(
    model: HAT,
    path: str | os.PathLike[str],
    *,
    name: str = "",
    opset: int = DEFAULT_OPSET,
    input_type: Literal["uint8", "float32"] = "uint8",
    overwrite: bool = False,
) -> ArtefactInfo:
    """Write a trained model as an ONNX file in float32.

    Args:
        model: The trained model; it is left as it is.
        path: The file to write; one file, with its weights inside.
        name: What to call the model in the file's facts.
        opset: The ONNX operator set.
        input_type: ``"uint8"``, or ``"float32"`` in the range 0-255 for runtimes that feed floats.
        overwrite: Replace a file that is there.

    Returns:
        The facts that the file holds about itself.

    Raises:
        UsageError: The file is there and ``overwrite`` is False.
        WorkError: The graph cannot be exported, is of another opset than was asked for, or does not pass ONNX's checker.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    path = Path(path).expanduser()
    with atomic_output(path, overwrite=overwrite) as temporary:
        graph = InferenceModel(model).cpu()
        proto = onnx_program(graph, opset=opset, input_type=input_type)
        info = describe(model, name=name or path.stem, precision="fp32", input_type=input_type, opset=opset)
        save_onnx(proto, info, temporary)
    return info


def describe(
    model: HAT,
    *,
    name: str,
    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8"],
    input_type: Literal["uint8", "float32"],
    opset: int,
    details: dict[str, Any] | None = None,
) -> ArtefactInfo:
    """The facts about a file that is being made from a trained model."""
    from importlib.metadata import version

    source = weights_sha256(model)
    return ArtefactInfo(
        name=name,
        model=model.config,
        preprocessing=model.preprocessing,
        embed_dim=model.embed_dim,
        precision=precision,
        input_type=input_type,
        source_sha256=source,
        fingerprint=fingerprint(model.config, model.preprocessing, source, precision),
        versions={library: version(library) for library in ("hat-reid", "torch", "onnx")},
        details={"opset": opset} | (details or {}),
    )


def onnx_program(graph: InferenceModel, *, opset: int, input_type: Literal["uint8", "float32"]) -> onnx.ModelProto:
    """Trace an inference graph into an ONNX model with a dynamic batch, checked.

    Raises:
        WorkError: The graph cannot be exported, is of another opset than was asked for, or does not pass ONNX's checker.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it and says so in its own words
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export", "exporting to ONNX") from None
    dtype = torch.uint8 if input_type == "uint8" else torch.float32
    example = torch.zeros(2, 3, *graph.config.image_size, dtype=dtype)  # a batch of one would be taken for a constant
    with _quiet():
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
            raise WorkError(f"the graph cannot be exported to ONNX: {error}") from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    check_onnx(proto, opset)
    return proto


def check_onnx(proto: onnx.ModelProto, opset: int) -> None:
    """Read back what was really made.

    Raises:
        WorkError: The opset is another one, or the checker or the shape inference of ONNX finds a mistake.
    """
    import onnx

    built = {entry.domain: entry.version for entry in proto.opset_import}
    if built.get("") != opset:
        raise WorkError(f"opset {opset} was asked for and the exporter made {built.get('')}")
    if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        return  # the checker reads larger models from a file alone, see save_onnx
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise WorkError(f"the exported graph does not pass ONNX's checker: {error}") from error


def save_onnx(proto: onnx.ModelProto, info: ArtefactInfo, path: Path) -> None:
    """Write a model with the facts about itself; weights above protobuf's 2 GB go into ``NAME.data`` beside it."""
    import onnx

    onnx.helper.set_model_props(proto, {METADATA_KEY: info_to_json(info)})
    proto.producer_name, proto.producer_version = "hat-reid", info.versions["hat-reid"]
    if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        path.write_bytes(proto.SerializeToString())
    else:
        onnx.save_model(proto, path, save_as_external_data=True, location=f"{path.name}.data")


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
