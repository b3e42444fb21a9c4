"""``hat export``: export a trained model for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from hat.commands.options import AsJson, Force, GrayBits, finite
from hat.console import emit, make_table, progress, stderr
from hat.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hat.io.artifact import BatchProfile, InputType
    from hat.model import HAT
    from hat.preprocessing import Preprocessing

    from .openvino.to_openvino import AdoptedFile
    from .request import Calibration

_SIDECARS = ("{name}.data", "{name}.json", "{stem}.bin")
"""Endings of sidecars: ONNX's large weights, an engine's metadata, OpenVINO's weights."""

_MAX_LOSSES = 12
"""Layers that are shown with what int8 costs them."""


def export(
    source: Annotated[
        str, typer.Argument(help="Checkpoint folder, .pth file of HAT's released code, or .onnx file of this package.")
    ],
    to: Annotated[str, typer.Option("--to", help="onnx, tensorrt, tensorrt-rtx, openvino, triton or deepstream.")],
    out: Annotated[Path, typer.Option("--out", help="Output file; a folder for triton and deepstream.")],
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, bf16, int8 or fp8; default: fp32, or that of the .onnx file.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(min=1, help="ONNX opset; default: the lowest supported, or that of the .onnx file.")
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", help="Input images: uint8, float32 from 0 to 255 (DeepStream) or normalized (trackers)."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="MIN,OPT,MAX batch sizes of an engine, and of what sends it batches; default: 1,8,32.")
    ] = None,
    calibration_data: Annotated[
        str | None, typer.Option(help="Data set whose training images calibrate int8 and fp8: DIR or NAME=DIR.")
    ] = None,
    num_calibration: Annotated[int | None, typer.Option(min=1, help="Number of calibration images; default: 512.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of their selection; default: 0.")] = None,
    gray_bits: GrayBits = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            callback=finite, help="Largest drop of the mean cosine in int8: costly layers stay in float; 1 quantizes all."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="GPU to build a TensorRT engine on and for: cuda, cuda:1.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Target-specific option, KEY=VALUE: calibration=percentile.")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Export a model to ONNX, TensorRT, OpenVINO, Triton or DeepStream, with preprocessing and L2 norm in the graph.

    The file is written only when it is complete and its precision, read back, matches the request. Check it with hat verify.
    An ONNX file of this package is not traced again: its precision and calibration are kept, or a float32 file is quantized.
    So a workstation can export the ONNX file and the device build its engine.

    Examples:

      hat export runs/market --to onnx --out market.onnx

      hat export runs/market --to onnx --precision int8 --calibration-data ~/data --out market.int8.onnx

      hat export runs/market --to onnx --precision int8 --calibration-data ~/data --max-drop 0.001 --out market.int8.onnx

      hat export runs/market --to tensorrt --precision fp16 --batch 1,16,64 --out market.engine

      hat export market.int8.onnx --to triton --out models

      hat export market.fp16.onnx --to tensorrt --device cuda:1 --out market.engine
    """
    from hat.config import config_to_dict, parse_overrides
    from hat.data.images import set_gray_bits
    from hat.io.artifact import BatchProfile, InputType, checked_artifact_precision
    from hat.io.checkpoint import locate_model

    from .onnx_source import open_onnx_source
    from .request import ExportRequest, check_ending, export_function

    write, path = export_function(to), locate_model(source)
    check_ending(to, out)
    file = open_onnx_source(path) if path.suffix == ".onnx" and not path.is_dir() else None
    chosen = checked_artifact_precision(precision or (file.info.precision if file else "fp32"))
    given = input_ or ("float32" if to == "deepstream" else file.info.input_type if file else "uint8")
    if given not in get_args(InputType):
        raise UsageError(f"unknown input type {given!r}: expected {', '.join(get_args(InputType))}")
    if given == "normalized" and to != "onnx":
        raise UsageError(f"normalized images are for trackers that open ONNX files: {to} takes uint8 or float32")
    profile = _batch_profile(batch) if batch else BatchProfile()
    for name, value in (("--batch", batch), ("--device", device)):
        if value is not None and to in ("onnx", "openvino"):
            raise UsageError(f"{name} is for engines and servers: a file for {to} takes any batch, on any device")
    if opset is not None and path.suffix.lower() == ".xml":
        raise UsageError("--opset is for ONNX files, which an OpenVINO file does not become")
    options = dict(parse_overrides(option or [])) | ({} if max_drop is None else {"max_drop": max_drop})
    quantizes = chosen in ("int8", "fp8") and not (file and file.is_quantized)
    if quantizes and calibration_data is None:
        raise UsageError(f"{chosen} needs calibration images: name a data set with --calibration-data [NAME=]DIR")
    of_quantization = {
        "--calibration-data": calibration_data,
        "--num-calibration": num_calibration,
        "--seed": seed,
        "--gray-bits": gray_bits,
        "--max-drop": max_drop,
    }
    if not quantizes and (given_too := [name for name, value in of_quantization.items() if value is not None]):
        why = f"{path} is {chosen} already" if file and file.is_quantized else f"{chosen} was asked for"
        raise UsageError(f"{', '.join(given_too)}: used only to make int8 and fp8 of floats, and {why}")
    if out.is_file() and not force:  # what a folder that is there means is the target's own matter
        raise UsageError(f"{out} is there already: give another name, or --force to replace it")

    set_gray_bits(gray_bits)
    model, preprocessing, metrics = (file, file.info.preprocessing, file.info.metrics) if file else _load(path, to)
    calibration = None
    if calibration_data is not None:
        calibration = _calibration(calibration_data, preprocessing, num_calibration or 512, seed or 0)
    request = ExportRequest(
        name=file.info.name if file else _name_of(path.resolve()),
        precision=chosen,
        input_type=cast("InputType", given),
        opset=opset,
        batch=profile,
        calibration=calibration,
        overwrite=force,
        device=device,
        options=options,
        metrics=metrics,
    )
    stderr.print(f"exporting to {to} in {chosen} ...")
    before = written_files(out)
    info = write(model, out, request)
    files = sorted(written_files(out, before), key=lambda written: (written != out, written))
    root = out if out.is_dir() else out.parent
    sizes = {str(written.relative_to(root)): written.stat().st_size for written in files}
    result = {"file": str(out), "target": to, "files": sizes, "artifact": config_to_dict(info)}
    emit(result, _table(result), as_json)


def _name_of(path: Path) -> str:
    """Return the name of a model by its place: a folder may have dots in its name, a file has an ending."""
    return path.name if path.is_dir() else path.stem


def _load(path: Path, to: str) -> tuple[HAT | AdoptedFile, Preprocessing, dict[str, Any]]:
    """Return what a checkpoint folder, a file of HAT's released code or an adopted OpenVINO file holds, and its metrics."""
    from hat.io.checkpoint import load_checkpoint, load_released_weights, read_checkpoint_info

    if path.suffix.lower() == ".xml":
        from .openvino.to_openvino import open_adopted

        file = open_adopted(path, to)
        return file, file.info.preprocessing, file.info.metrics
    stderr.print(f"loading {path}")
    if path.is_file() and path.suffix in (".pth", ".pt"):
        model, loaded = load_released_weights(path)
        stderr.print(loaded)
        return model, model.preprocessing, {}
    model = load_checkpoint(path)
    return model, model.preprocessing, read_checkpoint_info(path).metrics


def _calibration(spec: str, preprocessing: Preprocessing, num_images: int, seed: int) -> Calibration:
    from hat.data import open_dataset

    from .request import calibration_from

    dataset = open_dataset(spec)
    total = min(num_images, len(dataset.train))
    if total < num_images:
        stderr.print(f"{dataset.name} has {total} training images: all of them calibrate")
    with progress() as display:
        task = display.add_task(f"calibration images of {dataset.name}", total=total, info="")
        return calibration_from(dataset, preprocessing, num_images, seed, progress=lambda count: display.advance(task, count))


def _batch_profile(text: str) -> BatchProfile:
    from hat.io.artifact import BatchProfile

    try:
        smallest, optimum, largest = (int(part) for part in text.split(","))
        return BatchProfile(min=smallest, opt=optimum, max=largest)
    except ValueError:
        raise UsageError(f"--batch is MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, such as 1,8,32; got {text!r}") from None


def written_files(out: Path, before: dict[Path, int] | None = None) -> dict[Path, int]:
    """Return the files at a target's place, sidecars and a folder's content among them, with the ns of their last change.

    What has not changed since an earlier call returned ``before`` is left out: a neighbor with a sidecar's name, another model
    in the same repository.
    """
    files = sorted(out.rglob("*")) if out.is_dir() else [out]
    if not out.is_dir():
        files += [out.with_name(name.format(name=out.name, stem=out.stem)) for name in _SIDECARS]
    changed = {path: path.stat().st_mtime_ns for path in files if path.is_file()}
    return {path: time for path, time in changed.items() if (before or {}).get(path) != time}


def _table(result: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    info = result["artifact"]
    details = info["details"]
    rows = [("file", result["file"])]
    rows += [("", f"{name}: {size / 1e6:,.1f} MB") for name, size in result["files"].items()]
    rows.append(("precision built", info["precision"]))
    shown = {"opset": "opset", "num_quantized_layers": "quantized layers"}
    rows += [(label, details[key]) for key, label in shown.items() if key in details]
    if left_out := details.get("layers_left_out"):
        rows.append(("left out", "; ".join(f"{name} ({why})" for name, why in left_out.items())))
    engine = details.get("engine")  # of a folder for DeepStream it is a file's name
    plan = engine.get("plan", {}) if isinstance(engine, dict) else {}
    rows += [(key.replace("_", " "), value) for key, value in plan.items()]
    rows.append(("fingerprint", info["fingerprint"]))
    sensitivity = details.get("sensitivity")
    if not isinstance(sensitivity, dict) or "layers" not in sensitivity:
        return make_table(rows)
    where = f"where int8 costs most, on {sensitivity['num_images']} calibration images:"
    worst = sorted(sensitivity["layers"], key=lambda loss: -loss["mean"])[:_MAX_LOSSES]
    losses = [(x["layer"], f"{x['worst']:.2e}", f"{x['mean']:.2e}", "left out" if x["excluded"] else "") for x in worst]
    columns = ("layer", "loss alone, worst", "mean", "")
    return Group(make_table(rows), "", where, make_table(losses, columns, left=("layer", "")))
