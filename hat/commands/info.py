"""``hat info``: what a model, a checkpoint or a file is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hat.console import emit, metric_rows


def info(
    target: Annotated[
        str,
        typer.Argument(help="A model's name, a checkpoint folder, a .pth file, an exported file, or triton://host:port/model."),
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a field of a named model: depths=[3,3,3,3].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a model, a checkpoint or a file is: parameters, operations by part, embedding, preprocessing, figures.

    An operation is a multiplication or an addition; classifiers are not counted, since an embedding does not need them.

    Examples:

      hat info hat_resnet50

      hat info hat_mobilenet_v2 --set image_size=[384,128] --json

      hat info runs/market

      hat info hat.onnx

      hat info triton://farm:8000/market
    """
    from hat.config import apply_overrides, config_to_dict, parse_overrides
    from hat.errors import UsageError
    from hat.io.checkpoint import load_released_weights, read_checkpoint_info
    from hat.model import list_models, model_config
    from hat.model.complexity import count_complexity
    from hat.runtime.opening import ARTIFACT_ENDINGS
    from hat.runtime.triton_runtime import is_triton_address

    result: dict[str, Any] = {"target": target}
    path = Path(target).expanduser()
    if target in list_models():
        config = apply_overrides(model_config(target), parse_overrides(set_ or []), where=target)
    elif set_:
        raise UsageError(f"--set changes a named model, and {target} is none; known: {', '.join(list_models())}")
    elif path.is_file() and path.suffix in (".pth", ".pt"):
        model, result["loaded"] = load_released_weights(path)
        config, result["num_classes"] = model.config, model.num_classes
    elif (is_served := is_triton_address(target)) or (path.suffix.lower() in ARTIFACT_ENDINGS and not path.is_dir()):
        from hat.commands.artifact_info import artifact_result, artifact_table, served_result

        result |= served_result(target) if is_served else artifact_result(path)
        emit(result, artifact_table(result), as_json)
        return
    elif path.exists():
        checkpoint = read_checkpoint_info(path)
        config = checkpoint.model
        result |= {"num_classes": checkpoint.num_classes, "preprocessing": config_to_dict(checkpoint.preprocessing)}
        result |= {"training": checkpoint.training, "metrics": checkpoint.metrics, "versions": checkpoint.versions}
    else:
        raise UsageError(f"{target} is neither a file, a checkpoint folder nor a model; models: {', '.join(list_models())}")

    counts = count_complexity(config)
    result |= {
        "embed_dim": counts.embed_dim,
        "num_params": {"total": counts.total_params, **counts.num_params},
        "num_operations": {"total": counts.total_operations, **counts.num_operations},
        "model": config_to_dict(config),
    }
    emit(result, _tables(result), as_json)


def _tables(result: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table

    model = result["model"]
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_row("model", f"{result['target']}: {model['backbone']['name']}, depths {model['depths']}")
    facts.add_row("input", f"{model['image_size'][0]} x {model['image_size'][1]} (height x width), RGB")
    facts.add_row("embedding", f"{result['embed_dim']} values, unit length")
    for key in ("loaded", "num_classes"):
        if key in result:
            facts.add_row(key.replace("_", " "), str(result[key]))
    for name, value in metric_rows(result.get("metrics", {})):
        facts.add_row(name, value)
    parts = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("part", "M parameters", "GFLOP"):
        parts.add_column(column, justify="left" if column == "part" else "right")
    names = [name for name in result["num_params"] if name != "total"]
    for name in [*names, "total"]:
        operations = result["num_operations"].get(name, 0)
        parts.add_row(name, f"{result['num_params'][name] / 1e6:.3f}", f"{operations / 1e9:.3f}", end_section=name == names[-1])
    return Group(facts, "", parts)
