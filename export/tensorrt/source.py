"""The ONNX that an engine is built from: bytes or a file, with the metadata that `hat export` put into it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hat.errors import CheckpointError, MissingExtraError
from hat.io.artifact import METADATA_KEY, ArtifactInfo, info_from_json
from hat.io.onnx_file import all_tensors, onnx_opset, read_onnx
from hat.runtime.tensorrt.engine import onnx_sha256

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class EngineSource:
    """An ONNX model that was looked at before a native parser does.

    Attributes:
        content: The model as bytes; None where its weights stand in another file, so that it is read from ``path``.
        path: Its file, where it has one.
        info: The metadata that it holds about itself.
        sha256: Its hash, weights included.
        opset: Version of the standard operator set.
    """

    content: bytes | None
    path: Path | None
    info: ArtifactInfo
    sha256: str
    opset: int


def open_source(model: bytes | str | os.PathLike[str]) -> EngineSource:
    """Look at an ONNX model.

    Args:
        model: Its bytes or its path.

    Raises:
        CheckpointError: It is missing, is no ONNX, was not made by this package, or its weights are not where they belong.
        MissingExtraError: onnx is not installed.
    """
    if isinstance(model, bytes):
        proto = _decode(model)
        if _external_files(proto):
            raise CheckpointError("the ONNX model has its weights in another file: give its path instead of its bytes")
        info = _info(proto, "the ONNX model")
        return EngineSource(model, None, info, hashlib.sha256(model).hexdigest(), onnx_opset(proto))
    path = Path(model).expanduser()
    proto = read_onnx(path)
    external = _external_files(proto)
    if external - {f"{path.name}.data"}:
        raise CheckpointError(f"{path}: expected its weights in {path.name}.data, it names {', '.join(sorted(external))}")
    content = None if external else path.read_bytes()
    return EngineSource(content, path, _info(proto, str(path)), onnx_sha256(path), onnx_opset(proto))


def _decode(content: bytes) -> onnx.ModelProto:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export", "building engines") from None
    try:
        return onnx.load_model_from_string(content)
    except DecodeError:
        raise CheckpointError("the ONNX model cannot be decoded: damaged or no ONNX") from None


def _external_files(proto: onnx.ModelProto) -> set[str]:
    """Return names of the files that weights stand in."""
    return {entry.value for tensor in all_tensors(proto.graph) for entry in tensor.external_data if entry.key == "location"}


def _info(proto: onnx.ModelProto, source: str) -> ArtifactInfo:
    for entry in proto.metadata_props:
        if entry.key == METADATA_KEY:
            return info_from_json(entry.value, source)
    raise CheckpointError(f"{source} was not made by hat export: its metadata has no {METADATA_KEY!r}")
