"""What can be exported to, and by which function: imported only when it is asked for."""

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, cast

from hat.errors import UsageError
from hat.io.artifact import ArtifactInfo

from .onnx_source import ExportSource
from .request import ExportRequest

ExportFunction: TypeAlias = Callable[[ExportSource, Path, ExportRequest], ArtifactInfo]
"""Writes a trained model, or an ONNX file of this package, to a path as requested, whole or not at all."""

TARGETS: dict[str, str] = {
    "onnx": "hat.export.to_onnx:export_onnx",
    "tensorrt": "hat.export.tensorrt.to_tensorrt:export_tensorrt",
    "tensorrt-rtx": "hat.export.tensorrt.to_tensorrt:export_tensorrt_rtx",
    "openvino": "hat.export.openvino.to_openvino:export_openvino",
    "triton": "hat.export.deploy.to_triton:export_triton",
    "deepstream": "hat.export.deploy.to_deepstream:export_deepstream",
}
"""Target -> "module:function", in the order of the help page."""


_ENDINGS: dict[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "tensorrt": (".engine", ".plan"),
    "tensorrt-rtx": (".engine", ".plan"),
    "openvino": (".xml",),
}
"""By its ending a file is opened later. Triton and DeepStream get a folder."""

_SIDECARS = ("{name}.data", "{name}.json", "{stem}.bin")
"""What may be written beside a file: ONNX's large weights, an engine's metadata, OpenVINO's weights."""


def list_targets() -> list[str]:
    """Return the names that `export_function` takes."""
    return list(TARGETS)


def export_function(target: str) -> ExportFunction:
    """Return the function that writes a target.

    Raises:
        UsageError: The target is unknown.
        MissingExtraError: A library that it needs to be imported is not installed.
    """
    if target not in TARGETS:
        near = difflib.get_close_matches(target, TARGETS, n=1)
        raise UsageError(f"unknown target {target!r}; {f'did you mean {near[0]}? ' if near else ''}known: {', '.join(TARGETS)}")
    module, _, function = TARGETS[target].partition(":")
    return cast(ExportFunction, getattr(importlib.import_module(module), function))


def check_ending(target: str, out: Path) -> None:
    """Check that what is going to be written can be opened by its name.

    Raises:
        UsageError: The target's files end otherwise, or the target is a folder and this is a file's name.
    """
    endings, known = _ENDINGS.get(target, ()), {ending for endings in _ENDINGS.values() for ending in endings}
    if endings and out.suffix not in endings:
        better = out.with_suffix(endings[0]) if out.suffix in known else f"{out}{endings[0]}"
        raise UsageError(f"a file for {target} ends in {' or '.join(endings)}, got {out}: try --out {better}")
    if not endings and out.suffix in known:
        raise UsageError(f"{target} is a folder, and {out} is a file's name: try --out {out.with_suffix('')}")


def written_files(out: Path, before: dict[Path, int] | None = None) -> dict[Path, int]:
    """Return the files at a target's place with the time of their last change, in nanoseconds.

    Args:
        out: A file, which may have sidecars, or a folder with all that is in it.
        before: What this function returned earlier. Files that have not changed since are left out: a neighbor with a sidecar's
            name, another model in the same repository.
    """
    if out.is_dir():
        files = sorted(path for path in out.rglob("*") if path.is_file())
    else:
        sidecars = [out.with_name(name.format(name=out.name, stem=out.stem)) for name in _SIDECARS]
        files = [path for path in (out, *sidecars) if path.is_file()]
    changed = {path: path.stat().st_mtime_ns for path in files}
    return {path: time for path, time in changed.items() if (before or {}).get(path) != time}
