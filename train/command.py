"""``hat train``: train a model from a preset and data sets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hat.commands.options import AsJson, Device, SkipBad, finite
from hat.console import emit, make_table, percent, stderr
from hat.errors import UsageError

if TYPE_CHECKING:
    from .config import TrainConfig
    from .trainer import TrainingResult

PRESETS = {
    "market1501": "the paper's (Sec. 4.2), hat_resnet50 at 256 x 128 for 150 epochs.",
    "dukemtmc": "the paper's, for DukeMTMC-reID.",
    "cuhk03": "the paper's, for CUHK03-NP.",
    "msmt17": "the paper's, for MSMT17.",
    "market1501-plus": "what public baselines added since: GeM, cosine, moving average, later backbone; for a GPU.",
    "market1501-edge-small": "hat_mobilenet_v2 at 192 x 96, 0.54 GFLOP, to learn from --teacher; for a GPU.",
    "market1501-edge": "hat_mobilenet_v2 at 256 x 128, 0.97 GFLOP, to learn from --teacher; for a GPU.",
    "market1501-edge-large": "hat_mobilenet_v4_medium (timm) at 256 x 128, 1.55 GFLOP, to learn from --teacher; for a GPU.",
    "market1501-cpu": "hat_mobilenet_v2 at 128 x 64 for 12 epochs, for two cores without a GPU.",
    "quick": "a minute or two on a small data set: a small HAT on ResNet-18 at 128 x 64 from random weights.",
}
"""The presets of `hat.train.presets` in words; here, since help is shown without the libraries that those need."""


def train(
    preset: Annotated[
        str,
        typer.Argument(help="\n\n".join(["Recipe.", *(f"{name}: {told}" for name, told in PRESETS.items())])),
    ],
    *,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Data set, DIR or NAME=DIR; repeat to train on several together.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; a checkpoint when training ends.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model name, such as hat_resnet50.")] = None,
    backbone_weights: Annotated[
        str | None, typer.Option("--backbone-weights", help="torchvision, timm, none, or a .safetensors or .pth file.")
    ] = None,
    initial_checkpoint: Annotated[
        str | None, typer.Option("--initial-checkpoint", help="Fine-tune this trained model.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option("--teacher", help="Distill from this model: a checkpoint or an exported file.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a configuration field: optim.lr=3e-4.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of overrides to the preset.")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the full configuration and exit.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the interrupted run in --out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out.")] = False,
    device: Device = "auto",
    gray_bits: Annotated[
        int | None, typer.Option("--gray-bits", help="Significant bits of 16-bit gray images; short for --set gray_bits=N.")
    ] = None,
    skip_bad: SkipBad = False,
    stop_after_s: Annotated[
        float | None,
        typer.Option(
            "--stop-after-s", callback=finite, help="Save the state and stop after this many seconds; continue with --resume."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Number of epochs; short for --set num_epochs=N.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on one or more data sets.

    Your own data: the layout of a public data set, one folder a person (DIR/NAME/*.jpg), Market-1501 file names
    (0001_c1s1_000001_00.jpg), or a table (CSV) with the columns path, pid, camid and split. See also hat eval --help.

    At the end the run folder is a checkpoint: the weights with the best mAP if eval.every_epochs is set, the last ones
    otherwise. --resume continues a run stopped by Ctrl-C, SIGTERM or --stop-after-s, and a killed one from its last saved
    state. For several GPUs or machines, start with torchrun -m hat train.

    Examples:

      hat train market1501 --data ~/data/Market-1501-v15.09.15 --out runs/market --backbone-weights torchvision

      hat train market1501 --data a=~/a --data b=~/b --out runs/both --backbone-weights resnet50.pth --set optim.lr=3e-4

      hat train market1501 --print-config

      hat train market1501 --data ~/data/market --out runs/market --backbone-weights torchvision --resume

      hat train market1501 --data ~/data/market --out runs/market --backbone-weights torchvision --stop-after-s 540 --resume

      hat train market1501 --data ~/data/own --out runs/own --initial-checkpoint runs/market --epochs 30

      hat train market1501-edge --data ~/data --out runs/edge --backbone-weights torchvision --teacher runs/market

      torchrun --nproc-per-node 8 -m hat train msmt17 --data ~/data/msmt17 --out runs/msmt --backbone-weights torchvision
    """
    named = {
        "model_name": model,
        "backbone_weights": backbone_weights,
        "initial_checkpoint": initial_checkpoint,
        "num_epochs": epochs,
        "distill": None if teacher is None else {"teacher": teacher},
        "gray_bits": gray_bits,
    }
    configuration = _compose(preset, config, set_ or [], named)
    if print_config:
        from hat.config import config_to_dict, config_to_yaml

        if as_json:
            emit(config_to_dict(configuration), "", as_json=True)
        else:
            sys.stdout.write(config_to_yaml(configuration))
        return
    if not data:
        raise UsageError("training needs images: give --data DIR or --data NAME=DIR")
    if out is None:
        raise UsageError("a run needs a folder: give --out, such as --out runs/first")

    from hat.data import open_dataset

    from .trainer import train_model

    datasets = [open_dataset(spec, skip_missing=skip_bad) for spec in data]
    result = train_model(
        configuration, datasets, out, device=device, resume=resume, force=force, skip_bad=skip_bad, stop_after_s=stop_after_s
    )
    _report(result, as_json)


def _compose(preset: str, file: Path | None, assignments: list[str], named: dict[str, Any]) -> TrainConfig:
    from hat.config import merge, parse_overrides

    from .presets import compose_config, preset_differences, read_config_file

    layers: list[tuple[str, dict[str, Any]]] = [(f"preset {preset}", preset_differences(preset))]
    if file is not None:
        layers.append((str(file), read_config_file(file)))
    options = {key: value for key, value in named.items() if value is not None}
    changes = merge(options, parse_overrides(assignments))
    epochs = named["num_epochs"]
    if epochs is not None and "warmup_epochs" not in changes.get("schedule", {}):
        recipe = compose_config(layers)
        if recipe.schedule.warmup_epochs >= epochs > 0:
            # A run this short would end before its warm-up does: it keeps the share that it has in the recipe.
            warmup = round(recipe.schedule.warmup_epochs * epochs / recipe.num_epochs, 4)
            stderr.print(f"the warm-up of {recipe.schedule.warmup_epochs:g} epochs is shortened to {warmup:g}, as the run is")
            changes = merge(changes, {"schedule": {"warmup_epochs": warmup}})
    layers.append(("", changes))
    return compose_config(layers)


def _report(result: TrainingResult, as_json: bool) -> None:
    if int(os.environ.get("RANK", "0")) != 0:
        return  # torchrun shows what all processes print
    rate = result.num_images / max(result.seconds, 1e-9)
    plain = {name: getattr(result, name) for name in ("num_steps", "num_images", "metrics", "best", "stopped")}
    plain |= {"folder": str(result.folder), "seconds": round(result.seconds, 3), "images_per_s": round(rate, 1)}
    rows = [
        ("checkpoint" if result.stopped is None else "unfinished run", result.folder),
        ("steps", result.num_steps),
        ("time", f"{result.seconds:.0f} s, {rate:.0f} images/s"),
        *((name, f"{value:.4f}") for name, value in result.metrics.items()),
    ]
    best = result.best or {}
    rows += [(f"best {name}", f"{value:.0f}" if name == "epoch" else percent(value)) for name, value in best.items()]
    emit(plain, make_table(rows), as_json)
