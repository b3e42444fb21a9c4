"""What ``hat info`` tells of an exported file, here or on a server: what it says of itself, and what it really computes in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hat.config import config_to_dict
from hat.console import metric_rows
from hat.io.artifact import ArtifactInfo, tensor_contract

if TYPE_CHECKING:
    from rich.console import RenderableType


_LONG = 8
"""Lists and mappings with more entries are counted in the table; the JSON holds them whole."""


def artifact_result(path: Path) -> dict[str, Any]:
    """Read an exported file without running it.

    Args:
        path: ``.onnx``, ``.engine`` or ``.plan`` with its side file, or ``.xml``.

    Raises:
        CheckpointError: It cannot be read, or was not made by this package.
        MissingExtraError: A library for reading it is not installed.
    """
    ending = path.suffix.lower()
    found: dict[str, Any] = {}
    if ending == ".onnx":
        info, found = _read_onnx(path)
    elif ending == ".xml":
        from hat.io.openvino_file import read_openvino_info

        info = read_openvino_info(path)
    else:
        from hat.runtime.tensorrt.engine import read_engine_info

        info = read_engine_info(path)
    tensors = tensor_contract(info)
    return {"bytes": path.stat().st_size, **found, "tensors": tensors, "artifact": config_to_dict(info)}


def served_result(address: str) -> dict[str, Any]:
    """Ask a Triton server what the file is that it runs.

    Args:
        address: ``triton://host:port/model``.

    Raises:
        UsageError: The address is none.
        CheckpointError: There is no such model, or it was not made by this package.
        WorkError: The server cannot be reached.
        MissingExtraError: tritonclient is not installed.
    """
    from hat.runtime.triton_runtime import TritonRuntime

    runtime = TritonRuntime(address)
    tensors = tensor_contract(runtime.info)
    return {"max_batch": runtime.max_batch, "tensors": tensors, "artifact": config_to_dict(runtime.info)}


def _read_onnx(path: Path) -> tuple[ArtifactInfo, dict[str, Any]]:
    from hat.io.onnx_file import compute_types, graph_precision, onnx_opset, read_onnx
    from hat.runtime.onnxruntime_runtime import read_onnx_info

    info, proto = read_onnx_info(path), read_onnx(path)
    found = {
        "opset": onnx_opset(proto),
        "built_precision": graph_precision(proto),
        "compute_types": {operator: dict(counted) for operator, counted in compute_types(proto).items()},
    }
    return info, found


def artifact_table(result: dict[str, Any]) -> RenderableType:
    """Return the same for a reader."""
    from rich.table import Table

    info = result["artifact"]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for row in [*_origin(result), *result["tensors"].items()]:
        table.add_row(*row)
    table.add_row("precision", info["precision"])
    if "built_precision" in result:
        table.add_row("read back", result["built_precision"])
        for operator, counted in result["compute_types"].items():
            table.add_row(f"  {operator}", ", ".join(f"{count} in {name}" for name, count in counted.items()))
        table.add_row("opset", str(result["opset"]))
    if info["batch"] is not None:
        table.add_row("batch", " / ".join(str(info["batch"][key]) for key in ("min", "opt", "max")) + " (min / opt / max)")
    for key in ("device", "fingerprint", "source_sha256"):
        if info[key] is not None:
            table.add_row(key.replace("_", " "), info[key])
    table.add_row("made by", ", ".join(f"{name} {version}" for name, version in info["versions"].items()))
    for name, value in info["details"].items():
        if name != "opset":
            table.add_row(name.replace("_", " "), _short(value))
    for name, value in metric_rows(info["metrics"]):
        table.add_row(name, value)
    return table


def _origin(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield rows on where an artifact is and what model it was made of."""
    info = result["artifact"]
    if "bytes" in result:
        yield "file", f"{result['target']}, {result['bytes'] / 1e6:,.1f} MB"
    else:
        yield "served", f"{result['target']}, at most {result['max_batch']} images at once"
    model, adopted = info["model"], info["adopted"]
    if model is not None:
        yield "model", f"{info['name']}: {model['backbone']['name']}, depths {list(model['depths'])}"
        return
    yield "model", f"{info['name']}: adopted from {adopted['file']}, its output {adopted['output']}"
    family = f", as {adopted['family']} has it" if adopted["family"] else ""
    yield "", f"it takes {adopted['layout'].upper()}, {adopted['color'].upper()}{family}; the file converts"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        parts = [f"{key} {_short(inner)}" for key, inner in value.items()]
        return ", ".join(parts) if len(parts) <= _LONG else f"{len(parts)} entries (see --json)"
    if isinstance(value, list) and (len(value) > _LONG or any(isinstance(inner, dict) for inner in value)):
        return f"{len(value)} entries (see --json)"
    return str(value)
