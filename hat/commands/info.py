"""``hat info``: description of a model, checkpoint or exported file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.commands.options import AsJson
from hat.console import emit, make_table, metric_rows

if TYPE_CHECKING:
    from rich.console import RenderableType

_LONG = 8
"""Lists and mappings with more entries are counted in the table; the JSON holds them whole."""


def info(
    target: Annotated[
        str,
        typer.Argument(help="Model name, checkpoint folder, .pth file, exported file, or triton://host:port/model."),
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a field of a named model: depths=[3,3,3,3].")] = None,
    as_json: AsJson = False,
) -> None:
    """Describe a model, checkpoint or exported file: parameters, operations by part, embedding, preprocessing, metrics.

    An operation is a multiplication or an addition; classifiers are not counted, since embeddings do not need them.

    Examples:

      hat info hat_resnet50

      hat info hat_mobilenet_v2 --set image_size=[384,128] --json

      hat info runs/market

      hat info hat_mobilenet_v2_market1501

      hat info hat.onnx

      hat info triton://farm:8000/market
    """
    from hat.config import apply_overrides, config_to_dict, parse_overrides
    from hat.errors import UsageError
    from hat.io.checkpoint import SHIPPED_MODEL, load_released_weights, locate_model, read_checkpoint_info
    from hat.model import list_models, model_config
    from hat.model.complexity import count_complexity
    from hat.runtime import ARTIFACT_ENDINGS
    from hat.runtime.triton_runtime import is_triton_address

    result: dict[str, Any] = {"target": target}
    path = locate_model(target)
    if target in list_models():
        config = apply_overrides(model_config(target), parse_overrides(set_ or []), where=target)
    elif set_:
        raise UsageError(f"--set changes a named model, and {target} is none; known: {', '.join(list_models())}")
    elif path.is_file() and path.suffix in (".pth", ".pt"):
        model, result["loaded"] = load_released_weights(path)
        config, result["num_classes"] = model.config, model.num_classes
    elif (is_served := is_triton_address(target)) or (path.suffix.lower() in ARTIFACT_ENDINGS and path.is_file()):
        result |= _served_result(target) if is_served else artifact_result(path)
        emit(result, artifact_table(result), as_json)
        return
    elif path.exists():
        checkpoint = read_checkpoint_info(path)
        config = checkpoint.model
        result |= {"num_classes": checkpoint.num_classes, "preprocessing": config_to_dict(checkpoint.preprocessing)}
        result |= {"training": checkpoint.training, "metrics": checkpoint.metrics, "versions": checkpoint.versions}
    else:
        raise UsageError(
            f"{target} is neither a file, a checkpoint folder nor a model; models: {', '.join(list_models())}; "
            f"trained: {SHIPPED_MODEL}"
        )

    counts = count_complexity(config)
    result |= {
        "embed_dim": counts.embed_dim,
        "num_params": {"total": counts.total_params, **counts.num_params},
        "num_operations": {"total": counts.total_operations, **counts.num_operations},
        "model": config_to_dict(config),
    }
    emit(result, _model_tables(result), as_json)


def _model_tables(result: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    model, params, operations = result["model"], result["num_params"], result["num_operations"]
    rows = [
        ("model", f"{result['target']}: {model['backbone']['name']}, depths {model['depths']}"),
        ("input", f"{model['image_size'][0]} x {model['image_size'][1]} (height x width), RGB"),
        ("embedding", f"{result['embed_dim']} values, unit length"),
        *((key.replace("_", " "), result[key]) for key in ("loaded", "num_classes") if key in result),
        *metric_rows(result.get("metrics", {})),
    ]
    names = [*(name for name in params if name != "total"), "total"]
    parts = [(name, f"{params[name] / 1e6:.3f}", f"{operations.get(name, 0) / 1e9:.3f}") for name in names]
    return Group(make_table(rows), "", make_table(parts, ("part", "M parameters", "GFLOP"), left=("part",)))


def artifact_result(path: Path) -> dict[str, Any]:
    """Return what an exported file says of itself as plain data; it is not run."""
    from hat.config import config_to_dict
    from hat.io.artifact import tensor_contract

    ending = path.suffix.lower()
    found: dict[str, Any] = {"bytes": path.stat().st_size}
    if ending == ".onnx":
        from hat.io.onnx_file import compute_types, graph_precision, onnx_opset, read_own_onnx

        proto, info = read_own_onnx(path)
        found |= {"opset": onnx_opset(proto), "built_precision": graph_precision(proto)}
        found["compute_types"] = {operator: dict(counted) for operator, counted in compute_types(proto).items()}
    elif ending == ".xml":
        from hat.io.openvino_file import read_openvino_info

        info = read_openvino_info(path)
    else:
        from hat.runtime.tensorrt.engine import read_engine_info

        info = read_engine_info(path)
    return {**found, "tensors": tensor_contract(info), "artifact": config_to_dict(info)}


def _served_result(address: str) -> dict[str, Any]:
    """Ask a Triton server what the file is that it runs."""
    from hat.config import config_to_dict
    from hat.io.artifact import tensor_contract
    from hat.runtime.triton_runtime import TritonRuntime

    runtime = TritonRuntime(address)
    tensors = tensor_contract(runtime.info)
    return {"max_batch": runtime.max_batch, "tensors": tensors, "artifact": config_to_dict(runtime.info)}


def artifact_table(result: dict[str, Any]) -> RenderableType:
    """Return what `artifact_result` gives, with the ``target`` that it is of, for a reader."""
    return make_table(_artifact_rows(result))


def _artifact_rows(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    info = result["artifact"]
    if "bytes" in result:
        yield "file", f"{result['target']}, {result['bytes'] / 1e6:,.1f} MB"
    else:
        yield "served", f"{result['target']}, at most {result['max_batch']} images at once"
    model, adopted = info["model"], info["adopted"]
    if model is not None:
        yield "model", f"{info['name']}: {model['backbone']['name']}, depths {list(model['depths'])}"
    else:
        yield "model", f"{info['name']}: adopted from {adopted['file']}, its output {adopted['output']}"
        family = f", as {adopted['family']} has it" if adopted["family"] else ""
        yield "", f"it takes {adopted['layout'].upper()}, {adopted['color'].upper()}{family}; the file converts"
    yield from result["tensors"].items()
    yield "precision", info["precision"]
    if "built_precision" in result:
        yield "read back", result["built_precision"]
        for operator, counted in result["compute_types"].items():
            yield f"  {operator}", ", ".join(f"{count} in {name}" for name, count in counted.items())
        yield "opset", str(result["opset"])
    if info["batch"] is not None:
        yield "batch", " / ".join(str(info["batch"][key]) for key in ("min", "opt", "max")) + " (min / opt / max)"
    for key in ("device", "fingerprint", "source_sha256"):
        if info[key] is not None:
            yield key.replace("_", " "), info[key]
    yield "made by", ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    for name, value in info["details"].items():
        if name != "opset":
            yield name.replace("_", " "), _short(value)
    yield from metric_rows(info["metrics"])


def _short(value: Any) -> str:
    if isinstance(value, dict):
        parts = [f"{key} {_short(inner)}" for key, inner in value.items()]
        return ", ".join(parts) if len(parts) <= _LONG else f"{len(parts)} entries (see --json)"
    if isinstance(value, list) and (len(value) > _LONG or any(isinstance(inner, dict) for inner in value)):
        return f"{len(value)} entries (see --json)"
    return str(value)
