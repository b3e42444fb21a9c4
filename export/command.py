"""``hat export``: a trained model as a file that another runtime runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.console import emit, progress, stderr

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hat.io.artifact import ArtifactInfo, BatchProfile
    from hat.model import HAT
    from hat.preprocessing import Preprocessing

    from .request import Calibration

__all__ = ["export"]


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A checkpoint folder, a .pth file of HAT's released code, or a file of hat adopt (for openvino)."),
    ],
    to: Annotated[str, typer.Option("--to", help="onnx, tensorrt, tensorrt-rtx, openvino, triton or deepstream.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write; a folder for triton and deepstream.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8 or fp8.")] = "fp32",
    opset: Annotated[int | None, typer.Option(help="ONNX operator set; by default 18, or what the precision needs.")] = None,
    input_: Annotated[str, typer.Option("--input", help="Type of the images: uint8, or float32 from 0 to 255.")] = "uint8",
    batch: Annotated[str, typer.Option(help="MIN,OPT,MAX batch sizes that an engine is built for.")] = "1,8,32",
    calibration_data: Annotated[
        str | None, typer.Option(help="Data set whose training images calibrate int8 and fp8: DIR, or NAME=DIR.")
    ] = None,
    num_calibration: Annotated[int, typer.Option(min=1, help="Calibration images.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Seed of their choice.")] = 0,
    max_drop: Annotated[
        float | None, typer.Option(help="Leave layers out of int8 that alone cost the embedding more cosine than this.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Particular to a target, KEY=VALUE: calibration=percentile.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A trained model as a file that another runtime runs, with everything inside from pixels to unit embeddings.

    The file appears when it is complete, its precision read back and compared with the request, or not at all. Prove it with
    hat verify.

    Examples:

      hat export runs/market --to onnx --out market.onnx

      hat export runs/market --to onnx --precision int8 --calibration-data ~/data --out market.int8.onnx

      hat export runs/market --to onnx --precision int8 --calibration-data ~/data --max-drop 0.001 --out market.int8.onnx

      hat export runs/market --to tensorrt --precision fp16 --batch 1,16,64 --out market.engine
    """
    from hat.config import parse_overrides
    from hat.errors import UsageError
    from hat.io.artifact import checked_artifact_precision

    from .foreign.adopted_export import adopted_info, export_adopted
    from .request import ExportRequest
    from .targets import export_function

    write = export_function(to)
    chosen = checked_artifact_precision(precision)
    if input_ not in ("uint8", "float32"):
        raise UsageError(f"unknown input type {input_!r}: expected uint8 or float32")
    profile = _batch_profile(batch)
    options = dict(parse_overrides(option or []))
    quantizes = chosen in ("int8", "fp8")
    if max_drop is not None:
        options["max_drop"] = max_drop
    if quantizes and calibration_data is None:
        raise UsageError(f"{chosen} needs calibration images: name a data set with --calibration-data [NAME=]DIR")
    if not quantizes and (calibration_data is not None or max_drop is not None):
        raise UsageError(f"--calibration-data and --max-drop belong to int8 and fp8, and {chosen} was asked for")
    out = out.expanduser()
    if out.is_file() and not force:  # what a folder that is there means is the target's own matter
        raise UsageError(f"{out} is there already: give another name, or --force to replace it")

    source = Path(checkpoint).expanduser()
    adopted = adopted_info(source, to)
    model: HAT | None
    if adopted is None:
        model, metrics = _load(checkpoint)
        preprocessing = model.preprocessing
    else:
        model, metrics, preprocessing = None, adopted.metrics, adopted.preprocessing
    calibration = _calibration(calibration_data, preprocessing, num_calibration, seed) if calibration_data else None
    request = ExportRequest(
        name=Path(checkpoint).expanduser().resolve().stem,
        precision=chosen,
        input_type="uint8" if input_ == "uint8" else "float32",
        opset=_opset(opset, precision, to),
        batch=profile,
        calibration=calibration,
        overwrite=force,
        options=options,
        metrics=metrics,
    )
    stderr.print(f"exporting to {to} in {chosen} ...")
    info = write(model, out, request) if model is not None else export_adopted(source, out, request)
    result = _result(to, out, info)
    emit(result, _table(result), as_json)


def _load(checkpoint: str) -> tuple[HAT, dict[str, Any]]:
    from hat.io.checkpoint import load_checkpoint, load_released_weights, read_checkpoint_info

    path = Path(checkpoint).expanduser()
    stderr.print(f"loading {path}")
    if path.is_file() and path.suffix in (".pth", ".pt"):
        model, loaded = load_released_weights(path)
        stderr.print(loaded)
        return model, {}
    return load_checkpoint(path), read_checkpoint_info(path).metrics


def _calibration(spec: str, preprocessing: Preprocessing, num_images: int, seed: int) -> Calibration:
    from hat.data import open_dataset

    from .int8.calibration import calibration_from

    dataset = open_dataset(spec)
    total = min(num_images, len(dataset.train))
    if total < num_images:
        stderr.print(f"{dataset.name} has {total} training images: all of them calibrate")
    with progress() as display:
        task = display.add_task(f"calibration images of {dataset.name}", total=total, info="")
        return calibration_from(dataset, preprocessing, num_images, seed, progress=lambda count: display.advance(task, count))


def _opset(asked: int | None, precision: str, target: str) -> int:
    """The operator set that was asked for, or the lowest that has what the precision needs."""
    from .to_onnx import BFLOAT16_OPSET, DEFAULT_OPSET

    if asked is not None:
        return asked
    if precision == "fp8" or (precision == "int8" and target.startswith("tensorrt")):
        from .int8.qdq_insertion import FLOAT16_SCALE_OPSET

        return FLOAT16_SCALE_OPSET
    return BFLOAT16_OPSET if precision == "bf16" and target != "openvino" else DEFAULT_OPSET


def _batch_profile(text: str) -> BatchProfile:
    from hat.errors import UsageError
    from hat.io.artifact import BatchProfile

    try:
        sizes = [int(part) for part in text.split(",")]
        if len(sizes) != 3:
            raise ValueError(f"expected three numbers, got {len(sizes)}")
        return BatchProfile(min=sizes[0], opt=sizes[1], max=sizes[2])
    except ValueError:
        raise UsageError(f"--batch is MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, such as 1,8,32; got {text!r}") from None


def _result(target: str, out: Path, info: ArtifactInfo) -> dict[str, Any]:
    from hat.config import config_to_dict

    written = [out] if out.is_file() else sorted(path for path in out.rglob("*") if path.is_file())
    if out.is_file():
        written += sorted(out.parent.glob(f"{out.name}.*")) + [out.with_suffix(".bin")] * out.with_suffix(".bin").is_file()
    return {
        "file": str(out),
        "target": target,
        "files": {path.name if out.is_file() else str(path.relative_to(out)): path.stat().st_size for path in written},
        "artifact": config_to_dict(info),
    }


def _table(result: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    info = result["artifact"]
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_row("file", result["file"])
    for name, size in result["files"].items():
        facts.add_row("", f"{name}: {size / 1e6:,.1f} MB")
    facts.add_row("precision built", info["precision"])
    for key in ("opset", "num_quantized_layers"):
        if key in info["details"]:
            facts.add_row(key.removeprefix("num_").replace("_", " "), str(info["details"][key]))
    left_out = info["details"].get("layers_left_out", {})
    if left_out:
        facts.add_row("left out", "; ".join(f"{name} ({why})" for name, why in left_out.items()))
    facts.add_row("fingerprint", info["fingerprint"])
    sensitivity = info["details"].get("sensitivity")
    if not isinstance(sensitivity, dict) or "layers" not in sensitivity:
        return facts
    from .int8.sensitivity import sensitivity_table

    return Group(
        facts, "", f"where int8 costs most, on {sensitivity['num_images']} calibration images:", sensitivity_table(sensitivity)
    )
